"""Run the target over one token shard and store the states that training reads."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from eagle3.features.capture import capture
from eagle3.features.shards import write_feature_shard
from eagle3.target.files import load_config, resolve_target
from eagle3.target.hf import HFTarget
from eagle3.target.layers import aux_layers
from eagle3.target.reader import TargetWeights, read_head
from eagle3.tokens.shards import read_token_shard
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--tokens", type=Path, required=True)
    args.add_argument("--target", required=True)
    args.add_argument("--device", required=True)
    args.add_argument("--threads", type=int, required=True)
    args.add_argument("--batch-tokens", type=int, required=True)
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    torch.set_num_threads(given.threads)
    values, target = given.settings.values["hidden_states"], given.settings.values["target"]
    tokens = read_token_shard(given.tokens, given.settings.upstream["tokens"])
    directory = resolve_target(given.target, target["revision"])
    config = load_config(directory, target["trust_remote_code"])
    layers = aux_layers(values["aux_layers"], config.num_hidden_layers)
    engine = HFTarget.load(
        directory, layers, target["dtype"], given.device, target["trust_remote_code"]
    )
    head = read_head(
        TargetWeights(directory), config, target["lm_head_key"], target["embedding_key"]
    ).to(engine.device, engine.dtype)
    states = capture(engine, head, tokens, values["codec"], given.batch_tokens)
    manifest = write_feature_shard(given.out, states, tokens, given.settings)
    logging.info("%s from layers %s", manifest.counts, layers)


entry.run(main)
