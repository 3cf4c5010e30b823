"""Refer to a shard of hidden states that another run has captured under the same settings."""

from __future__ import annotations

from pathlib import Path

from eagle3.imports.shared import share
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    paths, which = job.run.paths, (job.split, job.shard)
    tokens = Path(paths.tokens(*which))
    share(
        job.run,
        job.settings("hidden_states"),
        tokens,
        paths.states(*which),
        paths.states_check(*which),
    )


if __name__ == "__main__":
    entry.start(main, __doc__)
