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
        "axes.axisbelow": True,
        "font.size": 10,
    }
)

import matplotlib.pyplot as plt  # noqa: E402
import matplotlib.ticker  # noqa: E402

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
    inside = scored_inside(metrics)
    if len(inside):
        x, y = inside["step"], inside["held_out_loss"]
        axes.plot(x, y, color=SECOND, marker="o", markersize=3, label="held out")
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


def rate_curve(metrics: pd.DataFrame) -> str:
    """Gradient norm before clipping, and the learning rate."""
    figure, axes = plt.subplots(figsize=(6.2, 3.1))
    axes.plot(metrics["step"], metrics["gradient_norm"], color=INK, alpha=0.7, linewidth=1)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("gradient norm", color=INK)
    axes.set_yscale("log")
    formatter = mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(formatter)
    axes.yaxis.set_minor_formatter(formatter)
    axes.yaxis.set_minor_locator(mpl.ticker.LogLocator(subs=(0.2, 0.5)))
    rate_axes = axes.twinx()
    rate_axes.plot(metrics["step"], metrics["learning_rate"], color=SECOND, linewidth=1.5)
    rate_axes.set_ylabel("learning rate", color=SECOND)
    rate_axes.set_ylim(bottom=0)
    rate_axes.grid(visible=False)
    return _svg(figure)


def scored_inside(metrics: pd.DataFrame) -> pd.DataFrame:
    """The records of steps after which the draft was scored inside a stage; may be empty."""
    if "held_out_loss" not in metrics:
        return metrics[:0]
    return metrics[metrics["held_out_loss"].notna()]


def stage_curve(
    stages: Sequence[dict[str, Any]], best: int | None, inside: Sequence[tuple[float, float]] = ()
) -> str:
    """Held-out acceptance length after each stage, with 95 % intervals; the exported one marked.
    `inside`: epochs and lengths where the draft was scored inside a stage."""
    figure, axes = plt.subplots(figsize=(6.2, 3.1))
    if inside:
        axes.plot(*zip(*inside, strict=True), color=INK, alpha=0.6, linewidth=1, zorder=1)
    epochs = [stage["epochs_done"] for stage in stages]
    lengths = [stage["acceptance_length"] for stage in stages]
    intervals = [stage["acceptance_length_ci95"] for stage in stages]
    low = [length - ends[0] for length, ends in zip(lengths, intervals, strict=True)]
    high = [ends[1] - length for length, ends in zip(lengths, intervals, strict=True)]
    axes.errorbar(epochs, lengths, yerr=[low, high], color=INK, marker="o", capsize=3)
    for stage, x, y in zip(stages, epochs, lengths, strict=True):
        if stage["stage"] == best:
            axes.plot([x], [y], "o", color=SECOND, markersize=11, zorder=3)
            axes.annotate("exported", (x, y), (9, 5), textcoords="offset points", color=SECOND)
    axes.margins(y=0.2)
    axes.set_xlim(0, 1.2 * max(epochs))
    axes.set_xlabel("epochs trained")
    axes.set_ylabel("held-out acceptance length")
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    return _svg(figure)


def speedup_bars(by_length: Sequence[float]) -> str:
    """Estimated speed-up by the number of draft tokens per round."""
    figure, axes = plt.subplots(figsize=(6.2, 3.1))
    lengths = list(range(1, len(by_length) + 1))
    best = max(by_length)
    colours = [SECOND if value == best else INK for value in by_length]
    bars = axes.bar(lengths, by_length, color=colours, width=0.6)
    axes.bar_label(bars, labels=[f"{value:.2f}" for value in by_length], padding=2)
    axes.axhline(1, color="0.4", linewidth=0.8)
    axes.set_xticks(lengths)
    axes.set_xlabel("draft tokens per round")
    axes.set_ylabel("estimated speed-up")
    axes.set_ylim(0, max(best, 1) * 1.15)
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
