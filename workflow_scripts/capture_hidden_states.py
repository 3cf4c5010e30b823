"""Run the target over one token shard and store the states that training reads."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

import torch

from eagle3.capture.job import CaptureJob, Placement, capture_shard, write_check
from eagle3.files.artifact import atomic_path
from eagle3.files.object_storage import is_object, upload
from eagle3.parallel.ranks import joined_ranks
from eagle3.store.byte_source import address
from eagle3.store.disk_space import Need, check_space, planned_bytes
from eagle3.store.windows import drop_other_windows
from eagle3.training.gpu import check_gpu
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, paths, settings = job.run, job.run.paths, job.settings("hidden_states")
    resources, which = run.config.resources, (job.split, job.shard, job.stage)
    tokens, check = Path(paths.tokens(job.split, job.shard)), Path(paths.states_check(*which))
    out = address(run.stored(paths.states(*which)))
    # a shard that is to be uploaded lies next to its check until then
    local = check.parent / Path(paths.states(*which)).name if is_object(out) else Path(out)
    shard = CaptureJob(settings, tokens, job.target_folder(), job.adapter)
    placement = Placement(resources.device, job.threads, resources.capture)
    with joined_ranks(resources.device) as ranks:
        torch.set_num_threads(max(job.threads // ranks.world, 1))
        if ranks.first:
            _check_space(job, shard, local)
            # what only training needs is missed now, not after hours of captures
            if job.shard == 0 and run.config.hidden_states.backend == "hf":
                check_gpu(ranks.device, run.config.train.precision)
        else:
            logging.disable(logging.INFO)
        with atomic_path(local) if ranks.first else nullcontext() as path:
            cosines = capture_shard(shard, path, placement, ranks)
        if ranks.first:
            write_check(check, settings, local, cosines)
            if is_object(out):
                try:
                    upload(local, str(out))
                finally:
                    local.unlink()


def _check_space(job: entry.Job, shard: CaptureJob, local: Path) -> None:
    """In rolling mode make room first; then raise UserError if the states do not fit."""
    run, resources, stage = job.run, job.run.config.resources, job.stage or None
    if stage is not None and not resources.storage_prefix:
        drop_other_windows(local.parent.parent, stage)
    planned: tuple[dict[str, int], dict[str, int]] = {}, {}
    # the plan is of the shards of training; held-out ones are extra
    if job.split == "train" and not resources.storage_prefix:
        planned = planned_bytes(Path(run.paths.plan), shard.settings, run.stages.shards)
    need = Need(planned[0], run.stages, rolling=stage is not None, held_out=planned[1])
    budget = None if resources.storage_prefix else resources.disk_budget_gb
    check_space(need, local, shard.expected_bytes(), stage, budget)


if __name__ == "__main__":
    entry.start(main, __doc__)
