"""Leases of GPUs: jobs of one machine never share a device by accident.

Each job has one file in a folder that all users share. It lists the keys of the devices that the
job wants or holds, and an exclusive flock marks the job as alive. The lock belongs to the open
file, and the open file is the job's standard input, the only descriptor except its output that
every child inherits (torchrun, like any `subprocess`, closes all others). So a device stays leased
as long as any process of the job lives, orphans included, and is free when the last one dies,
however it dies. Files are numbered in the order of arrival: no job takes a device that an earlier
one waits for, so a job that needs many devices is not starved by small ones.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from eagle3.errors import UserError
from eagle3.parallel.gpus import Gpu

FOLDER = "EAGLE3_GPU_LEASES"  # environment variable: where leases lie
DEFAULT = "/tmp/eagle3-gpus"  # noqa: S108 - containers and users of a machine share it
PAUSE, REMIND = 0.2, 60.0  # seconds between looks, and between log lines


@dataclass(frozen=True)
class LeasingJob:
    """One living job's file."""

    number: int
    wants: list[str]
    holds: list[str]
    process: int
    name: str


def lease(gpus: Sequence[Gpu], count: int, name: str, environment: Mapping[str, str]) -> list[Gpu]:
    """Hold `count` of `gpus` for this process and its children; all of them or none.

    Waits while too few are free, and logs which jobs hold them. Afterwards this process's standard
    input is the lease. Raises UserError for more devices than there are.
    """
    if count > len(gpus):
        raise UserError(
            f"{name} asks for {count} GPUs, but there are {len(gpus)} "
            f"({', '.join(gpu.name for gpu in gpus) or 'no nvidia-smi, no CUDA_VISIBLE_DEVICES'}): "
            "lower resources.capture.tensor_parallel or resources.train.processes, or set "
            "resources.device to cpu"
        )
    queue = _folder(Path(environment.get(FOLDER, DEFAULT))) / "queue"
    wants = [gpu.key for gpu in gpus]
    with _queue_lock(queue):
        _living(queue)  # removes files of dead jobs
        number = max((int(path.name) for path in queue.iterdir()), default=0) + 1
        descriptor = os.open(queue / f"{number:09d}", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.fchmod(descriptor, 0o644)  # others open it to see whether its lock is free
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        leasing = LeasingJob(number, wants, [], os.getpid(), name)
        _write(descriptor, leasing)
    reminded = float("-inf")
    while True:
        with _queue_lock(queue):
            others = [job for job in _living(queue) if job.number != number]
            taken = {key for job in others for key in job.holds}
            earlier = [job for job in others if job.number < number and not job.holds]
            promised = {key for job in earlier for key in job.wants}
            free = [gpu for gpu in gpus if gpu.key not in taken | promised][:count]
            if len(free) == count:
                held_keys = [gpu.key for gpu in free]
                _write(descriptor, LeasingJob(number, wants, held_keys, leasing.process, name))
                break
        if time.monotonic() - reminded > REMIND:
            reminded = time.monotonic()
            _report_wait(gpus, count, others)
        time.sleep(PAUSE)
    if descriptor:  # else standard input was closed, and the file already replaces it
        os.dup2(descriptor, 0)
        os.close(descriptor)
    os.set_inheritable(0, True)
    return free


def _folder(folder: Path) -> Path:
    """Create the folder, usable by everybody like /tmp, and protect it from cleaners of old
    files."""
    old_umask = os.umask(0)
    try:
        for path in (folder, folder / "queue"):
            with suppress(FileExistsError):
                path.mkdir(mode=0o1777)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as fault:
        raise UserError(
            f"leases of GPUs cannot be stored in {folder} ({fault.strerror}): set {FOLDER} to a "
            "folder on a local disk that all users of this machine share"
        ) from None
    finally:
        os.umask(old_umask)
    # systemd-tmpfiles leaves a locked folder alone, and a job may be older than it allows
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.set_inheritable(descriptor, True)
    return folder


@contextmanager
def _queue_lock(queue: Path) -> Iterator[None]:
    """Exclusive access to the queue."""
    descriptor = os.open(queue, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _living(queue: Path) -> list[LeasingJob]:
    """Jobs whose file is locked; files of dead jobs are removed if this user may do so."""
    jobs = []
    for path in queue.iterdir():
        # not created: opening another user's file to create it is refused in a sticky folder
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with suppress(PermissionError):
                path.unlink()
        except BlockingIOError:
            jobs.append(LeasingJob(**json.loads(os.pread(descriptor, 2**16, 0))))
        finally:
            os.close(descriptor)
    return jobs


def _write(descriptor: int, job: LeasingJob) -> None:
    """Replace the file's content; readers wait for `_queue_lock`."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(job)).encode(), 0)


def _report_wait(gpus: Sequence[Gpu], count: int, others: Sequence[LeasingJob]) -> None:
    """Log the devices that this job waits for, and the jobs that have them."""
    keys = {gpu.key for gpu in gpus}
    holders = [
        f"process {job.process} ({job.name}) {'holds' if job.holds else 'waits for'} "
        f"{', '.join(job.holds) or 'some'}"
        for job in sorted(others, key=lambda job: job.number)
        if keys & set(job.holds or job.wants)
    ]
    names = ", ".join(gpu.name for gpu in gpus)
    logging.info("waiting for %d of the GPUs %s: %s", count, names, "; ".join(holders))
