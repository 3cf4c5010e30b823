"""Answers made anew: turn by turn, whole or not at all, asked for once."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from eagle3.config.dataset import Regenerate
from eagle3.data.answer_record import Answer, Generate, Record, Request
from eagle3.data.conversations import BadRow, Conversation
from eagle3.data.regeneration import FIRST, Outcome, read_answers, regenerate, write_answers
from eagle3.engines import openai_answers
from eagle3.engines.openai_answers import OpenAIEngine
from eagle3.errors import UserError
from eagle3.files.artifact import Settings
from tests.builders.ports import address_of_nobody
from tests.data.openai_server import FakeServer, running
from tests.data.toy_tokenizers import conversation_of

SAMPLING = Regenerate(temperature=0.5, top_p=0.9, top_k=7, max_tokens=9, seed=3)
SETTINGS = Settings("regenerate", {}, {})
CUT = "answer cut off at max_tokens"


def talk(name: str, *questions: str) -> Conversation:
    turns = [text for question in questions for text in (question, "old")]
    return Conversation(name, conversation_of(*turns, system="Be kind.").messages)


class Echo:
    """Answers in its own order; keeps what it was asked."""

    def __init__(self, fails_after: int = 10**9) -> None:
        self.asked: list[Request] = []
        self.left = fails_after

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        listed = 0
        while listed < len(requests):  # as many as are there, the last one first
            begin, listed = listed, len(requests)
            for number in reversed(range(begin, listed)):
                yield number, self.answer(requests[number])

    def answer(self, request: Request) -> Answer:
        if self.left == 0:
            raise UserError("killed")
        self.left -= 1
        self.asked.append(request)
        question = request.messages[-1]["content"]
        cause = "refused" if "refuse" in question else None
        reply = "" if cause else f"{question}!"
        return Answer(reply, cause=cause, cut="cut" in question)


class InOrder(Echo):
    """Answers the first request first."""

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        number = 0
        while number < len(requests):
            yield number, self.answer(requests[number])
            number += 1


def run(folder: Path, rows: list[Conversation], engine: Generate, identity: str = "a") -> Outcome:
    with Record.opened(folder / "record", identity) as record:
        return regenerate(rows, engine, SAMPLING.seed, record, lambda conversation: None)


def said(row: Conversation) -> list[str]:
    return [m["content"] for m in row.messages]


def test_every_answer_follows_the_new_ones_before_it(tmp_path: Path) -> None:
    engine = Echo()
    rows = [talk("a", "one", "two", "three"), talk("b", "four")]
    result = run(tmp_path, rows, engine)
    assert [row.id for row in result.rows] == ["a", "b"]
    assert said(result.rows[0]) == ["Be kind.", "one", "one!", "two", "two!", "three", "three!"]
    assert said(result.rows[1]) == ["Be kind.", "four", "four!"]
    last = engine.asked[-1]
    assert [m["content"] for m in last.messages] == said(result.rows[0])[:-1]
    assert not result.counts and not result.dropped
    assert "old" not in str(result.rows)


def test_what_follows_a_missing_answer_is_left_out_and_a_row_without_one_is_dropped(
    tmp_path: Path,
) -> None:
    rows = [talk("a", "one", "refuse", "three"), talk("b", "refuse"), talk("c", "four")]
    result = run(tmp_path, rows, Echo())
    assert [said(row)[1:] for row in result.rows] == [["one", "one!"], ["four", "four!"]]
    assert result.counts == {"refused: shortened": 1, "refused: dropped": 1}
    assert result.dropped == [{"id": "b", "cause": "refused"}]


def test_a_conversation_ends_with_an_answer_that_was_cut_off(tmp_path: Path) -> None:
    rows = [talk("a", "one", "cut", "three"), talk("b", "cut"), talk("c", "four")]
    engine = Echo()
    result = run(tmp_path, rows, engine)
    assert [said(row)[1:] for row in result.rows] == [
        ["one", "one!", "cut", "cut!"],
        ["cut", "cut!"],
        ["four", "four!"],
    ]
    assert [row.cut for row in result.rows] == [True, True, False]
    assert "three" not in [request.messages[-1]["content"] for request in engine.asked]
    assert result.counts == {f"{CUT}: trained up to there": 2} and not result.dropped
    again = Echo()  # the record knows it too, and so do the rows on disk
    assert run(tmp_path, rows, again) == result and not again.asked
    assert [Conversation.from_json(row.to_json()) for row in result.rows] == result.rows


CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}, "id": "1"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TIME = [{"role": "user", "content": "time?"}, CALLING]


def test_calls_of_tools_are_not_made_up(tmp_path: Path) -> None:
    row = Conversation("a", [*talk("a", "one").messages, *TIME])
    result = run(tmp_path, [row, Conversation("b", TIME)], Echo())
    assert said(result.rows[0])[1:] == ["one", "one!"]
    cause = "tool calls cannot be regenerated"
    assert result.counts == {f"{cause}: shortened": 1, f"{cause}: dropped": 1}


def test_a_chat_goes_on_past_a_call_whose_result_the_dataset_has(tmp_path: Path) -> None:
    result = {"role": "tool", "content": "12:00"}
    old = {"role": "assistant", "content": "old"}
    row = Conversation("a", [*TIME, result, old, {"role": "user", "content": "and?"}, old])
    engine = Echo()
    found = run(tmp_path, [row], engine)
    assert [m["content"] for m in engine.asked[0].messages] == ["time?", "", "12:00"]
    assert said(found.rows[0]) == ["time?", "", "12:00", "12:00!", "and?", "and?!"]
    # the target has not written the call: it is context
    assert found.rows[0].messages[1] == {**CALLING, "train": False}
    assert found.counts == {"call of a tool kept as the dataset has it, not trained": 1}


def test_a_misfit_shows_in_the_first_answers_and_not_after_the_last(tmp_path: Path) -> None:
    rows = [talk(str(n), "one", "two") for n in range(3 * FIRST)]
    checked = []

    def refuse(conversation: Conversation) -> None:
        checked.append(conversation)
        raise BadRow("rewritten", "row 'a', template 'b'", "do this")

    engine = InOrder()
    with (
        Record.opened(tmp_path / "record", "a") as record,
        pytest.raises(UserError) as refused,
    ):
        regenerate(rows, engine, 0, record, refuse)
    assert str(refused.value) == (
        f"dataset.regenerate: {FIRST} of the first {FIRST} answers would be refused in training "
        "(rewritten: row 'a', template 'b'); do this"
    )
    assert [request.id for request in engine.asked] == [row.id for row in rows[:FIRST]]
    assert [len(conversation.messages) for conversation in checked] == [3] * FIRST
    # what was answered is known when the misfit is mended
    again = Echo()
    with Record.opened(tmp_path / "record", "a") as record:
        mended = regenerate(rows, again, 0, record, lambda conversation: None)
    assert mended == run(tmp_path / "plain", rows, Echo())
    assert len(again.asked) == 2 * len(rows) - FIRST


def test_every_answer_has_a_seed_that_follows_from_row_and_turn(tmp_path: Path) -> None:
    engines = [Echo(), Echo()]
    for number, engine in enumerate(engines):
        run(tmp_path / str(number), [talk("a", "x", "y"), talk("b", "x", "y")], engine)
    first, again = ({(r.id, len(r.messages)): r.seed for r in e.asked} for e in engines)
    assert first == again
    assert len(set(first.values())) == 4


@pytest.mark.parametrize("killed_after", range(6))
def test_after_a_kill_nothing_is_asked_twice_and_nothing_left_out(
    tmp_path: Path, killed_after: int
) -> None:
    rows = [talk("a", "one", "two"), talk("b", "three", "four"), talk("c", "cut"), talk("d", "x")]
    expected = run(tmp_path / "whole", rows, Echo())
    before, after = Echo(killed_after), Echo()
    with pytest.raises(UserError, match="killed"):
        run(tmp_path, rows, before)
    with open(tmp_path / "record", "a") as record:
        record.write('{"id": "a", "tur')  # as a kill leaves a line
    assert run(tmp_path, rows, after) == expected
    asked = [(r.id, len(r.messages)) for r in [*before.asked, *after.asked]]
    # what came last was asked for, and may not have been recorded when the job died
    assert len(asked) - len(set(asked)) <= 1
    assert len(before.asked) == killed_after


def test_a_record_of_other_settings_or_rows_is_not_used(tmp_path: Path) -> None:
    rows = [talk("a", "one")]
    run(tmp_path, rows, Echo())
    again, other = Echo(), Echo()
    run(tmp_path, rows, again)
    run(tmp_path, rows, other, identity="b")
    assert (len(again.asked), len(other.asked)) == (0, 1)


@pytest.mark.parametrize("torn", ["", '{"id": "a", "tu'])
def test_a_full_disk_loses_no_answer_of_an_earlier_job(tmp_path: Path, torn: str) -> None:
    """The record is read again without being written again: nothing may be left to write it to."""
    path = tmp_path / "record"
    run(tmp_path, [talk(str(number), "one", "two") for number in range(20)], Echo())
    before = path.read_text()
    path.write_text(before + torn)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with Record.opened(path, "a") as record:
            assert record.known("19", 2) is not None  # behind the system message
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == before


def test_two_jobs_never_answer_one_shard(tmp_path: Path) -> None:
    with (
        Record.opened(tmp_path / "record", "a"),
        pytest.raises(UserError, match="another process is answering this shard"),
        Record.opened(tmp_path / "record", "a"),
    ):
        pass


def test_what_is_written_comes_back_and_nothing_else_is_taken_for_it(tmp_path: Path) -> None:
    result = run(tmp_path, [talk("a", "é\u2028"), talk("b", "refuse")], Echo())
    out, report = tmp_path / "rows.jsonl", tmp_path / "rows.report.json"
    told = write_answers(out, report, result, SETTINGS, {"dataset": "x"})
    assert told["rows"] == 1
    assert told["first_dropped"] == [{"id": "b", "cause": "refused"}]
    assert read_answers(out, report, SETTINGS.digest)[0] == result.rows
    with pytest.raises(UserError, match="other settings"):
        read_answers(out, report, "other")
    neighbour = out.with_name("more.jsonl"), out.with_name("more.report.json")
    for path, copy in zip((out, report), neighbour, strict=True):
        shutil.copy(path, copy)
    with pytest.raises(UserError, match=r"more\.report\.json: is \S+/rows\.report' under another"):
        read_answers(*neighbour, SETTINGS.digest)
    out.write_text(out.read_text().replace("!", "?"))
    with pytest.raises(UserError, match=r"rows\.jsonl: is not what rows\.report\.json was"):
        read_answers(out, report, SETTINGS.digest)
    out.unlink()
    with pytest.raises(UserError, match=r"rows\.jsonl: No such file"):
        read_answers(out, report, SETTINGS.digest)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running() as result:
        yield result


def test_a_server_is_asked_as_the_settings_say(server: FakeServer, tmp_path: Path) -> None:
    engine = OpenAIEngine([server.url], None, 4, SAMPLING)
    tools = [{"type": "function", "function": {"name": "clock"}}]
    row = Conversation("a", talk("a", "thinks").messages, tools)
    result = run(tmp_path, [row], engine)
    (asked,) = server.requests
    assert asked["model"] == "target"
    assert asked["messages"] == row.messages[:-1]
    assert "chat_template_kwargs" not in asked and "reasoning_effort" not in asked
    assert {k: asked[k] for k in ("temperature", "top_p", "top_k", "max_tokens", "tools")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "max_tokens": 9,
        "tools": tools,
    }
    # a server fills in what is not said from the target's generation_config.json
    assert (asked["min_p"], asked["repetition_penalty"]) == (0.0, 1.0)
    assert 0 <= asked["seed"] < 2**31
    answer = result.rows[0].messages[-1]
    assert answer["content"] == "thinks answered"
    assert answer["reasoning_content"] == "Hm."


def test_all_that_shapes_the_prompt_reaches_the_server(server: FakeServer, tmp_path: Path) -> None:
    options = {"enable_thinking": False, "reasoning_effort": "low"}
    engine = OpenAIEngine([server.url], None, 4, SAMPLING, options, "Be short.")
    bare = Conversation("a", talk("a", "one").messages[1:], None, None, {"enable_thinking": True})
    own = talk("b", "two")
    thought = {"role": "assistant", "content": "x", "reasoning_content": "so", "train": False}
    called = [*TIME, {"role": "tool", "content": "12:00"}, thought]
    run(tmp_path, [bare, own, Conversation("c", called)], engine)
    asked = {request["messages"][1]["content"]: request for request in server.requests}
    first, second, third = asked["one"], asked["two"], asked["time?"]
    assert first["messages"][0] == {"role": "system", "content": "Be short."}
    assert first["chat_template_kwargs"] == {"enable_thinking": True, "reasoning_effort": "low"}
    assert second["messages"][0]["content"] == "Be kind."
    assert second["chat_template_kwargs"] == options
    assert second["reasoning_effort"] == "low"
    (call,) = third["messages"][2]["tool_calls"]
    assert call["function"] == {"name": "clock", "arguments": '{"zone": "UTC"}'}
    assert "train" not in third["messages"][2]
    named = openai_answers._for_servers(thought)  # as newer and as older servers name it
    assert named["reasoning"] == named["reasoning_content"] == "so"


def test_faults_of_a_server_cost_time_and_no_row(server: FakeServer, tmp_path: Path) -> None:
    words = ["busy", "broken", "hangs up", "slow", "refuses", "cut", "empty", "half"]
    words.append("fine")
    rows = [talk(f"{word}-{n}", f"{word} {n}", "and then?") for n in range(4) for word in words]
    result = run(tmp_path, rows, OpenAIEngine([server.url], "target", 5, SAMPLING))
    good = [r.id for r in rows if not r.id.startswith(("refuses", "empty", "half"))]
    assert [row.id for row in result.rows] == good
    for row in result.rows:
        assert row.cut == row.id.startswith("cut")
        second = [] if row.cut else ["and then?", "and then? answered"]
        assert said(row)[2].endswith(" answered") and said(row)[3:] == second
    assert result.counts == {
        "the server refuses the conversation: dropped": 4,
        f"{CUT}: trained up to there": 4,
        "answer without text: dropped": 4,
        "answer is not valid Unicode: dropped": 4,
    }
    assert server.most_at_once <= 5


def test_no_conversation_waits_for_the_answer_to_another(
    server: FakeServer, tmp_path: Path
) -> None:
    """The server holds the first answer back until the last turn of the other one was asked."""
    rows = [talk("a", "waits for: third", "and?"), talk("b", "first", "second", "third")]
    result = run(tmp_path, rows, OpenAIEngine([server.url], "target", 2, SAMPLING))
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert set(asked[:2]) == {"waits for: third", "first"}
    assert asked[2:] == ["second", "third", "and?"]
    assert [len(said(row)) for row in result.rows] == [5, 7]


def test_a_conversation_that_has_begun_goes_before_those_that_have_not(
    server: FakeServer, tmp_path: Path
) -> None:
    rows = [talk(name, f"{name} one", f"{name} two") for name in ("a", "b", "c")]
    run(tmp_path, rows, OpenAIEngine([server.url], "target", 1, SAMPLING))
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert asked == ["a one", "a two", "b one", "b two", "c one", "c two"]


def test_a_server_that_stays_away_stops_the_job_and_keeps_what_was_answered(
    server: FakeServer, tmp_path: Path
) -> None:
    rows = [talk(str(n), f"fine {n}") for n in range(8)] + [talk("x", "never")]
    engine = OpenAIEngine([server.url], "target", 1, SAMPLING)
    with pytest.raises(UserError, match=r"resources\.regenerate\.servers: http.* failed 6 times"):
        run(tmp_path, rows, engine)
    lines = [json.loads(line) for line in (tmp_path / "record").read_text().splitlines()[1:]]
    assert {line["id"] for line in lines} == {str(n) for n in range(8)}
    absent = pytest.raises(UserError, match=r"resources\.regenerate\.servers")
    with address_of_nobody() as address, absent:
        OpenAIEngine([f"{address}/v1"], None, 1, SAMPLING)


def test_several_models_must_be_told_apart(server: FakeServer) -> None:
    server.models = ["target", "draft"]
    with pytest.raises(UserError, match=r"model is null, and .* has 2 models \(target, draft\)"):
        OpenAIEngine([server.url], None, 1, SAMPLING)


def test_a_row_stays_with_one_of_several_servers(tmp_path: Path) -> None:
    with running() as one, running() as other:
        engine = OpenAIEngine([one.url, other.url], "target", 3, SAMPLING)
        result = run(tmp_path, [talk(str(n), "a", "b") for n in range(20)], engine)
        assert len(result.rows) == 20
        for fake in (one, other):
            assert 0 < len(fake.requests) < 40
            assert len(fake.requests) % 2 == 0
