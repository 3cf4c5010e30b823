"""A small finished run, as the report and the model cards are made of it."""

from __future__ import annotations

import pandas as pd

from eagle3.config.configuration import Config
from eagle3.report.facts import RunFacts, add_checks
from eagle3.report.origin import Origin

CONFIG = Config.of(
    {
        "run": "demo",
        "hidden_states": {"codec": "int8"},
        "train": {"max_grad_norm": 0.5, "learning_rate": 2e-4},
        "evaluation": {"num_prompts": 1},
    }
).to_dict()
del CONFIG["resources"]  # a report does not depend on them
ORIGIN = Origin(
    date="2026-05-04 03:02 UTC",
    code="commit 0123456789ab",
    datasets=("owner/chats", "mine"),
    rows_digest="abcdef0123456789" * 4,
    trained_on="8 x A GPU",
    measured_on="A processor, 4 cores, 8.0 GiB",
    versions={"numpy": "2.0", "torch": "3.0"},
)


def record(step, **more):
    return {
        "step": step,
        "epoch": step // 3,
        "loss": 2.0 / (step + 1),
        "accuracy_at": [0.5, 0.25],
        "tokens_per_second": 1234.0,
        "clipped": step == 0,
        "gradient_norm": 3.0 / (step + 1),
        "learning_rate": 1e-3 * step,
        "stage": 1 + step // 3,
    } | more


def checked(cosine):
    """What one shard's self-check found."""
    return {
        "aux_layers": [1, 3, 4],
        "cosines": {"layer 1": 1.0, "last": cosine},
        "rows": 100,
        "argmax_agrees": 75,
        "bytes": 3 * 2**19,
    }


def facts(text="an answer", run="demo", metrics=None, model="embedded", **more):
    counts = {"rows": 12, "documents": 11, "tokens": 4000, "supervised": 1000, "truncated": 2}
    prompt = {"set": "held_out", "id": "row-1", "passes_plain": 9, "passes_speculative": 4}
    prompt |= {"new_tokens": 9}
    return RunFacts(
        config=CONFIG
        | {"run": run, "target": {"model": model}, "note": text}
        | more.pop("config", {}),
        origin=ORIGIN,
        dataset={
            "rows_read": 20,
            "splits": {"train": 15, "eval": 3},
            "rejected": {text: 2},
            "repaired": {},
        },
        vocab={
            "coverage": 0.987,
            "coverage_curve": {"sizes": [1, 50, 100], "shares": [0.1, 0.9, 1.0]},
            "draft_vocab_size": 50,
            "target_vocab_size": 100,
        },
        plan={
            "draft_parameters": 1000,
            "draft_layers": 1,
            "target_parameters": 10000.0,
            "doubts": [],
        }
        | more.pop("plan", {}),
        evaluation={
            "acceptance_length": 2.345,
            "acceptance_length_ci95": [2.1, 2.6],
            "per_position_acceptance": [0.8, 0.4, 0.145],
            "target_passes_plain": 900,
            "target_passes_speculative": 400,
            "target_passes_saved": 0.5556,
            "greedy_identical": True,
            "greedy_ties": 1,
            "num_speculative_tokens": 3,
            "prompts": 24,
            "unigram_acceptance": 0.0625,
            "sets": {"held_out": figures(2.25, prompts=24)},
            "per_prompt": [prompt | {"text": "short", "new_tokens": 1}, prompt | {"text": text}],
        }
        | more.pop("evaluation", {}),
        metrics=pd.DataFrame([record(s) for s in range(6)] if metrics is None else metrics),
        tokens=counts | {"dropped": {"too short": 1}},
        capture=add_checks([checked(0.9995), checked(0.9991)]),
        seconds={"train": 61.25, "plan": 0.5},
        **more,
    )


def figures(length, **more):
    low, high = length - 0.125, length + 0.125
    result = {"acceptance_length": length, "acceptance_length_ci95": [low, high]}
    return result | {"per_position_acceptance": [length - 1, 0.0, 0.0]} | more
