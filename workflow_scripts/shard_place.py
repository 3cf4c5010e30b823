"""The location of a job's shard of hidden states, and a check of the disk space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eagle3.capture.job import CaptureJob
from eagle3.files.object_storage import is_object, upload
from eagle3.store.byte_source import Address, address
from eagle3.store.disk_space import Need, check_space, planned_bytes
from eagle3.store.windows import drop_other_windows
from workflow_scripts import entry


@dataclass(frozen=True)
class ShardPlace:
    """The files of a shard of states."""

    out: Address
    local: Path  # the same, or the shard's path before its upload
    check: Path

    @classmethod
    def of(cls, job: entry.Job) -> ShardPlace:
        paths, which = job.run.paths, (job.split, job.shard, job.stage)
        check = Path(paths.states_check(*which))
        out = address(job.run.stored(paths.states(*which)))
        # before its upload, a shard is next to its check
        local = check.parent / Path(paths.states(*which)).name if is_object(out) else Path(out)
        return cls(out, local, check)

    def upload(self) -> None:
        """Move the shard to object storage, if it belongs there."""
        if is_object(self.out):
            try:
                upload(self.local, str(self.out))
            finally:
                self.local.unlink()


def make_room(job: entry.Job, shard: CaptureJob, local: Path) -> None:
    """Remove old windows in rolling mode, then raise UserError if the states do not fit."""
    run, resources, stage = job.run, job.run.config.resources, job.stage or None
    if stage is not None and not resources.storage_prefix:
        drop_other_windows(local.parent.parent, stage)
    planned: tuple[dict[str, int], dict[str, int]] = {}, {}
    # the plan covers training shards; held-out ones are extra
    if job.split == "train" and not resources.storage_prefix:
        planned = planned_bytes(Path(run.paths.plan), shard.settings, run.stages.shards)
    need = Need(planned[0], run.stages, rolling=stage is not None, held_out=planned[1])
    budget = None if resources.storage_prefix else resources.disk_budget_gb
    check_space(need, local, shard.expected_bytes(), stage, budget)
