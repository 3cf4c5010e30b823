"""Prompts in the shapes of benchmarks."""

from __future__ import annotations

import pytest

from eagle3.data.prompts import SUMMARISE, questions
from eagle3.data.row_files import Unreadable

ROWS = {
    "mt-bench": ({"question_id": 81, "turns": ["a", "b"]}, ("81", "a", ("b",))),
    "mt-bench, as a list": ({"prompt": ["a", "b"], "prompt_id": 3}, ("1", "a", ("b",))),
    "humaneval": (
        {"task_id": "HumanEval/0", "prompt": "def f():"},
        ("HumanEval/0", "def f():", ()),
    ),
    "arena-hard": (
        {"question_id": "x", "category": "arena-hard-v0.1", "turns": [{"content": "a"}]},
        ("x", "a", ()),
    ),
    "math-500": (
        {"problem": "1 + 1?", "solution": "It is 2.", "answer": "2", "unique_id": "test/1.json"},
        ("test/1.json", "1 + 1?", ()),
    ),
    "gsm8k": ({"question": "1 + 1?", "answer": "2"}, ("1", "1 + 1?", ())),
    "alpaca": ({"instruction": "Sort.", "input": "", "output": "x"}, ("1", "Sort.", ())),
    "alpaca with input": ({"instruction": "Sort.", "input": "b a"}, ("1", "Sort.\n\nb a", ())),
    "cnn/dm": ({"id": "x", "article": "News.", "highlights": "n"}, ("x", SUMMARISE + "News.", ())),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_a_benchmark_is_a_question(name):
    row, (identity, text, later) = ROWS[name]
    (result,) = questions([row])
    assert (result.id, result.later) == (identity, later)
    assert result.messages == [{"role": "user", "content": text}]


def test_a_chat_is_asked_up_to_its_last_answer():
    turns = [("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
    row = {"id": "x", "conversations": [{"from": who, "value": said} for who, said in turns]}
    (result,) = questions([row])
    assert [m["content"] for m in result.messages] == ["a", "b", "c"] and result.later == ()


@pytest.mark.parametrize("name", ["conversations", "messages", "prompt"])
@pytest.mark.parametrize("asker", ["user", "User", "Human", "prompter"])
def test_a_chat_whose_last_question_is_open_is_asked_up_to_it(name, asker):
    turns = [(asker, "a"), ("assistant", "b"), (asker, "c")]
    (result,) = questions([{name: [{"role": who, "content": said} for who, said in turns]}])
    assert [m["content"] for m in result.messages] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["tool", "function", "observation"])
def test_a_result_of_a_tool_waits_for_an_answer_under_every_name(name):
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}
    turns = [{"role": "user", "content": "a"}, call, {"role": name, "content": "b"}]
    (result,) = questions([{"messages": turns}])
    assert [m["role"] for m in result.messages] == ["user", "assistant", "tool"]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a"},
        {"turns": []},
        {"turns": ["a", 3]},
        {"turns": [{"content": 3}]},
        {"prompt": " "},
        [],
        "a",
    ],
)
def test_a_row_of_no_known_shape_is_counted_with_its_cause(row):
    result = list(questions([row, Unreadable("line is not JSON"), {"question": "q"}]))
    assert isinstance(result[0], Unreadable) and result[0].cause
    assert result[1] == Unreadable("line is not JSON")
    assert result[2].id == "3"
