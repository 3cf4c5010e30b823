"""Choose the stage with the best held-out acceptance, and copy its checkpoint for the export."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.errors import UserError
from eagle3.evaluation.acceptance import BEST, METRIC, choose
from eagle3.files.artifact import REMAKE, Manifest, atomic_path, part_of, read_json, write_json
from eagle3.files.tensor_file import read_manifest
from eagle3.store.byte_source import address, copy_file
from eagle3.training.checkpoint import MODEL, STATE, read_model
from eagle3.training.early_stop import SCORE
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, settings, out = job.run, job.settings("score"), job.out[0].parent
    scores = [Path(path) for path in run.stage_scores()]
    results = [read_json(path, SCORE, settings.digest, part_of(path)) for path in scores]
    choice = choose([figures for figures, _ in results])
    stage = choice["stage"]
    for name in (MODEL, STATE):
        with atomic_path(out / name) as path:
            copy_file(address(run.stored(run.paths.checkpoint(stage, name))), path)
    read_model(out, settings.upstream["train"], "np")  # checks the whole copy
    inputs = {"model": results[stage - 1][1].inputs["model"]}
    if read_manifest(out / MODEL, "checkpoint").content_sha256 != inputs["model"]:
        checkpoint = run.paths.checkpoint(stage)
        raise UserError(
            f"{scores[stage - 1]}: scores another checkpoint than {checkpoint}: {REMAKE}"
        )
    write_json(Path(run.paths.choice), choice, Manifest.of(BEST, settings, inputs))
    logging.info("stage %d of %d has the best %s", stage, len(results), METRIC)


if __name__ == "__main__":
    entry.start(main, __doc__)
