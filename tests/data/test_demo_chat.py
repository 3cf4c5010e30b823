"""Laws of the bundled conversations: well formed, varied, and correct."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "data" / "demo_chat.jsonl"
DIGEST = "ef20411f1f24efc8489ba2f293186f16303166835e3ba0d21ba61c28e857d5b6"
TIMES = "\u00d7"
SUM = re.compile(
    rf"(?<![\d.,€÷+-] )(?<!{TIMES} )(?<![\d.,€])(\d+) ([{TIMES}+-]) (\d+) = (\d+)(?![\d,.]\d)"
)
Row = dict[str, object]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def replies(rows: list[Row]) -> list[str]:
    return [turn["value"] for row in rows for turn in row["conversations"] if turn["from"] == "gpt"]


def test_the_bytes_are_those_of_the_measurements() -> None:
    """Figures in docs/ are of this very text; another one is another dataset."""
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == DIGEST


def test_size_and_ids(rows: list[Row]) -> None:
    assert len(rows) >= 1000
    assert len({row["id"] for row in rows}) == len(rows)
    assert 1_100_000 <= FILE.stat().st_size <= 1_600_000


def test_turns_alternate_and_start_with_the_human(rows: list[Row]) -> None:
    for row in rows:
        assert set(row) == {"id", "conversations"}
        turns = row["conversations"]
        assert all(turn["value"].strip() for turn in turns)
        speakers = [turn["from"] for turn in turns]
        if speakers[0] == "system":
            speakers = speakers[1:]
        assert speakers == ["human", "gpt"] * (len(speakers) // 2)
        assert speakers


def test_most_conversations_have_several_exchanges(rows: list[Row]) -> None:
    exchanges = [sum(turn["from"] == "gpt" for turn in row["conversations"]) for row in rows]
    assert sum(count >= 2 for count in exchanges) >= 0.9 * len(rows)
    assert max(exchanges) <= 5
    systems = sum(row["conversations"][0]["from"] == "system" for row in rows)
    assert 0 < systems < 0.1 * len(rows)


def test_variety(rows: list[Row], replies: list[str]) -> None:
    assert len(set(replies)) >= 0.7 * len(replies)
    openings = Counter(
        " ".join(turn["value"].split()[:3]).lower()
        for row in rows
        for turn in row["conversations"]
        if turn["from"] == "human"
    )
    assert len(openings) >= 790
    assert max(openings.values()) <= 0.05 * sum(openings.values())


def test_sums_are_right(replies: list[str]) -> None:
    checked = 0
    for reply in replies:
        for one, sign, two, result in SUM.findall(reply):
            a, b = int(one), int(two)
            assert {TIMES: a * b, "+": a + b, "-": a - b}[sign] == int(result), reply
            checked += 1
    assert checked > 500


def test_python_blocks_run(replies: list[str]) -> None:
    blocks = [code for reply in replies for code in re.findall(r"```python\n(.*?)```", reply, re.S)]
    definitions = [code for code in blocks if code.startswith("def ")]
    assert len(definitions) > 50
    for code in set(definitions):
        exec(compile(code, "demo", "exec"), {})
