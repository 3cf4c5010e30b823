"""Take token ids and loss masks of one shard from files of another project."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from eagle3.capture.job import CaptureJob
from eagle3.config.tokens import Tokens
from eagle3.data.conversations import BadRow, Conversation
from eagle3.imports.index import files_of_shard
from eagle3.imports.job import expected_of
from eagle3.imports.masks import answers_of_target, sentence, tokenized, total
from eagle3.target_model.files import check_length
from eagle3.tokens.shards import Masked, write_token_shard
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, paths, settings = job.run, job.run.paths, job.settings("tokens")
    index, files, numbers = files_of_shard(run, job.split, job.shard)
    target, trust_remote_code = (
        job.target_folder(weights=False),
        run.config.target.trust_remote_code,
    )
    capture, values = CaptureJob(job.settings("dataset"), Path(), target), settings.values["tokens"]
    expected, config = expected_of(capture), capture.config
    check_length(values["max_length"], config.max_position_embeddings)
    answers = answers_of_target(target, config, Tokens.from_settings(values), trust_remote_code)
    fits = []

    def masked(rows: Iterable[Conversation]) -> Iterator[Masked]:
        for row in rows:
            try:
                document = files.read(int(row.id))
                expected.check(document)
                tokens, fit = tokenized(
                    row.id, document, answers, values["max_length"], values["train_only_last_turn"]
                )
            except BadRow as fault:
                yield row, fault
                continue
            fits.append(fit)
            yield row, [tokens]

    rows = (Conversation(str(number), []) for number in numbers)
    inputs = {"dataset": index.manifest.inputs["rows"]}
    out, max_bad = Path(paths.tokens(job.split, job.shard)), run.config.dataset.max_bad_fraction
    manifest = write_token_shard(out, rows, masked, settings, inputs, max_bad)
    logging.info("%s", manifest.counts)
    fit = total(fits)
    if not fit.alike:
        logging.warning("only %s", sentence(fit))


if __name__ == "__main__":
    entry.start(main, __doc__)
