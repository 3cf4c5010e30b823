"""Convert the states of one shard from files of another project."""

from __future__ import annotations

from pathlib import Path

import torch

from eagle3.capture.job import CaptureJob, Placement, write_check
from eagle3.files.artifact import atomic_path
from eagle3.imports.index import files_of_shard
from eagle3.imports.job import import_shard
from eagle3.parallel.ranks import joined_ranks
from workflow_scripts import entry
from workflow_scripts.shard_place import ShardPlace, make_room


def main(job: entry.Job) -> None:
    run, settings = job.run, job.settings("hidden_states")
    resources, place = run.config.resources, ShardPlace.of(job)
    _, files, _ = files_of_shard(run, job.split, job.shard)
    tokens = Path(run.paths.tokens(job.split, job.shard))
    capture = CaptureJob(settings, tokens, job.target_folder(), job.adapter)
    placement = Placement(resources.device, job.threads, resources.capture)
    torch.set_num_threads(job.threads)
    with joined_ranks(resources.device) as ranks:
        make_room(job, capture, place.local)
        with atomic_path(place.local) as path:
            cosines = import_shard(capture, files, path, placement, ranks.device)
        write_check(place.check, settings, place.local, cosines)
        place.upload()


if __name__ == "__main__":
    entry.start(main, __doc__)
