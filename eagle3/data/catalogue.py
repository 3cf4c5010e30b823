"""Datasets by name: where they lie on the hub, in which shape, under which licence.

`python -m eagle3.data.catalogue` prints them as the table of docs/datasets.md. Row counts and
licences are those of the dataset cards, where they are known; `None` means look there. No commit is
pinned here, since cards move on: pin one in the configuration (`dataset.revision`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A dataset of the hub."""

    repository: str
    converter: str  # of `converters.CONVERTERS`
    subsets: tuple[str, ...] = ()  # the first is read if none is asked for
    split: str = "train"
    licence: str | None = None
    rows: int | None = None  # of the split and the first subset
    all_subsets: bool = False  # all of them are read if none is asked for
    answers: str = "others"  # who wrote the answers: the nearer to the target, the better


def _regenerated(model: str) -> Entry:
    return Entry(f"frankleeeee/PerfectBlend-Regenerated-{model}", "turns", answers=model)


def _camel(subject: str) -> Entry:
    return Entry(f"camel-ai/{subject}", "message_1, message_2", licence="CC-BY-NC-4.0", rows=20000)


CATALOGUE: dict[str, Entry] = {
    "ultrachat": Entry(
        "HuggingFaceH4/ultrachat_200k",
        "turns, id in prompt_id",
        split="train_sft",
        licence="MIT",
        rows=207865,
    ),
    "sharegpt": Entry("Aeala/ShareGPT_Vicuna_unfiltered", "turns", licence="Apache-2.0"),
    "eaglechat": Entry("zhaode/EagleChat", "turns"),
    "perfectblend": Entry(
        "mlabonne/open-perfectblend", "turns", licence="Apache-2.0", rows=1420909
    ),
    "perfectblend-llama3.1-8b-instruct": _regenerated("Llama-3.1-8B-Instruct"),
    "perfectblend-llama3.3-70b-instruct": _regenerated("Llama-3.3-70B-Instruct"),
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
        ("largescale_diverse_instruct", "filtered_infinity_instruct", "realuser_instruct"),
        licence="MIT",
    ),
    "gsm8k": Entry(
        "openai/gsm8k", "question, answer", ("main", "socratic"), licence="MIT", rows=7473
    ),
    "hendrycks_math": Entry(
        "EleutherAI/hendrycks_math",
        "problem, solution",
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
    "math_qa": Entry(
        "allenai/math_qa", "Problem, options, Rationale", licence="Apache-2.0", rows=29837
    ),
    "codealpaca-20k": Entry(
        "sahil2801/CodeAlpaca-20k", "instruction, input, output", licence="CC-BY-4.0", rows=20022
    ),
    "opencodeinstruct": Entry(
        "nvidia/OpenCodeInstruct", "input, output", licence="CC-BY-4.0", rows=5000000
    ),
    "magicoder-evol-instruct": Entry(
        "ise-uiuc/Magicoder-Evol-Instruct-110K",
        "instruction, response",
        licence="Apache-2.0",
        rows=111183,
    ),
    "sciq": Entry("allenai/sciq", "question, choices, support", licence="CC-BY-NC-3.0", rows=11679),
    "camel-biology": _camel("biology"),
    "camel-chemistry": _camel("chemistry"),
    "camel-physics": _camel("physics"),
}


def table() -> str:
    """The catalogue in Markdown."""
    lines = [
        "| `dataset.source` | on the hub | split | columns | rows | licence | answers of |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in CATALOGUE.items():
        subsets = ", ".join(entry.subsets)
        if subsets:
            subsets = f" ({'all of' if entry.all_subsets else 'subsets'} {subsets})"
        rows = f"{entry.rows:,}" if entry.rows else "see card"
        lines.append(
            f"| `{name}` | [{entry.repository}](https://huggingface.co/datasets/"
            f"{entry.repository}){subsets} | {entry.split} | {entry.converter} | {rows} | "
            f"{entry.licence or 'see card'} | {entry.answers} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
