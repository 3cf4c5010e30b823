"""Rows of every shape people have become conversations, or are refused with a cause."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eagle3.data.conversations import BadRow, Conversation, parse_row

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{role} {i}"} for i, role in enumerate(roles)]


@pytest.mark.parametrize(
    "row",
    [
        {"id": "a", "conversations": SHAREGPT},
        {"id": "a", "conversations": TALK},
        {"id": "a", "messages": TALK},
        {"conversation_id": "a", "messages": TALK},
        {"id": "a", "messages": [{"role": "User", "content": "Hi"}, {**TALK[1], "extra": 1}]},
    ],
)
def test_every_known_shape_gives_the_same_conversation(row: dict[str, Any]) -> None:
    assert parse_row(row) == (Conversation("a", TALK), [])


def test_null_columns_of_a_hub_table_count_as_absent() -> None:
    row = {
        "id": None,
        "conversation_id": "a",
        "conversations": None,
        "messages": [
            {"from": None, "value": None, "role": t["role"], "content": t["content"]} for t in TALK
        ],
        "tools": None,
    }
    assert parse_row(row) == (Conversation("a", TALK), [])


@pytest.mark.parametrize("name", ["gpt", "chatgpt", "bing", "bard", "assistant", "model", "GPT"])
def test_every_name_of_the_assistant_is_understood(name: str) -> None:
    found, _ = parse_row({"id": 1, "messages": [TALK[0], {"from": name, "value": "Hello"}]})
    assert found.messages == TALK


def test_numbers_are_ids_and_a_missing_id_follows_from_the_content() -> None:
    assert parse_row({"id": 0, "messages": TALK})[0].id == "0"
    first, again = (parse_row({"messages": TALK})[0].id for _ in range(2))
    other = parse_row({"id": "", "messages": [TALK[0], {**TALK[1], "content": "Bye"}]})[0].id
    assert first == again != other
    assert len(first) == 16


def test_what_no_server_could_have_seen_is_trimmed_and_counted() -> None:
    found, repairs = parse_row({"id": 1, "messages": turns("assistant", "user", "assistant")})
    assert [m["content"] for m in found.messages] == ["user 1", "assistant 2"]
    assert repairs == ["assistant turn before the first user turn left out"]
    found, repairs = parse_row({"id": 1, "messages": turns("system", "user", "assistant", "user")})
    assert [m["role"] for m in found.messages] == ["system", "user", "assistant"]
    assert repairs == ["unanswered last user turn left out"]


@pytest.mark.parametrize(
    "roles",
    [
        ("user", "user", "assistant"),
        ("user", "assistant", "assistant"),
        ("assistant", "assistant", "user", "assistant"),
        ("user", "assistant", "system", "user", "assistant"),
        ("system", "system", "user", "assistant"),
    ],
)
def test_turns_out_of_order_are_refused(roles: tuple[str, ...]) -> None:
    with pytest.raises(BadRow, match="turns do not alternate between user and assistant"):
        parse_row({"id": 1, "messages": turns(*roles)})


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ("text", "row is not an object"),
        (None, "row is not an object"),
        ({}, "no list of turns"),
        ({"messages": []}, "no list of turns"),
        ({"messages": "Hi"}, "no list of turns"),
        ({"messages": {"from": ["human"], "value": ["Hi"]}}, "no list of turns"),
        ({"messages": ["Hi"]}, "turn is not an object"),
        ({"messages": turns("critic")}, "unknown role 'critic'"),
        ({"messages": [{"content": "Hi"}]}, "unknown role 'None'"),
        ({"messages": [{"role": 7, "content": "Hi"}]}, "unknown role '7'"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "content is not text"),
        ({"messages": [{"role": "user"}]}, "content is not text"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "empty content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "text is not valid Unicode"),
        ({"messages": turns("user")}, "no user turn with an answer"),
        ({"messages": turns("assistant")}, "no user turn with an answer"),
        ({"messages": turns("system")}, "no user turn with an answer"),
        ({"id": 1.5, "messages": TALK}, "id is neither text nor a number"),
        ({"id": ["a"], "messages": TALK}, "id is neither text nor a number"),
        ({"id": "\udc00", "messages": TALK}, "text is not valid Unicode"),
    ],
)
def test_a_bad_row_is_refused_with_its_cause(row: Any, cause: str) -> None:
    with pytest.raises(BadRow, match=cause):
        parse_row(row)


CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "12:00", "tool_call_id": "c1", "name": "clock"}


def test_calls_results_and_thoughts_survive() -> None:
    thought = {**TALK[1], "reasoning_content": "Say hello."}
    messages = [TALK[0], {**CALLING, "content": None}, RESULT, RESULT, thought]
    found, repairs = parse_row({"id": "a", "messages": messages})
    assert found.messages == [TALK[0], CALLING, RESULT, RESULT, thought]
    assert repairs == []
    assert Conversation.from_json(found.to_json()) == found
    named = [{**m, "role": "observation"} if m is RESULT else m for m in found.messages]
    assert parse_row({"id": "a", "messages": named})[0] == found


@pytest.mark.parametrize(
    "calls",
    [
        [CALL],
        json.dumps([CALL]),
        [{"name": "clock", "arguments": {"zone": "UTC"}}],
        [{"function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}],
    ],
)
def test_every_form_of_a_call_is_one_form(calls: Any) -> None:
    row = {"id": 1, "messages": [TALK[0], {**TALK[1], "tool_calls": calls}]}
    assert parse_row(row)[0].messages[1]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    ("beside", "cause"),
    [
        ({"function_call": {"name": "clock"}}, "turn carries function_call"),
        ({"tool_calls": "{"}, "tool_calls are not JSON"),
        ({"tool_calls": {"name": "clock"}}, "tool_calls are not a list"),
        ({"tool_calls": ["clock"]}, "a tool call names no function"),
        ({"tool_calls": [{"function": {"arguments": {}}}]}, "a tool call names no function"),
        ({"tool_calls": [{"name": "clock", "arguments": "{"}]}, "arguments of a tool call are not"),
        ({"tool_calls": [{"name": "clock", "arguments": [1]}]}, "are not an object"),
        ({"reasoning_content": ["think"]}, "reasoning_content is not text"),
    ],
)
def test_an_answer_is_never_half_read(beside: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadRow, match=cause):
        parse_row({"id": 1, "messages": [TALK[0], {**TALK[1], **beside}]})
    empty = dict.fromkeys(beside)
    assert parse_row({"id": 1, "messages": [TALK[0], {**TALK[1], **empty}]})[0].messages == TALK


@pytest.mark.parametrize(
    "messages",
    [
        [TALK[0], RESULT, TALK[1]],
        [TALK[0], TALK[1], RESULT, TALK[1]],
        [TALK[0], CALLING, TALK[1]],
        [TALK[0], CALLING, RESULT, TALK[0], TALK[1]],
    ],
)
def test_results_follow_calls_and_answers_follow_results(messages: list[Any]) -> None:
    with pytest.raises(BadRow, match="turns do not alternate"):
        parse_row({"id": 1, "messages": messages})


def test_a_call_may_be_the_last_thing_an_answer_says() -> None:
    found, repairs = parse_row({"id": 1, "messages": [TALK[0], CALLING, RESULT]})
    assert found.messages == [TALK[0], CALLING]
    assert repairs == ["unanswered last result of a tool left out"]


def test_tools_may_be_a_list_or_its_json_text() -> None:
    tools = [{"type": "function", "function": {"name": "clock"}}]
    assert parse_row({"id": 1, "messages": TALK, "tools": tools})[0].tools == tools
    assert parse_row({"id": 1, "messages": TALK, "tools": json.dumps(tools)})[0].tools == tools
    for none in (None, [], "", " ", "[]", "null"):
        assert parse_row({"id": 1, "messages": TALK, "tools": none})[0].tools is None


@pytest.mark.parametrize(
    ("tools", "cause"),
    [
        ("clock", "tools are not JSON"),
        ([{1, 2}], "tools are not JSON"),
        (["clock"], "tools are not a list of objects"),
        ({"name": "clock"}, "tools are not a list of objects"),
        ([{"name": "\ud800"}], "text is not valid Unicode"),
    ],
)
def test_tools_that_no_template_can_read_are_refused(tools: Any, cause: str) -> None:
    with pytest.raises(BadRow, match=cause):
        parse_row({"id": 1, "messages": TALK, "tools": tools})


def test_json_round_trip_keeps_every_character() -> None:
    odd = [{"role": "user", "content": "é\u2028\x00 \n👩‍👧"}, TALK[1]]
    for tools in (None, [{"name": "clock", "note": "\u2029"}]):
        given = Conversation("i\nd", odd, tools)
        line = given.to_json()
        assert "\n" not in line
        assert Conversation.from_json(line.encode()) == given
