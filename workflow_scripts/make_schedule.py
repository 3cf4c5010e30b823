"""Count the steps of every stage."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.config.train import Train
from eagle3.files.artifact import Manifest, write_json
from eagle3.tokens.schedule import KIND, Documents, build_schedule, supervised_share
from eagle3.tokens.shards import read_token_shards, token_inputs, token_manifests
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, settings = job.run, job.settings("schedule")
    paths, tokens = run.token_shards(), settings.upstream["tokens"]
    train = Train.from_settings(settings.values["train"])
    schedule = build_schedule(Documents.of(read_token_shards(paths, tokens)), train, run.stages)
    manifests = token_manifests(paths, tokens)
    share = supervised_share([manifest.counts for manifest in manifests])
    manifest = Manifest.of(KIND, settings, token_inputs(manifests))
    write_json(Path(run.paths.schedule), schedule, manifest)
    logging.info(
        "%d documents, %.1f %% of their tokens supervised, %d steps in %d stages",
        schedule["documents"],
        100 * share,
        schedule["total_steps"],
        len(schedule["stages"]),
    )


if __name__ == "__main__":
    entry.start(main, __doc__)
