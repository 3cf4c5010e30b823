"""Check the states of another project against the target, and write the index of its documents."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from eagle3.capture.job import CaptureJob, Placement
from eagle3.config.tokens import Tokens
from eagle3.errors import UserError
from eagle3.files.artifact import Manifest, write_json
from eagle3.imports.index import KIND, open_files, write_index
from eagle3.imports.job import bad_rows, check_complete, check_sample, expected_of
from eagle3.imports.listing import KEY, PEERS, list_files
from eagle3.imports.masks import answers_of_target
from eagle3.imports.source_check import Sample, check_masks
from eagle3.imports.split import check_counts, ordered
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    torch.set_num_threads(job.threads)
    run, settings = job.run, job.settings("dataset")
    source, dataset = run.states_from, run.config.dataset
    listing = list_files(source.kind, Path(source.place))
    if listing.digest not in source.digest:
        raise UserError(f"{KEY}: files of {source.place} have changed since the run was planned")
    values = settings.values["dataset"]
    order, held_out = ordered(listing.numbers, values["seed"], values["eval_fraction"])
    names = dict(zip(listing.numbers.tolist(), listing.names, strict=True))
    files = open_files(source.kind, listing.folder, names, source.dataset)
    rows = getattr(files, "rows", None)  # of the dataset that speculators keeps masks in
    row_count = None if rows is None else len(rows)
    missing = check_complete(source.kind, listing, row_count, dataset.max_bad_fraction)
    check_counts(held_out, dataset.num_samples)
    target = job.target_folder()
    capture = CaptureJob(settings, Path(), target, job.adapter)
    sample = Sample.of(files, listing.numbers, expected_of(capture))
    tokens, section = Tokens.from_settings(settings.values["tokens"]), capture.section
    answers = answers_of_target(target, capture.config, tokens, section["trust_remote_code"])
    fit = None
    if settings.values["hidden_states"]["source"]["check_template"]:
        fit = check_masks(sample, answers)
    resources = run.config.resources
    placement = Placement(resources.device, 1, resources.capture)
    errors = check_sample(capture, sample, files.normed, placement)
    eval_rows = int(held_out.sum())
    report = {
        "source": f"{PEERS[source.kind]} ({source.name})",
        "rows_read": len(listing),
        "valid": len(listing),
        "splits": {"train": len(listing) - eval_rows, "eval": eval_rows},
        "sources": {source.name: {"read": len(listing), "valid": len(listing), "commits": []}},
        "rejected": {"no file of this document": missing} if missing else {},
        "repaired": {},
        "first_rejected": bad_rows(sample.bad),
        "sample": {"documents": len(sample.documents), "errors": errors}
        | ({"masks": vars(fit)} if fit else {}),
    }
    manifest = Manifest.of(KIND, settings, {"rows": listing.digest}, {"valid": len(listing)})
    index = write_index(Path(run.paths.import_index), listing, order, held_out, manifest)
    write_json(Path(run.paths.rows_report), report, index)
    logging.info(
        "%d documents of %s; %d sampled, relative errors to a plain pass %s; masks %s",
        len(listing),
        report["source"],
        len(sample.documents),
        {name: round(error, 5) for name, error in errors.items()},
        vars(fit) if fit else "not compared with the template",
    )


if __name__ == "__main__":
    entry.start(main, __doc__)
