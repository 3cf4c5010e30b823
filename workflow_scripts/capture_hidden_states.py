"""Run the target over one token shard and store the states that training reads."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

import torch

from eagle3.capture.job import CaptureJob, Placement, capture_shard, write_check
from eagle3.engines.table import ENGINES
from eagle3.files.artifact import atomic_path
from eagle3.parallel.ranks import joined_ranks
from eagle3.training.gpu import check_gpu
from workflow_scripts import entry
from workflow_scripts.shard_place import ShardPlace, make_room


def main(job: entry.Job) -> None:
    run, settings = job.run, job.settings("hidden_states")
    resources, place = run.config.resources, ShardPlace.of(job)
    tokens = Path(run.paths.tokens(job.split, job.shard))
    shard = CaptureJob(settings, tokens, job.target_folder(), job.adapter)
    placement = Placement(resources.device, job.threads, resources.capture)
    with joined_ranks(resources.device) as ranks:
        torch.set_num_threads(max(job.threads // ranks.world, 1))
        if ranks.first:
            make_room(job, shard, place.local)
            # a GPU that cannot train is reported now, not after hours of captures
            if job.shard == 0 and ENGINES[shard.backend].in_job:
                check_gpu(ranks.device, run.config.train.precision)
        else:
            logging.disable(logging.INFO)
        with atomic_path(place.local) if ranks.first else nullcontext() as path:
            cosines = capture_shard(shard, path, placement, ranks)
        if ranks.first:
            write_check(place.check, settings, place.local, cosines)
            place.upload()


if __name__ == "__main__":
    entry.start(main, __doc__)
