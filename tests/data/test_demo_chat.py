"""Laws of the bundled conversations: same bytes each time, well formed, varied, and correct."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data"
GENERATOR, FILE = DATA / "make_demo_chat.py", DATA / "demo_chat.jsonl"
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


def test_generator_gives_the_bundled_bytes(tmp_path: Path) -> None:
    again = tmp_path / "again.jsonl"
    subprocess.run([sys.executable, str(GENERATOR), "--output", str(again)], check=True)
    assert again.read_bytes() == FILE.read_bytes()


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


def test_variety(replies: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(replies)) >= 0.7 * len(replies)
    monkeypatch.syspath_prepend(str(DATA))
    import make_demo_chat

    skills = Counter(talk.skill for talk in make_demo_chat.conversations())
    assert len(skills) >= 14
    assert max(skills.values()) <= 0.2 * sum(skills.values())


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
