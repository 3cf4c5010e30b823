"""Count the steps of every stage."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.artifact import Manifest, write_json
from eagle3.tokens.packing import PackingSettings
from eagle3.tokens.schedule import KIND, Documents, build_schedule, supervised_share
from eagle3.tokens.shards import read_token_shard
from eagle3.tokens.stages import Stages
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--tokens", action=entry.Files, nargs="+", required=True)
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    values, digest = given.settings.values, given.settings.upstream["tokens"]
    shards = [read_token_shard(path, digest) for path in given.tokens]
    train, window = values["train"], values["hidden_states"]["window_shards"]
    stages = Stages(len(shards), window, train["epochs"], train["epochs_per_stage"])
    schedule = build_schedule(Documents.of(shards), PackingSettings.of(train), stages)
    share = supervised_share(shards)
    inputs = {f"tokens-{i}": shard.manifest.content_sha256 for i, shard in enumerate(shards)}
    write_json(given.out, schedule, Manifest.of(KIND, given.settings, inputs))
    logging.info(
        "%d documents, %.1f %% of their tokens supervised, %d steps in %d stages",
        schedule["documents"],
        100 * share,
        schedule["total_steps"],
        len(schedule["stages"]),
    )


entry.run(main)
