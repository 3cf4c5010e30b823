"""Count the steps of every stage."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.artifact import Manifest, write_json
from eagle3.tokens.packing import PackingSettings
from eagle3.tokens.schedule import KIND, Documents, build_schedule
from eagle3.tokens.shards import read_token_shard
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--tokens", type=Path, nargs="+", required=True)
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    digest = given.settings.upstream["tokens"]
    shards = [read_token_shard(path, digest) for path in given.tokens]
    packing = PackingSettings.of(given.settings.values["train"])
    schedule = build_schedule(Documents.of(shards), packing)
    inputs = {f"tokens-{i}": shard.manifest.content_sha256 for i, shard in enumerate(shards)}
    write_json(given.out, schedule, Manifest.of(KIND, given.settings, inputs))
    logging.info(
        "%d documents, %d steps in %d stages",
        schedule["documents"],
        schedule["total_steps"],
        len(schedule["stages"]),
    )


entry.run(main)
