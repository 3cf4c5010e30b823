"""Questions of `make real`: conversations to train on, and sets of prompts to measure with.

    python -m benchmarks.real.prompts --packages .venv/real --chats data/demo_chat.jsonl \\
        --train 3000 --measure 24 --out prompts

The sources are packages with a free licence (envs/real.txt) and the bundled conversations. A
question that is measured is never trained on: word problems are held out by template, all other
questions by a hash of their text, and equal questions count once. Answers here are those of the
sources, where they have one; the target writes its own (`dataset.regenerate`).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from eagle3.errors import UserError
from eagle3.files.artifact import write_text
from workflow_scripts import ending

NO_ANSWER = "…"  # a row without an answer has nothing to regenerate
HELD_OUT = 0.1  # share of the questions that only measure
PROBLEMS = "reasoning_gym/arithmetic/gsm_symbolic"
UNFINISHED = {32, 35, 37, 61, 63, 65, 74, 76, 77, 79, 86, 87, 90, 97, 98}  # as the package says
QUESTIONS_PER_TEMPLATE = 16
REQUESTS = "bfcl_eval/data"
CALLS = (
    *("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance"),
    *("live_simple", "live_multiple", "live_irrelevance", "simple_java", "simple_javascript"),
)
TALK = "chatterbot_corpus/data/english"
LONGEST, SHORTEST = 800, 12  # characters of a question


@dataclass(frozen=True)
class Row:
    """A conversation: the turns of the user, each with the answer of the source."""

    source: str
    held_out: bool
    turns: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """What makes two conversations the same: the words of the first question."""
        return _words(self.turns[0][0])

    def to_json(self, identity: str) -> str:
        pairs = ((("user", question), ("assistant", answer)) for question, answer in self.turns)
        messages = [{"role": role, "content": text} for pair in pairs for role, text in pair]
        return json.dumps({"id": identity, "messages": messages}, ensure_ascii=False) + "\n"


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def problems(packages: Path) -> Iterator[Row]:
    """Grade-school word problems from templates; every tenth template only measures."""
    templates = [number for number in range(100) if number not in UNFINISHED]
    functions = _generators(packages)
    for question in range(QUESTIONS_PER_TEMPLATE):
        for place, number in enumerate(templates):
            made = functions[number](random.Random(1000 * number + question), 1.0)  # noqa: S311
            answer = made["metadata"]["answer_cot"]
            yield Row("problems", place % 10 == 9, ((made["question"], answer),))


def _generators(packages: Path) -> dict[int, Any]:
    """The templates' functions by number."""
    # the packages above them import every task there is, with all that those need
    for parent in ("reasoning_gym", "reasoning_gym.arithmetic", PROBLEMS.replace("/", ".")):
        package = sys.modules[parent] = ModuleType(parent)
        package.__path__ = [str(packages / parent.replace(".", "/"))]
    functions = {}
    for name in ("generators_00_49", "generators_50_99"):
        module = importlib.import_module(f"{PROBLEMS.replace('/', '.')}.{name}")
        matches = map(re.compile(r"generate_(\d+)").fullmatch, dir(module))
        functions |= {int(m[1]): getattr(module, m[0]) for m in matches if m}
    return functions


def requests(packages: Path) -> Iterator[Row]:
    """What users ask of an assistant: the questions of a leaderboard, without its functions."""
    for name in CALLS:
        path = packages / REQUESTS / f"BFCL_v4_{name}.json"
        for line in path.read_text(encoding="utf-8").splitlines():
            turns = [m["content"] for m in json.loads(line)["question"][0] if m["role"] == "user"]
            text = turns[-1].strip() if len(turns) == 1 else ""
            if text.isascii():
                yield Row("requests", _hashed(text), ((text, NO_ANSWER),))


def talk(packages: Path) -> Iterator[Row]:
    """Short questions on many subjects, with short answers."""
    for path in sorted((packages / TALK).glob("*.yml")):
        for dialogue in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            question, answer = (str(turn).strip() for turn in dialogue[:2])
            if question and answer:
                yield Row("talk", _hashed(question), ((question, answer),))


def chats(path: Path) -> Iterator[Row]:
    """The bundled conversations of several turns; they only train, since they are all alike."""
    for line in path.read_text(encoding="utf-8").splitlines():
        values = [turn["value"] for turn in json.loads(line)["conversations"]]
        yield Row("chats", False, tuple(zip(values[::2], values[1::2], strict=False)))


def _hashed(text: str) -> bool:
    """Whether a question is one of those that only measure."""
    return int(hashlib.sha256(_words(text).encode()).hexdigest()[:8], 16) < HELD_OUT * 2**32


def usable(rows: Iterable[Row], seen: set[str]) -> list[Row]:
    """Rows whose question is neither long nor short, each once."""
    kept = []
    for row in rows:
        if SHORTEST <= len(row.turns[0][0]) <= LONGEST and row.key not in seen:
            seen.add(row.key)
            kept.append(row)
    return kept


def mixed(sources: Iterable[list[Row]], most: int) -> list[Row]:
    """The first `most` rows, taken from the sources in turn."""
    turns = zip_longest(*sources)
    return [row for turn in turns for row in turn if row is not None][:most]


def write(packages: Path, chat_file: Path, train: int, measure: int, out: Path) -> dict[str, Any]:
    """Write `train.jsonl` and a file of prompts for each set; return the counts.

    Raises UserError if a package is missing or there are too few questions.
    """
    for place in (PROBLEMS, REQUESTS, TALK):
        if not (packages / place).is_dir():
            raise UserError(
                f"{packages / place} is missing: `make real` installs envs/real.txt there"
            )
    seen: set[str] = set()
    every = [
        usable(rows, seen)
        for rows in (problems(packages), requests(packages), talk(packages), chats(chat_file))
    ]
    for rows in every[1:]:
        random.Random(0).shuffle(rows)  # noqa: S311
    training = mixed([[row for row in rows if not row.held_out] for rows in every], train)
    if len(training) < train:
        raise UserError(f"there are {len(training)} conversations to train on, not {train}")
    counts: dict[str, Any] = {"train": _counted(training), "measure": {}}
    write_text(
        out / "train.jsonl",
        "".join(row.to_json(f"{row.source}-{n:05d}") for n, row in enumerate(training)),
    )
    trained = {row.key for row in training}
    for rows in every[:3]:
        chosen = [row for row in rows if row.held_out][:measure]
        if trained & {row.key for row in chosen}:
            raise ValueError(f"questions of {chosen[0].source} are trained on and measured")
        name = chosen[0].source
        lines = [{"id": f"{name}-{n:03d}", "question": r.turns[0][0]} for n, r in enumerate(chosen)]
        write_text(out / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        counts["measure"][name] = len(lines)
    write_text(out / "counts.json", json.dumps(counts, indent=1) + "\n")
    return counts


def _counted(rows: Iterable[Row]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.source] = counts.get(row.source, 0) + 1
    return counts


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("--packages", type=Path, required=True, help="folder of envs/real.txt")
    args.add_argument("--chats", type=Path, required=True, help="the bundled conversations")
    args.add_argument("--train", type=int, required=True, help="conversations to train on")
    args.add_argument("--measure", type=int, required=True, help="prompts of each set")
    args.add_argument("--out", type=Path, required=True, help="folder to write to")
    given = args.parse_args()
    print(write(given.packages, given.chats, given.train, given.measure, given.out))


if __name__ == "__main__":
    ending.run(main)
