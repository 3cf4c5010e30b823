"""Count the steps of every stage."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.artifact import Manifest, write_json
from eagle3.tokens.packing import PackingSettings
from eagle3.tokens.schedule import KIND, Documents, build_schedule
from eagle3.tokens.shards import read_each
from eagle3.tokens.stages import Stages
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--tokens", action=entry.Files, nargs="+", required=True)
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    values, digest = given.settings.values, given.settings.upstream["tokens"]
    checksums: list[str] = []
    documents = Documents.of(read_each(given.tokens, digest, checksums))
    train, window = values["train"], values["hidden_states"]["window_shards"]
    stages = Stages(len(checksums), window, train["epochs"], train["epochs_per_stage"])
    schedule = build_schedule(documents, PackingSettings.of(train), stages)
    inputs = {f"tokens-{i}": checksum for i, checksum in enumerate(checksums)}
    write_json(given.out, schedule, Manifest.of(KIND, given.settings, inputs))
    logging.info(
        "%d documents, %d steps in %d stages",
        schedule["documents"],
        schedule["total_steps"],
        len(schedule["stages"]),
    )


entry.run(main)
