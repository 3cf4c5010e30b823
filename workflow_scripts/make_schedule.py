"""Count the steps of every stage."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.artifact import Manifest, write_json
from eagle3.config.train import Train
from eagle3.tokens.schedule import KIND, Documents, build_schedule, supervised_share
from eagle3.tokens.shards import read_each
from eagle3.tokens.stages import Stages
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--tokens", action=entry.Files, nargs="+", required=True)
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    values, digest = given.settings.values, given.settings.upstream["tokens"]
    manifests: list[Manifest] = []
    documents = Documents.of(read_each(given.tokens, digest, manifests))
    train, window = Train.from_settings(values["train"]), values["hidden_states"]["window_shards"]
    stages = Stages(len(manifests), window, train.epochs, train.epochs_per_stage)
    schedule = build_schedule(documents, train, stages)
    share = supervised_share([each.counts for each in manifests])
    inputs = {f"tokens-{i}": each.content_sha256 for i, each in enumerate(manifests)}
    write_json(given.out, schedule, Manifest.of(KIND, given.settings, inputs))
    logging.info(
        "%d documents, %.1f %% of their tokens supervised, %d steps in %d stages",
        schedule["documents"],
        100 * share,
        schedule["total_steps"],
        len(schedule["stages"]),
    )


entry.run(main)
