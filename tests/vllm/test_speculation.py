"""Exported drafts in a real vLLM on the CPU, speculating, against our own chain decoding.

Everything is vLLM's own, kernels included: its engine, its classes of target and draft, its loader
of either format. Float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.builders.models import VOCAB
from tests.builders.served import CUSTOM, EAGLE31, served, telling
from tests.vllm.speculation import (
    accepted_per_pass,
    agree,
    answered,
    damaged,
    other_residual,
    speculating,
)

FORMATS = ("vllm", "speculators")


@dataclass(frozen=True)
class Case:
    """A draft; its formats run with `steps` drafts each, in their order."""

    target: str
    layers: list[int] | None = None
    switches: dict[str, Any] | None = None
    steps: tuple[int, int] = (3, 5)
    draft_vocab: int = 64


CASES = {
    "llama": Case("llama"),
    "eagle31": Case("llama", CUSTOM, EAGLE31, (5, 3)),
    "norm_before_residual": Case("llama", None, {"norm_before_residual": True}),
    "qk_norm": Case("qwen3", None, {"qk_norm": True}, (5, 3)),
    "qwen3": Case("qwen3", CUSTOM),
    "two layers": Case("llama", [0, 1, 3, 4, 6], {"num_hidden_layers": 2}, (5, 3)),
    "two layers of one state": Case(
        "qwen3", [3], {"num_hidden_layers": 2, "qk_norm": True, "norm_before_residual": True}
    ),
    "window": Case("llama", [2, 5], {"num_hidden_layers": 2, "sliding_window": 8}, (5, 3)),
    "window and q/k norms": Case("qwen3", None, {"sliding_window": 8, "qk_norm": True}),
    "qwen3_moe": Case("qwen3_moe", None, None, (5, 3)),
    "the target's vocabulary": Case("llama", draft_vocab=VOCAB),
}


@pytest.mark.parametrize("name", CASES)
def test_speculation_counts_what_our_decoding_counts(targets, engine_python, tmp_path, name):
    case = CASES[name]
    target = targets[case.target]
    made = served(tmp_path, target, FORMATS, case.layers, case.switches, case.draft_vocab)
    chosen = dict(zip(FORMATS, case.steps, strict=True))
    engines = {form: speculating(target, made.exports[form], n) for form, n in chosen.items()}
    if name == "norm_before_residual":  # test_traps has the other way round
        other = damaged(tmp_path / "other", made.exports["vllm"], other_residual)
        engines["other"] = speculating(target, other, case.steps[0])
    result = answered(engine_python, tmp_path, engines)
    if "other" in engines:
        assert accepted_per_pass(result["other"]) < accepted_per_pass(result["vllm"]) - 0.05
    for form, steps in chosen.items():
        lengths = agree(result[form], made, steps)
        mean = telling(lengths, steps)
        print(f"{form}, {steps} steps: {mean:.4f} over {len(lengths)} passes")
