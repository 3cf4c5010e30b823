"""Rows of every shape people have become conversations, or are refused with a cause."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eagle3.data.conversations import BadRow, Conversation, parse_row
from eagle3.data.tool_calls import with_naming_ids

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
        {"id": "a", "messages": [{"role": "User", "content": "Hi"}, {**TALK[1], "score": 1}]},
        {"id": "a", "messages": [TALK[0], {**TALK[1], "unheard_of": None, "of_too": []}]},
        {"id": "a", "messages": [{"role": "system", "content": ""}, *TALK], "system": " "},
    ],
)
def test_every_known_shape_gives_the_same_conversation(row: dict[str, Any]) -> None:
    result, repairs = parse_row(row)
    assert result == Conversation("a", TALK)
    assert repairs in ([], ["empty system message left out"])


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
    result, _ = parse_row({"id": 1, "messages": [TALK[0], {"from": name, "value": "Hello"}]})
    assert result.messages == TALK


def test_numbers_are_ids_and_a_missing_id_follows_from_the_content() -> None:
    assert parse_row({"id": 0, "messages": TALK})[0].id == "0"
    first, again = (parse_row({"messages": TALK})[0].id for _ in range(2))
    other = parse_row({"id": "", "messages": [TALK[0], {**TALK[1], "content": "Bye"}]})[0].id
    assert first == again != other
    assert len(first) == 16


def test_what_no_server_could_have_seen_is_trimmed_and_counted() -> None:
    result, repairs = parse_row({"id": 1, "messages": turns("assistant", "user", "assistant")})
    assert [m["content"] for m in result.messages] == ["user 1", "assistant 2"]
    assert repairs == ["assistant turn before the first user turn left out"]
    result, repairs = parse_row({"id": 1, "messages": turns("system", "user", "assistant", "user")})
    assert [m["role"] for m in result.messages] == ["system", "user", "assistant"]
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
        ({"messages": [{"role": "user", "content": [["Hi"]]}, TALK[1]]}, "content is not text"),
        ({"messages": [{"role": "user"}, TALK[1]]}, "content is not text"),
        ({"messages": [{"role": "user", "content": " \n"}, TALK[1]]}, "empty content"),
        ({"messages": [TALK[0], {**TALK[1], "audio": "x"}]}, "turn carries 'audio', which is not"),
        ({"messages": TALK, "images": ["a.png"]}, "the row has images, which no text can show"),
        ({"text": "<user>Hi", "image": "a.png"}, "the row has image, which no text can show"),
        ({"messages": TALK, "system": ["Be kind."]}, "the system prompt in a column is not text"),
        (
            {"messages": [{"role": "system", "content": "Be kind."}, *TALK], "system": "Be short."},
            "the row has two system prompts that differ",
        ),
        ({"messages": [TALK[0], {**TALK[1], "reasoning": "a", "thinking": "b"}]}, "two thoughts"),
        ({"messages": [TALK[0], {**TALK[1], "weight": 0}]}, "every answer is marked not to be"),
        ({"messages": TALK, "chat_template_kwargs": [1]}, "chat_template_kwargs are not an obj"),
        ({"messages": TALK, "chat_template_kwargs": {"a": [1]}}, "chat_template_kwargs are not"),
        ({"messages": TALK, "chat_template_kwargs": {"a": "\ud800"}}, "text is not valid Unicode"),
        ({"messages": TALK, "chat_template_kwargs": {"\ud800": 1}}, "text is not valid Unicode"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "text is not valid Unicode"),
        ({"messages": turns("user")}, "no user turn with an answer"),
        ({"messages": turns("assistant")}, "no user turn with an answer"),
        ({"messages": turns("system")}, "no user turn with an answer"),
        ({"id": ["a"], "messages": TALK}, "id is neither text nor a number"),
        ({"id": "\udc00", "messages": TALK}, "text is not valid Unicode"),
    ],
)
def test_a_bad_row_is_refused_with_its_cause(row: Any, cause: str) -> None:
    with pytest.raises(BadRow, match=cause):
        parse_row(row)


@pytest.mark.parametrize(
    ("given", "identity"),
    [(1.0, "1"), (2**53 + 2.0, str(2**53 + 2)), (1.5, "1.5"), (float("inf"), "inf")],
)
def test_numbers_that_pandas_made_floats_are_ids(given: float, identity: str) -> None:
    assert parse_row({"id": given, "messages": TALK})[0].id == identity
    missing = parse_row({"id": float("nan"), "messages": TALK})[0].id
    assert missing == parse_row({"messages": TALK})[0].id


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_is_one_thing_under_every_name(name: str) -> None:
    expected = [TALK[0], {**TALK[1], "reasoning_content": "Say hello."}]
    row = {"id": "a", "messages": [TALK[0], {**TALK[1], name: "Say hello."}]}
    assert parse_row(row)[0].messages == expected
    part = {"type": "thinking", "thinking": "Say hello.", "text": None}
    content = [part, {"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    row["messages"] = [TALK[0], {"role": "assistant", "content": content}]
    assert parse_row(row)[0].messages == expected
    both = {**TALK[1], "reasoning": "Say hello.", "reasoning_content": "Say hello."}
    assert parse_row({"id": "a", "messages": [TALK[0], both]})[0].messages == expected


def test_a_thought_in_the_content_and_another_beside_it_are_not_one() -> None:
    content = [{"type": "thinking", "thinking": "Say hi."}, {"type": "text", "text": "Hello"}]
    for name in ("reasoning_content", "thinking"):
        answer = {"role": "assistant", "content": content, name: "Say hello."}
        with pytest.raises(BadRow, match="turn carries two thoughts that differ"):
            parse_row({"id": "a", "messages": [TALK[0], answer]})
        same = {**answer, name: "Say hi."}
        thought = parse_row({"id": "a", "messages": [TALK[0], same]})[0].messages[1]
        assert thought == {**TALK[1], "reasoning_content": "Say hi."}


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video", "tool_use"])
def test_parts_that_are_no_text_are_refused_by_name(kind: str) -> None:
    parts = [{"type": "text", "text": "See"}, {"type": kind, kind: {"url": "x"}}]
    with pytest.raises(BadRow, match=f"content has a part of type '{kind}'"):
        parse_row({"id": 1, "messages": [{"role": "user", "content": parts}, TALK[1]]})


@pytest.mark.parametrize(
    "flag", [{"weight": 0}, {"train": False}, {"loss_mask": 0}, {"trainable": False}, {"loss": 0.0}]
)
def test_a_turn_marked_not_to_be_trained_is_context_only(flag: dict[str, Any]) -> None:
    given = [TALK[0], {**TALK[1], **flag}, *TALK, TALK[0], {**TALK[1], "weight": 1}]
    result, repairs = parse_row({"id": "a", "messages": given})
    assert repairs == []
    assert [m.get("train", True) for m in result.messages[1::2]] == [False, True, True]
    assert parse_row(json.loads(result.to_json())) == (result, [])


def test_a_system_prompt_in_a_column_is_the_first_message() -> None:
    system = {"role": "system", "content": "Be kind."}
    for column in ("system", "system_prompt"):
        assert parse_row({"messages": TALK, column: "Be kind."})[0].messages == [system, *TALK]
        twice = {"messages": [system, *TALK], column: "Be kind."}
        assert parse_row(twice)[0].messages == [system, *TALK]
        empty = {"messages": [{**system, "content": None}, *TALK], column: "Be kind."}
        assert parse_row(empty)[0].messages == [system, *TALK]


def test_what_a_row_passes_to_the_template_is_kept() -> None:
    options = {"enable_thinking": False, "none": None}
    for given in (options, json.dumps(options)):
        result, _ = parse_row({"id": "a", "messages": TALK, "chat_template_kwargs": given})
        assert result.options == {"enable_thinking": False}
        assert Conversation.from_json(result.to_json()) == result


@pytest.mark.parametrize("content", ["", None, " \n"])
def test_an_empty_result_of_a_tool_stays_and_an_empty_last_answer_goes(content: Any) -> None:
    result = {**RESULT, "content": content}
    found, _ = parse_row({"id": 1, "messages": [TALK[0], CALLING, result, TALK[1]]})
    assert found.messages[2]["content"] == (content or "")
    more = [*TALK, TALK[0], {"role": "assistant", "content": content or ""}]
    found, repairs = parse_row({"id": 1, "messages": more})
    assert found.messages == TALK
    assert repairs == ["empty last answer left out", "unanswered last user turn left out"]


@pytest.mark.parametrize(
    ("name", "role"),
    [("developer", "system"), ("prompter", "user"), ("ai", "assistant"), ("ipython", "tool")],
)
def test_other_names_of_roles_are_known(name: str, role: str) -> None:
    chat = [{"role": "system", "content": "Be kind."}, TALK[0], CALLING, RESULT, TALK[1]]
    named = [{**m, "role": name} if m["role"] == role else m for m in chat]
    assert parse_row({"id": 1, "messages": named})[0].messages == chat


@pytest.mark.parametrize("name", ["function_call", "tool_call"])
def test_a_turn_that_is_a_call_becomes_an_answer_that_calls(name: str) -> None:
    call = {"name": "clock", "arguments": {"zone": "UTC"}}
    for value in (json.dumps(call), json.dumps([call])):
        turns = [SHAREGPT[0], {"from": name, "value": value}, {"from": "observation", "value": "x"}]
        result, _ = parse_row({"id": 1, "conversations": [*turns, SHAREGPT[1]]})
        assert result.messages[1] == CALLING
    thinking = {"from": name, "value": json.dumps(call), "reasoning_content": "What time is it?"}
    seen = {"from": "observation", "value": "x"}
    result, _ = parse_row({"id": 1, "conversations": [SHAREGPT[0], thinking, seen, SHAREGPT[1]]})
    assert result.messages[1] == {**CALLING, "reasoning_content": "What time is it?"}
    with pytest.raises(BadRow, match="a turn of calls are not JSON"):
        parse_row({"id": 1, "conversations": [SHAREGPT[0], {"from": name, "value": "clock()"}]})


def test_null_arguments_that_the_schema_does_not_know_are_left_out() -> None:
    call = {"name": "clock", "arguments": {"zone": None, "city": None}}
    tools = [{"function": {"name": "clock", "parameters": {"properties": {"zone": {}}}}}]
    row = {"id": 1, "messages": [TALK[0], {**CALLING, "tool_calls": [call]}], "tools": tools}
    (made,) = parse_row(row)[0].messages[1]["tool_calls"]
    assert made["function"]["arguments"] == {"zone": None}
    row.pop("tools")
    (made,) = parse_row(row)[0].messages[1]["tool_calls"]
    assert made["function"]["arguments"] == {"zone": None, "city": None}


def test_ids_that_name_the_function_go_to_the_results_that_answer_them() -> None:
    calls = [{**CALL, "id": identity} for identity in ("b", "a")]
    results = [{**RESULT, "tool_call_id": identity} for identity in ("a", "b")]
    unnamed = {"role": "tool", "content": "13:00"}
    chat = [TALK[0], {**CALLING, "tool_calls": calls}, *results, CALLING, unnamed, TALK[1]]
    made = with_naming_ids(chat)
    assert [call["id"] for call in made[1]["tool_calls"]] == [
        f"functions.clock:{n}" for n in (0, 1)
    ]
    assert [m["tool_call_id"] for m in made[2:4]] == ["functions.clock:1", "functions.clock:0"]
    assert made[4]["tool_calls"][0]["id"] == made[5]["tool_call_id"] == "functions.clock:2"
    assert chat[2]["tool_call_id"] == "a"  # the given messages stay as they are


def test_calls_of_one_id_are_answered_in_order() -> None:
    calls = [{**CALL, "id": "same"}, {**CALL, "id": "same"}]
    results = [{**RESULT, "tool_call_id": "same"}] * 2
    made = with_naming_ids([TALK[0], {**CALLING, "tool_calls": calls}, *results, TALK[1]])
    assert [m["tool_call_id"] for m in made[2:4]] == ["functions.clock:0", "functions.clock:1"]


def test_nulls_leave_schemas_but_for_what_may_be_null() -> None:
    schema = {"a": None, "properties": {"x": None, "y": {"default": None, "enum": [None, {}]}}}
    row = {"id": 1, "messages": TALK, "tools": [{"name": "clock", "parameters": schema}]}
    (made,) = parse_row(row)[0].tools
    assert made["parameters"] == {"properties": {"y": {"default": None, "enum": [None, {}]}}}
    bare = {"id": 1, "messages": TALK, "functions": [{"name": "clock"}]}
    assert parse_row(bare)[0].tools == [{"type": "function", "function": {"name": "clock"}}]


CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "12:00", "tool_call_id": "c1", "name": "clock"}


def test_calls_results_and_thoughts_survive() -> None:
    thought = {**TALK[1], "reasoning_content": "Say hello."}
    messages = [TALK[0], {**CALLING, "content": None}, RESULT, RESULT, thought]
    result, repairs = parse_row({"id": "a", "messages": messages})
    assert result.messages == [TALK[0], CALLING, RESULT, RESULT, thought]
    assert repairs == []
    assert Conversation.from_json(result.to_json()) == result
    named = [{**m, "role": "observation"} if m is RESULT else m for m in result.messages]
    assert parse_row({"id": "a", "messages": named})[0] == result


@pytest.mark.parametrize(
    "calls",
    [
        [CALL],
        json.dumps([CALL]),
        [{"name": "clock", "arguments": {"zone": "UTC"}}],
        [{"function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}],
        [{"name": "clock", "args": {"zone": "UTC"}, "type": "tool_call", "id": None}],  # LangChain
        [{"name": "clock", "parameters": {"zone": "UTC"}}],  # Llama 3
        [{"name": "clock", "input": {"zone": "UTC"}, "type": "tool_use"}],  # Anthropic
        [{"function": {"name": "clock"}, "arguments": {"zone": "UTC"}}],
        [{"name": "clock", "arguments": {"zone": "UTC"}, "args": None, "parameters": {}}],
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
        ({"tool_calls": [{"name": "clock", "kwargs": {"a": 1}}]}, "call carries 'kwargs'"),
        ({"tool_calls": [{"name": "f", "args": [1], "input": [2]}]}, "has both args and input"),
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
    result, repairs = parse_row({"id": 1, "messages": [TALK[0], CALLING, RESULT]})
    assert result.messages == [TALK[0], CALLING]
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


@pytest.mark.parametrize("levels", [40, 150, 300])
def test_what_is_nested_too_deeply_for_a_template_is_refused(levels: int) -> None:
    deep: Any = 1
    for _ in range(levels):
        deep = {"a": [deep]}
    for tools in ([deep], json.dumps([deep])):
        with pytest.raises(BadRow, match="tools are nested too deeply"):
            parse_row({"id": 1, "messages": TALK, "tools": tools})
    for arguments in (deep, json.dumps(deep)):
        call = {"name": "clock", "arguments": arguments}
        with pytest.raises(BadRow, match="tool call are nested too deeply"):
            parse_row({"id": 1, "messages": [TALK[0], {**TALK[1], "tool_calls": [call]}]})


def test_json_round_trip_keeps_every_character() -> None:
    odd = [{"role": "user", "content": "é\u2028\x00 \n👩‍👧"}, TALK[1]]
    for tools in (None, [{"name": "clock", "note": "\u2029"}]):
        given = Conversation("i\nd", odd, tools)
        line = given.to_json()
        assert "\n" not in line
        assert Conversation.from_json(line.encode()) == given
