"""The plan: disk, arithmetic and time of a run, from token shards and shapes alone.

Bytes of tensors are exact; file headers are not counted. FLOPs count matrix products (2 per
multiply-add), those of Muon's updates too, and leave attention scores out; times are FLOPs over a
rate that is stated, measured or published (`eagle3.report.rates`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eagle3.draft.config import DraftConfig
from eagle3.draft.shapes import parameter_shapes
from eagle3.imports.listing import PEERS
from eagle3.objective.flops import Work, muon_shapes, orthogonalising_flops
from eagle3.objective.memory import USABLE, StepMemory
from eagle3.report.loading import Loading
from eagle3.report.rates import Rates
from eagle3.store.disk_space import Need, free_bytes, plan_shortage
from eagle3.store.layout import Layout
from eagle3.target_model.cost import parameters_read, target_flops_per_token
from eagle3.tokens.shards import TokenShard
from eagle3.tokens.stages import Stages


def rows_at_steps(shard: TokenShard, steps: int) -> np.ndarray:
    """int64 [steps]: rows that the mask allows at each TTT step."""
    mask, starts = shard.loss_mask == 1, shard.doc_offsets[:-1]
    document = np.repeat(np.arange(len(shard)), shard.lengths)
    same_document = document[:-1] == document[1:]
    is_first, is_last = mask.copy(), mask.copy()  # tokens of supervised runs
    is_first[1:] &= ~(mask[:-1] & same_document)
    is_last[:-1] &= ~(mask[1:] & same_document)
    begin, end = np.flatnonzero(is_first), np.flatnonzero(is_last) + 1
    # rows t >= 0 with x_{t+1}..x_{t+2+k} inside the run [begin, end)
    usable = end - np.maximum(begin, starts[document[begin]] + 1) - 1
    return np.array([np.maximum(usable - k, 0).sum() for k in range(steps)], dtype=np.int64)


def build_plan(
    shards: Iterable[tuple[str, TokenShard]],
    held_out: Iterable[tuple[str, TokenShard]],
    target: Any,
    draft: DraftConfig,
    values: dict[str, Any],
    schedule: dict[str, Any],
    states_folder: Path,
    budget_gb: float | None,
    rates: Rates,
    loading: Loading,
    shared: int = 0,
) -> dict[str, Any]:
    """Figures of the whole run.

    `shards` and `held_out`: training shards and those that score stages, with their file names,
    read one by one. `values`: settings of the plan stage. `budget_gb`: limit of the hidden states
    in their folder. `rates` and `loading`: the basis of all times, None where unknown. `shared`:
    number of shards whose states another run has.
    """
    states, train = values["hidden_states"], values["train"]
    layout = states["codec"], target.hidden_size, len(draft.aux_layers)
    sizes: dict[str, int] = {}
    tokens, input_rows, active = 0, 0, np.zeros(train["ttt_steps"], dtype=np.int64)
    for name, shard in shards:
        sizes[name] = Layout(shard.needed, *layout).expected_bytes()
        tokens += len(shard.input_ids)
        input_rows += int(shard.needed.aux_offsets[-1])
        active += rows_at_steps(shard, train["ttt_steps"])
    held_out_bytes: dict[str, int] = {}
    for name, shard in held_out:
        held_out_bytes[name] = Layout(shard.needed, *layout).expected_bytes()
    stages = Stages(len(sizes), states["window_shards"], train["epochs"], train["epochs_per_stage"])
    need = Need(sizes, stages, rolling=not states["keep"], held_out=held_out_bytes)
    parameters = draft_parameters(draft)
    total, checkpoints = sum(sizes.values()), checkpoint_bytes(parameters, stages.count)
    peak = need.peak + sum(held_out_bytes.values())
    imported = states.get("source")
    # imported states pass the head alone
    capture = 0.0 if imported else tokens * target_flops_per_token(target)
    capture += 4.0 * schedule["rows"] * target.hidden_size * target.vocab_size
    passes = stages.count // stages.windows if need.rolling else 1
    loads = 0 if imported else passes * len(sizes) + len(held_out_bytes) - shared
    counts = active.tolist()  # as if the whole vocabulary were the draft's
    per_epoch = Work(input_rows, counts, sum(counts), counts[0], attended=0).flops(draft)
    training = train["epochs"] * per_epoch
    if schedule["total_steps"] < schedule["all_steps"]:
        training *= schedule["total_steps"] / schedule["all_steps"]
    matrices = muon_shapes(draft) if train["optimizer"] == "muon" else []
    training += schedule["total_steps"] * sum(orthogonalising_flops(*shape) for shape in matrices)
    bytes_per_value = 4 if train["precision"] == "float32" else 2
    memory_gb = values["hardware"]["memory_gb"]
    muon_parameters = sum(rows * columns for rows, columns in matrices)
    share = [count / max(tokens, 1) for count in counts]
    memory = StepMemory(draft, parameters, share, bytes_per_value, muon=muon_parameters)
    return {
        "shards": len(sizes),
        "tokens": tokens,
        "rows": schedule["rows"],
        "stages": stages.count,
        "windows": stages.windows,
        "rolling": need.rolling,
        "captures": passes,
        "imported_from": PEERS[imported["kind"]] if imported else None,
        "bytes_per_token": total / max(tokens, 1),
        "bytes_of_shards": sizes,
        "bytes_per_shard_mean": total / max(len(sizes), 1),
        "bytes_per_shard_max": max(sizes.values(), default=0),
        "bytes_states": total,
        "bytes_states_peak": need.peak,
        "bytes_of_held_out": held_out_bytes,
        "bytes_checkpoints": checkpoints,
        "bytes_peak": peak + checkpoints,
        "bytes_free": free_bytes(states_folder),
        "shortage": plan_shortage(need, states_folder, budget_gb, checkpoints),
        "draft_parameters": parameters,
        "draft_layers": draft.num_hidden_layers,
        "bytes_training": memory.bytes(train["pack_tokens"]),  # of a GPU that works alone
        "largest_pack": memory.largest_pack(USABLE * memory_gb * 1e9) if memory_gb else None,
        "target_parameters": parameters_read(target),
        "steps": schedule["total_steps"],
        "all_steps": schedule["all_steps"],
        "capture_flops": passes * capture,
        "training_flops": training,
        "capture_seconds": _seconds(passes * capture, rates.capture),
        "loads": loads,
        "loading_seconds": loading.whole(loads),
        "training_seconds": _seconds(training, rates.training),
        "training_read_rate": rates.training and total / (per_epoch / rates.training),
        "rates": asdict(rates),
    }


def _seconds(flops: float, rate: float | None) -> float | None:
    return None if rate is None else flops / rate


def draft_parameters(draft: DraftConfig) -> int:
    """Trainable parameters."""
    return sum(map(math.prod, parameter_shapes(draft).values()))


def checkpoint_bytes(parameters: int, stages: int) -> int:
    """The most that checkpoints take at once, while the last stage trains.

    Weights of the finished stages, the optimiser state of the one before (8 bytes a parameter),
    and two complete saves of this one: the older is removed when the newer is complete.
    """
    weights, optimiser = 4 * parameters, 8 * parameters
    earlier = (stages - 1) * weights + (optimiser if stages > 1 else 0)
    return earlier + 2 * (weights + optimiser)


def plan_table(plan: dict[str, Any]) -> str:
    """The plan for people."""
    rows = [
        ("training tokens", f"{plan['tokens']:,} in {plan['shards']} shards"),
        ("trained positions", f"{plan['rows']:,} ({plan['rows'] / max(plan['tokens'], 1):.0%})"),
        (
            "hidden states",
            f"{size_text(plan['bytes_states'])}, {plan['bytes_per_token']:,.0f} B/token",
        ),
        (
            "per shard",
            f"{size_text(plan['bytes_per_shard_mean'])} on average, "
            f"{size_text(plan['bytes_per_shard_max'])} at most",
        ),
        *_rolling_rows(plan),
        ("held out", f"{size_text(sum(plan['bytes_of_held_out'].values()))}, kept to the end"),
        ("checkpoints", size_text(plan["bytes_checkpoints"])),
        ("peak disk", f"{size_text(plan['bytes_peak'])}, {size_text(plan['bytes_free'])} free"),
        ("draft", f"{plan['draft_parameters']:,} parameters, {_steps_text(plan)}"),
        *_memory_rows(plan),
        (
            "import" if plan["imported_from"] else "capture",
            f"{plan['capture_flops']:.2e} FLOP, {time_text(plan['capture_seconds'])}"
            + (f", states of {plan['imported_from']}" if plan["imported_from"] else ""),
        ),
        *_loading_rows(plan),
        ("training", f"{plan['training_flops']:.2e} FLOP, {time_text(plan['training_seconds'])}"),
        *_reading_rows(plan["training_read_rate"]),
        ("times from", plan["rates"]["source"]),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {text}" for name, text in rows]
    if plan["shortage"]:
        lines.append(f"  DOES NOT FIT: {plan['shortage']}")
    return "\n".join(["plan", *lines])


def _rolling_rows(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows that rolling mode adds."""
    if not plan["rolling"]:
        return []
    peak = size_text(plan["bytes_states_peak"])
    captured = "once" if plan["captures"] == 1 else f"{plan['captures']} times"
    return [("rolling", f"{plan['windows']} windows, {peak} at once, each captured {captured}")]


def _loading_rows(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Row of a capture, whose jobs load the target."""
    if not plan["loads"]:
        return []
    return [("loading", f"the target {plan['loads']} times, {time_text(plan['loading_seconds'])}")]


def _memory_rows(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Row of the GPU memory, if `hardware.memory_gb` is set."""
    if plan["largest_pack"] is None:
        return []
    needed = f"about {size_text(plan['bytes_training'])} of a GPU"
    return [("memory", f"{needed} in training; packs of {plan['largest_pack']:,} tokens fit")]


def _steps_text(plan: dict[str, Any]) -> str:
    if plan["steps"] == plan["all_steps"]:
        return f"{plan['steps']:,} steps"
    return f"{plan['steps']:,} of {plan['all_steps']:,} steps"


def _reading_rows(rate: float | None) -> list[tuple[str, str]]:
    return [] if rate is None else [("reading", f"{size_text(rate)}/s of states while training")]


def size_text(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"


def time_text(seconds: float | None) -> str:
    if seconds is None:
        return "time unknown"
    if seconds < 120:
        return f"about {seconds:.0f} s"
    if seconds < 7200:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
