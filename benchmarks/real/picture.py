"""The picture of docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAMES = {"vllm": "vLLM", "sglang": "SGLang"}


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Time per token of every server, with its range."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "results"  # the same picture has the same bytes
    engines: Sequence[Mapping[str, Any]] = result["served"]
    figure, every = plt.subplots(1, len(engines), figsize=(4.5 * len(engines), 3.2), squeeze=False)
    for axes, engine in zip(every[0], engines, strict=True):
        rows = engine["rows"]
        values = [row["ms_per_token"] for row in rows]
        heights = [value["median"] for value in values]
        below = [value["median"] - value["least"] for value in values]
        above = [value["most"] - value["median"] for value in values]
        colors = ["#2f5d9b" if row["drafts"] else "#b8c4d6" for row in rows]
        places = range(len(rows))
        axes.bar(places, heights, color=colors, yerr=[below, above], capsize=3)
        words = [f"{row['drafts']} drafts" if row["drafts"] else "alone" for row in rows]
        pairs = zip(words, rows, strict=True)
        labels = [f"{word}\n{row['concurrency']} at a time" for word, row in pairs]
        axes.set_xticks(places, labels, fontsize=7)
        axes.set_title(NAMES.get(engine["engine"], engine["engine"]), loc="left", fontsize=10)
        axes.set_ylabel("ms per token", fontsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
