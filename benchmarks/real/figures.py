"""Figures of the turns of an engine: speed, speed-up, acceptance, and whether answers are equal.

All rates are of one turn, which asks every prompt once; medians and ranges are over the rounds.
`acceptance_length` is that of docs/evaluation.md, over tokens that really are in the answers:
tokens after the first, over verify passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

NEAR_TIE = 1e-3  # of two logits; float32 sums of two kernels differ by some 1e-5
Turn = Mapping[str, Any]


def summary(
    engine: str,
    sets: Sequence[str],
    turns: Sequence[Turn],
    prompts: Sequence[Sequence[int]],
    target: Path,
) -> dict[str, Any]:
    """All figures of an engine. `sets`: the name of each prompt's set."""
    cells = sorted({(t["concurrency"], t["drafts"]) for t in turns})
    reference = next(t for t in turns if t["drafts"] == 0 and t["concurrency"] == 1)
    rows = [_row(turns, *cell) for cell in cells]
    odd = _differences(turns, reference)
    gaps = _gaps(odd, reference, prompts, target) if odd else {}
    for row in rows:
        own = [n for c, d, n, _ in odd if (c, d) == (row["concurrency"], row["drafts"])]
        row["answers"] = len(prompts)
        row["answers_equal"] = len(prompts) - len(set(own))
    differences = [
        {"prompt": n, "at": at, "gap": gaps[n, at], "near_tie": gaps[n, at] < NEAR_TIE}
        for n, at in sorted({(n, at) for _, _, n, at in odd})
    ]
    return {
        "engine": engine,
        "rounds": len({t["round"] for t in turns}),
        "prompts": {name: sets.count(name) for name in dict.fromkeys(sets)},
        "rows": rows,
        "differences": differences,
        "by_set": _by_set(turns, sets),
    }


def _row(turns: Sequence[Turn], concurrency: int, drafts: int) -> dict[str, Any]:
    """Figures of one server at one number of requests at a time."""
    own = _of(turns, concurrency, drafts)
    alone = {t["round"]: _rate(t) for t in _of(turns, concurrency, 0)}
    row: dict[str, Any] = {
        "concurrency": concurrency,
        "drafts": drafts,
        "tokens_per_second": _spread([_rate(t) for t in own]),
        "ms_per_token": _spread([1000 * _token_time(t) for t in own]),
        "ms_to_first_token": _spread(
            [1000 * median(a["first"] for a in t["answers"]) for t in own]
        ),
        "cpu_seconds": _spread([t["cpu_seconds"] for t in own]),
        "idle_cpu_share": max(t["idle_cpu_seconds"] / t["seconds"] for t in own),
        "load": max(t["load"] for t in own),
        "tokens": _tokens(own[0]),
    }
    if drafts:
        row["speed_up"] = _spread(
            [_rate(t) / alone[t["round"]] for t in own if t["round"] in alone]
        )
        lengths = [_later(t) / t["passes"] for t in own if t["passes"]]
        row["acceptance_length"] = median(lengths) if lengths else None
    # what a pass costs: of the target alone it is the time of a token
    row["ms_per_pass"] = row["ms_per_token"]["median"] * (row.get("acceptance_length") or 1.0)
    return row


def _of(turns: Sequence[Turn], concurrency: int, drafts: int) -> list[Turn]:
    return [t for t in turns if (t["concurrency"], t["drafts"]) == (concurrency, drafts)]


def _tokens(turn: Turn) -> int:
    return sum(len(a["tokens"]) for a in turn["answers"])


def _later(turn: Turn) -> int:
    """Tokens that verify passes gave: all but the first of every answer."""
    return sum(max(len(a["tokens"]) - 1, 0) for a in turn["answers"])


def _rate(turn: Turn) -> float:
    return _tokens(turn) / turn["seconds"]


def _token_time(turn: Turn) -> float:
    """Seconds of a token after the first, over all answers of a turn."""
    return sum(a["last"] - a["first"] for a in turn["answers"]) / max(_later(turn), 1)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values)}


def _by_set(turns: Sequence[Turn], sets: Sequence[str]) -> list[dict[str, Any]]:
    """Time of a token one request at a time, by set of prompts."""
    rows = []
    for name in dict.fromkeys(sets):
        for drafts in sorted({t["drafts"] for t in turns}):
            times = []
            for turn in _of(turns, 1, drafts):
                own = [a for a, of in zip(turn["answers"], sets, strict=True) if of == name]
                times.append(1000 * _token_time({"answers": own}))
            if times:
                rows.append({"set": name, "drafts": drafts, "ms_per_token": _spread(times)})
    return rows


def _differences(turns: Sequence[Turn], reference: Turn) -> list[tuple[int, int, int, int]]:
    """Requests at a time, draft tokens, prompt and first place of every answer that is not that of
    the target alone, one request at a time."""
    odd = []
    for turn in turns:
        pairs = zip(turn["answers"], reference["answers"], strict=True)
        for number, (answer, expected) in enumerate(pairs):
            if answer["tokens"] != expected["tokens"]:
                at = _first_difference(answer["tokens"], expected["tokens"])
                odd.append((turn["concurrency"], turn["drafts"], number, at))
    return odd


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _gaps(
    odd: Sequence[tuple[int, int, int, int]],
    reference: Turn,
    prompts: Sequence[Sequence[int]],
    target: Path,
) -> dict[tuple[int, int], float]:
    """How far apart the target's two best logits are where answers part, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    gaps = {}
    for number, at in {(number, at) for _, _, number, at in odd}:
        ids = [*prompts[number], *reference["answers"][number]["tokens"][:at]]
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), logits_to_keep=1).logits[0, -1]
        best = logits.topk(2).values
        gaps[number, at] = float(best[0] - best[1])
    return gaps
