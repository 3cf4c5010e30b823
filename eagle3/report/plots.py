"""Plots as SVG text, for a page that needs nothing from outside."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.fonttype": "path",
        "svg.hashsalt": "eagle3",  # equal data gives equal bytes
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "font.size": 10,
    }
)

import matplotlib.pyplot as plt  # noqa: E402

INK, SECOND = "#1f5fa8", "#c4602a"


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.tight_layout()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue().split("?>", 1)[1].split(">", 1)[1]  # without XML head and doctype


def loss_curve(metrics: pd.DataFrame) -> str:
    """Training loss over steps, with its running mean and the epochs."""
    figure, axes = plt.subplots(figsize=(6.2, 3.1))
    axes.plot(metrics["step"], metrics["loss"], color=INK, alpha=0.35, linewidth=1, label="step")
    window = max(len(metrics) // 25, 1)
    smooth = metrics["loss"].rolling(window, min_periods=1).mean()
    axes.plot(metrics["step"], smooth, color=INK, linewidth=1.8, label=f"mean of {window}")
    for step in metrics.loc[metrics["epoch"].diff() > 0, "step"]:
        axes.axvline(step, color="0.75", linewidth=0.8, zorder=0)
    axes.set_xlabel("optimiser step (grey lines: epochs)")
    axes.set_ylabel("weighted loss")
    axes.legend(frameon=False)
    return _svg(figure)


def accuracy_curves(metrics: pd.DataFrame) -> str:
    """Accuracy of each training-time-test step over training."""
    figure, axes = plt.subplots(figsize=(6.2, 3.1))
    table = pd.DataFrame(metrics["accuracy_at"].tolist(), index=metrics["step"])
    table = table.rolling(max(len(table) // 25, 1), min_periods=1).mean()
    shades = mpl.colormaps["viridis"].resampled(len(table.columns) + 1)
    for k in table.columns:
        axes.plot(table.index, table[k], color=shades(k), linewidth=1.5, label=f"{k}")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("draft argmax = target argmax")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, title="TTT step", ncols=len(table.columns), fontsize=8)
    return _svg(figure)


def acceptance_bars(per_position: Sequence[float]) -> str:
    """Share of verify passes whose first i drafts were all accepted."""
    figure, axes = plt.subplots(figsize=(6.2, 3.1))
    positions = range(1, len(per_position) + 1)
    bars = axes.bar(positions, per_position, color=INK, width=0.6)
    axes.bar_label(bars, labels=[f"{value:.2f}" for value in per_position], padding=2)
    axes.set_xticks(list(positions))
    axes.set_xlabel("draft position")
    axes.set_ylabel("accepted up to here")
    axes.set_ylim(0, 1.05)
    return _svg(figure)


def coverage(curve: dict[str, list[float]], size: int, share: float) -> str:
    """Supervised tokens covered by the most frequent tokens."""
    figure, axes = plt.subplots(figsize=(6.2, 3.1))
    axes.plot(curve["sizes"], curve["shares"], color=INK, linewidth=1.8)
    axes.plot([size], [share], "o", color=SECOND)
    axes.annotate(
        f"{size:,} tokens cover {share:.2%}",
        (size, share),
        xytext=(8, -18),
        textcoords="offset points",
        color=SECOND,
    )
    axes.set_xlabel("draft vocabulary")
    axes.set_ylabel("supervised tokens covered")
    axes.set_ylim(0, 1.03)
    return _svg(figure)
