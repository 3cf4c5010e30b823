"""Datasets known by name: their place on the hub, shape and licence.

`docs/datasets_table.py` prints them as the table of docs/datasets.md. Commits are those that public
projects pin or that the hub's pages showed; row counts and licences are from the dataset cards.
`None` means unknown: the hub's current commit is read, and the report of the rows names it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A dataset on the hub."""

    repository: str
    converter: str  # of `converters.CONVERTERS`
    revision: str | None = None  # commit that is read by default
    subsets: tuple[str, ...] = ()  # the first one is read by default
    split: str = "train"
    licence: str | None = None
    rows: int | None = None  # in the split of the first subset
    all_subsets: bool = False  # whether all subsets are read by default
    answers: str = "others"  # who wrote the answers: the closer to the target, the better


def _regenerated(model: str, revision: str | None = None, rows: int | None = None) -> Entry:
    repository = f"frankleeeee/PerfectBlend-Regenerated-{model}"
    return Entry(repository, "turns", revision, rows=rows, answers=model)


def _camel(subject: str) -> Entry:
    return Entry(f"camel-ai/{subject}", "message_1, message_2", licence="CC-BY-NC-4.0", rows=20000)


CATALOGUE: dict[str, Entry] = {
    "ultrachat": Entry(
        "HuggingFaceH4/ultrachat_200k",
        "turns, id in prompt_id",
        "8049631c405ae6576f93f445c6b8166f76f5505a",
        split="train_sft",
        licence="MIT",
        rows=207865,
    ),
    "sharegpt": Entry(
        "Aeala/ShareGPT_Vicuna_unfiltered",
        "turns",
        "8b0048ad6ae8c22f46a78c15559dec98feef5539",
        licence="Apache-2.0",
        rows=120675,
    ),
    "eaglechat": Entry("zhaode/EagleChat", "turns", licence="Apache-2.0", rows=1039104),
    "perfectblend": Entry(
        "mlabonne/open-perfectblend",
        "turns",
        "af60f3c18201652a83a93f46fcfee1b646ba3df7",
        licence="Apache-2.0",
        rows=1420909,
    ),
    "perfectblend-llama3.1-8b-instruct": _regenerated(
        "Llama-3.1-8B-Instruct", "c8cf5337f3a4bed5ba9da7362446cc5111fd24f1", 1418731
    ),
    "perfectblend-llama3.3-70b-instruct": _regenerated("Llama-3.3-70B-Instruct", rows=1419775),
    "perfectblend-llama4-scout-instruct": _regenerated("Llama-4-Scout-17B-16E-Instruct"),
    "perfectblend-llama4-maverick-instruct": _regenerated("Llama-4-Maverick-17B-128E-Instruct"),
    "magpie-qwen2.5-pro-1m-v0.1": Entry(
        "Magpie-Align/Magpie-Qwen2.5-Pro-1M-v0.1",
        "turns, id in uuid",
        rows=1000000,
        answers="Qwen2.5-72B-Instruct",
    ),
    "nebius-llama31-8b-infinity-instruct": Entry(
        "nebius/Llama-3.1-8B-Instruct-Infinity-Instruct-0625",
        "conversation and generated_message",
        answers="Llama-3.1-8B-Instruct",
    ),
    "opc": Entry(
        "OpenCoder-LLM/opc-sft-stage1",
        "instruction, output",
        "1bcab575f5e2d1c1fd6652720418524c27b3d58b",
        ("largescale_diverse_instruct", "filtered_infinity_instruct", "realuser_instruct"),
        licence="MIT",
    ),
    "gsm8k": Entry(
        "openai/gsm8k",
        "question, answer",
        "740312add88f781978c0658806c59bc2815b9866",
        ("main", "socratic"),
        licence="MIT",
        rows=7473,
    ),
    "hendrycks_math": Entry(
        "EleutherAI/hendrycks_math",
        "problem, solution",
        "21a5633873b6a120296cce3e2df9d5550074f4a3",
        (
            "algebra",
            "counting_and_probability",
            "geometry",
            "intermediate_algebra",
            "number_theory",
            "prealgebra",
            "precalculus",
        ),
        licence="MIT",
        rows=7500,
        all_subsets=True,
    ),
    # the hub's Parquet conversion: the main branch is a script, which `datasets` no longer runs
    "math_qa": Entry(
        "allenai/math_qa",
        "Problem, options, Rationale",
        "fafb9f7ee5b9ec4da9499f9c4177a4c91389f2d6",
        licence="Apache-2.0",
        rows=29837,
    ),
    "codealpaca-20k": Entry(
        "sahil2801/CodeAlpaca-20k",
        "instruction, input, output",
        "152bb5e9a29651266b018106053980070a0521a1",
        licence="CC-BY-4.0",
        rows=20022,
    ),
    "opencodeinstruct": Entry(
        "nvidia/OpenCodeInstruct",
        "input, output",
        "8f3ba5bafe4d6e8db46082cf7ae6741bc370604d",
        licence="CC-BY-4.0",
        rows=5000000,
    ),
    "magicoder-evol-instruct": Entry(
        "ise-uiuc/Magicoder-Evol-Instruct-110K",
        "instruction, response",
        "b0079beaa0361d82412520b873715bee59cc7dd4",
        licence="Apache-2.0",
        rows=111183,
    ),
    "sciq": Entry(
        "allenai/sciq",
        "question, choices, support",
        "2c94ad3e1aafab77146f384e23536f97a4849815",
        licence="CC-BY-NC-3.0",
        rows=11679,
    ),
    "camel-biology": _camel("biology"),
    "camel-chemistry": _camel("chemistry"),
    "camel-physics": _camel("physics"),
}
