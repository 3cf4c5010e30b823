"""Tokenise the rows of one shard and mark what the target itself emits."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.config.tokens import Tokens
from eagle3.data.masks import Masker
from eagle3.data.regeneration import read_answers
from eagle3.data.rows import Dataset, check_enough
from eagle3.target.config import load_config, stop_ids
from eagle3.target.files import check_length, resolve_target
from eagle3.target.tokenizer import load_tokenizer
from eagle3.tokens.shards import write_token_shard
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--dataset", type=Path, required=True, help="folder of rows.jsonl")
    args.add_argument("--target", required=True, help="directory, or hub:<owner>/<name>")
    args.add_argument("--split", required=True)
    args.add_argument("--shard", type=int, required=True)
    args.add_argument("--want", type=int, required=True, help="training rows this run needs")
    args.add_argument("--max-bad-fraction", type=float, required=True)
    args.add_argument("--answers", type=Path, nargs=2, help="rows answered anew, their report")
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    tokens = Tokens.from_settings(given.settings.values["tokens"])
    target = given.settings.values["target"]
    above = given.settings.upstream
    dataset = Dataset(given.dataset, given.split, above.get("dataset"))
    if given.split == "train":
        check_enough(len(dataset), given.want)
    directory = resolve_target(given.target, target["revision"], weights=False)
    trusted = target["trust_remote_code"]
    config, tokenizer = load_config(directory, trusted), load_tokenizer(directory, trusted)
    check_length(tokens.max_length, config.max_position_embeddings)
    masker = Masker(tokenizer, tokens, stop_ids(directory, config))
    size = given.settings.values["dataset"]["shard_size"]
    if given.answers:
        answers, report = given.answers
        rows, checksum = read_answers(answers, report, above["regenerate"])
        inputs = {"answers": checksum}
    else:
        rows = dataset.read(given.shard * size, (given.shard + 1) * size)
        inputs = {"dataset": dataset.manifest.inputs["rows"]}
    manifest = write_token_shard(
        given.out, rows, masker, given.settings, inputs, given.max_bad_fraction
    )
    logging.info("%s", {k: v for k, v in manifest.counts.items() if k != "first_dropped"})


entry.run(main)
