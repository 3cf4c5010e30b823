"""torchrun without its failure report: the message of the failed rank comes last.

python -m workflow_scripts.torchrun OPTIONS_OF_TORCHRUN -m MODULE ARGUMENTS
"""

from __future__ import annotations

import logging
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from eagle3.errors import UserError
from workflow_scripts import ending


def main() -> None:
    logging.disable(logging.ERROR)  # pages on each signal, and a table of exit codes
    try:
        run.run(run.parse_args(None))
    except SignalException as ended:
        sys.exit(128 + ended.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:  # killed by a signal, so it printed nothing
            raise UserError(
                f"rank {rank} was ended by Signal {-failure.exitcode} ({failure.signal_name()})"
            ) from None
        sys.exit(1)


if __name__ == "__main__":
    ending.run(main)
