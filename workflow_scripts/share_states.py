"""Refer to a shard of hidden states that another run has captured under the same settings."""

from __future__ import annotations

from eagle3.imports.shared import share
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    share(job.run, job.settings("hidden_states"), job.split, job.shard)


if __name__ == "__main__":
    entry.start(main, __doc__)
