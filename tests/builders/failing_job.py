"""A job that fails as it is told to, in one rank, while the others wait for it.

python -m tests.builders.failing_job FAULT RANK   (FAULT: a number of errno, or a name below)
"""

from __future__ import annotations

import os
import signal
import sys

import torch.distributed as dist

from eagle3.errors import UserError
from eagle3.parallel.ranks import joined_ranks
from workflow_scripts import ending


def fail(fault: str) -> None:
    if fault == "sentence":
        raise UserError("this is why")
    if fault == "bug":
        raise ZeroDivisionError("a fault of the code")
    if fault == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(int(fault), os.strerror(int(fault)), "some/file")


def main() -> None:
    fault, rank = sys.argv[1:]
    with joined_ranks("cpu") as ranks:
        if dist.is_initialized():
            dist.barrier()
        if ranks.rank == int(rank):
            fail(fault)
        ranks.barrier()  # which never comes


if __name__ == "__main__":
    ending.run(main)
