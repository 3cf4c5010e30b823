"""Count the steps of every stage."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.config.train import Train
from eagle3.files.artifact import Manifest, write_json
from eagle3.tokens.schedule import KIND, Documents, build_schedule, supervised_share
from eagle3.tokens.shards import read_token_shards
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, settings = job.run, job.settings("schedule")
    manifests: list[Manifest] = []
    shards = read_token_shards(
        map(Path, run.token_shards()), settings.upstream["tokens"], manifests
    )
    train = Train.from_settings(settings.values["train"])
    schedule = build_schedule(Documents.of(shards), train, run.stages)
    share = supervised_share([manifest.counts for manifest in manifests])
    inputs = {f"tokens-{i}": manifest.content_sha256 for i, manifest in enumerate(manifests)}
    write_json(Path(run.paths.schedule), schedule, Manifest.of(KIND, settings, inputs))
    logging.info(
        "%d documents, %.1f %% of their tokens supervised, %d steps in %d stages",
        schedule["documents"],
        100 * share,
        schedule["total_steps"],
        len(schedule["stages"]),
    )


if __name__ == "__main__":
    entry.start(main, __doc__)
