"""Choose the draft vocabulary from the supervised tokens of all training shards."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from eagle3.files.artifact import Manifest, write_json
from eagle3.files.tensor_file import save_tensors
from eagle3.target_model.config import load_config, stop_ids
from eagle3.target_model.tokenizer import load_tokenizer
from eagle3.tokens import vocab
from eagle3.tokens.shards import read_token_shards, token_inputs, token_manifests
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, settings = job.run, job.settings("vocab")
    size = settings.values["vocab"]["draft_vocab_size"]
    directory, trusted = job.target_folder(weights=False), run.config.target.trust_remote_code
    config, tokenizer = load_config(directory, trusted), load_tokenizer(directory, trusted)
    paths, tokens = run.token_shards(), settings.upstream["tokens"]
    shards = read_token_shards(paths, tokens)
    counts = vocab.count_supervised(
        ((shard.input_ids, shard.loss_mask) for shard in shards), config.vocab_size
    )
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    mapping = vocab.build_mapping(counts, size, control | {*stop_ids(directory, config)})
    sizes, shares = vocab.coverage_curve(counts)
    report = {
        "draft_vocab_size": size,
        "target_vocab_size": config.vocab_size,
        "supervised_tokens": int(counts.sum()),
        "distinct_supervised": int(np.count_nonzero(counts)),
        "coverage": vocab.coverage(counts, mapping),
        "coverage_curve": {"sizes": sizes, "shares": shares},
    }
    manifest = Manifest.of(vocab.KIND, settings, token_inputs(token_manifests(paths, tokens)))
    save_tensors(Path(run.paths.vocab), {"d2t": mapping.d2t, "t2d": mapping.t2d}, manifest)
    write_json(Path(run.paths.vocab_report), report, manifest)
    logging.info("coverage %.4f with %d of %d tokens", report["coverage"], size, config.vocab_size)


if __name__ == "__main__":
    entry.start(main, __doc__)
