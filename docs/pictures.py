"""The picture of docs/parallelism.md, from the code that deals out rows.

python -m docs.pictures
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from eagle3.objective.sequence_parallel.sharding import deal_rows

ULYSSES, RING, STEPS = 2, 2, 7
RANKS = ULYSSES * RING
# two documents of one and two turns: prompts, and answers, whose rows are active
TURNS = [[(9, 15)], [(5, 11), (3, 9)]]
QUIET, ACTIVE, EMPTY, HEADS = "#b8c4d6", "#2f5d9b", "#f3f3f3", ["#d98e4a", "#5a9e6f"]


def active_rows() -> tuple[torch.Tensor, list[int]]:
    """bool [T], and where documents begin."""
    flags: list[bool] = []
    begins = []
    for turns in TURNS:
        begins.append(len(flags))
        for prompt, answer in turns:
            flags += [False] * prompt + [True] * answer
    return torch.tensor(flags), begins


def grid(axes: Axes, title: str, count: int, begins: list[int]) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlim(0, count)
    axes.set_ylim(RANKS, -0.35)
    axes.set_yticks(
        [rank + 0.5 for rank in range(RANKS)],
        [f"rank {rank}: ring {rank // ULYSSES}, ulysses {rank % ULYSSES}" for rank in range(RANKS)],
        fontsize=8,
    )
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    for number, begin in enumerate(begins):
        axes.text(begin + 0.1, -0.08, f"document {number}", fontsize=7)
        axes.plot([begin, begin], [0, RANKS], color="black", linewidth=1)


def bar(axes: Axes, first: int, stop: int, rank: float, color: str, height: float = 0.8) -> None:
    """Rows first..stop - 1 of a rank."""
    place = (first + 0.06, rank + 0.1)
    axes.add_patch(Rectangle(place, stop - first - 0.12, height, color=color, linewidth=0))


def main() -> None:
    mpl.rcParams["svg.hashsalt"] = "parallelism"
    flags, begins = active_rows()
    active, count = flags.nonzero().flatten(), len(flags)
    shards = deal_rows(active, count, RANKS, STEPS)
    figure, (held, seen) = plt.subplots(2, 1, figsize=(9.5, 4.6), layout="constrained")
    grid(held, "Rows of a pack that a rank reads from disk and computes", count, begins)
    grid(
        seen,
        "Keys and values that its attention reads at every step, exchanged once (usp)",
        count,
        begins,
    )
    for rank, shard in enumerate(shards):
        bar(held, 0, count, rank, EMPTY)
        for row in shard.rows.tolist():
            bar(held, row, row + 1, rank, ACTIVE if flags[row] else QUIET)
        half = rank % ULYSSES
        bar(seen, 0, count, rank, EMPTY)
        bar(seen, 0, count, rank + 0.4 * half, HEADS[half], 0.4)
    held.legend(
        handles=[
            Patch(color=ACTIVE, label="active: all TTT steps and the loss"),
            Patch(color=QUIET, label="prompt: keys and values of step 0 only"),
        ],
        loc="upper left",
        bbox_to_anchor=(0, -0.02),
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    seen.legend(
        handles=[
            Patch(color=color, label=f"heads of ulysses {number}")
            for number, color in enumerate(HEADS)
        ],
        loc="upper left",
        bbox_to_anchor=(0, -0.02),
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    target = Path(__file__).parent / "parallelism"
    figure.savefig(target.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
