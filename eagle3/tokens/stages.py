"""Stages: which shards each stage of training reads, and how often.

    shards          0 1 2 3 4        window_shards 2, epochs 4, epochs_per_stage 2
    windows        [0 1|2 3|4]
    stage           1   2   3        epochs 0 1 of each window
                    4   5   6        epochs 2 3 of each window

A stage is one job and one checkpoint: it passes `epochs_per_stage` times over one window of shards.
Everything here follows from the configuration, so the whole DAG is known before any job runs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stages:
    """Stages are numbered from 1, shards and epochs from 0."""

    shards: int
    window_shards: int
    epochs: int
    epochs_per_stage: int

    @property
    def windows(self) -> int:
        """Windows in one pass over all shards; the last may be smaller."""
        return max(-(-self.shards // self.window_shards), 1)

    @property
    def count(self) -> int:
        """Stages of the run."""
        return -(-self.epochs // self.epochs_per_stage) * self.windows

    @property
    def numbers(self) -> range:
        return range(1, self.count + 1)

    def shards_of(self, stage: int) -> range:
        """Shards of a stage's window."""
        first = (stage - 1) % self.windows * self.window_shards
        return range(first, min(first + self.window_shards, self.shards))

    def epochs_of(self, stage: int) -> range:
        """Epochs of the run that a stage trains on its window."""
        first = (stage - 1) // self.windows * self.epochs_per_stage
        return range(first, min(first + self.epochs_per_stage, self.epochs))

    def first_reader(self, shard: int) -> int:
        """The first stage that reads a shard."""
        return 1 + shard // self.window_shards
