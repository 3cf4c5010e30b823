"""Tokenise the rows of one shard and mark the tokens that the target itself emits."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.config.tokens import Tokens
from eagle3.data.masks import Masker
from eagle3.data.regeneration import read_answers
from eagle3.data.rows import DatasetFile, check_enough
from eagle3.target_model.config import load_config, stop_ids
from eagle3.target_model.files import check_length
from eagle3.target_model.tokenizer import load_tokenizer
from eagle3.tokens.shards import write_token_shard
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, paths, settings = job.run, job.run.paths, job.settings("tokens")
    dataset = DatasetFile(Path(paths.dataset), job.split, settings.upstream.get("dataset"))
    if job.split == "train":
        check_enough(len(dataset), run.config.dataset.num_samples)
    directory, trusted = job.target_folder(weights=False), run.config.target.trust_remote_code
    config, tokenizer = load_config(directory, trusted), load_tokenizer(directory, trusted)
    tokens = Tokens.from_settings(settings.values["tokens"])
    check_length(tokens.max_length, config.max_position_embeddings)
    masker = Masker(tokenizer, tokens, stop_ids(directory, config))
    if run.regenerates:
        answers = Path(paths.answers(job.split, job.shard))
        report = Path(paths.answers_report(job.split, job.shard))
        rows, checksum = read_answers(answers, report, settings.upstream["regenerate"])
        inputs = {"answers": checksum}
    else:
        size = run.config.dataset.rows_of_shard(job.split)
        rows = dataset.read(job.shard * size, (job.shard + 1) * size)
        inputs = {"dataset": dataset.manifest.inputs["rows"]}
    out, max_bad = Path(paths.tokens(job.split, job.shard)), run.config.dataset.max_bad_fraction
    manifest = write_token_shard(out, rows, masker, settings, inputs, max_bad)
    logging.info("%s", {k: v for k, v in manifest.counts.items() if k != "first_dropped"})


if __name__ == "__main__":
    entry.start(main, __doc__)
