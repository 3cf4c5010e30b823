"""Tool calls and tool descriptions, in the form that templates take.

Tables have every column in every row, so Arrow adds nulls: to a call, the arguments of all other
tools of the dataset; to a schema, the properties of all other schemas. A target never writes them.
They are removed where they can be told from intended nulls: in schemas, which contain none; in
arguments of rows that come from a table (`sources`); in arguments of any row where the tool's
schema has no such property.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from eagle3.data.faults import BadRow, clean

# keys of a call's arguments: OpenAI's, Llama 3's, LangChain's and Anthropic's
ARGUMENTS = ("arguments", "parameters", "args", "input")
CALL = ("name", "function", "id", "call_id", "type", "index")
NULLABLE = ("default", "enum", "const")  # members of a schema that may be or contain null
DEEPEST = 64  # levels of nesting: templates and checks recurse


def tools_of(column: Any, wrapped: bool = True) -> list[dict[str, Any]] | None:
    """Tool descriptions as templates take them; None if there are none.

    Unless `wrapped`, a bare function is wrapped as a tool. Raises BadRow if they are not JSON, or
    not a list of objects.
    """
    try:
        as_json = column if isinstance(column, str) else json.dumps(column, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        raise BadRow("tools are not JSON") from None
    tools = from_json(as_json, "tools")
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("tools are not a list of objects")
    if _is_deep(tools):
        raise BadRow("tools are nested too deeply")
    tools = [without_nulls(tool) for tool in tools]
    if not wrapped:
        tools = [t if "function" in t else {"type": "function", "function": t} for t in tools]
    return tools


def calls_of(column: Any) -> list[dict[str, Any]]:
    """Calls as templates take them; an empty list if there are none. Raises BadRow."""
    calls = from_json(column, "tool_calls") if isinstance(column, str) else column
    if not calls:
        return []
    if not isinstance(calls, list):
        raise BadRow("tool_calls are not a list")
    return [_call(call) for call in calls]


def calls_in(text: str) -> list[dict[str, Any]]:
    """The calls of a turn whose whole content is a call, as JSON text. Raises BadRow."""
    value = from_json(text, "a turn of calls")
    return calls_of(value if isinstance(value, list) else [value])


def _call(call: Any) -> dict[str, Any]:
    """A call as templates take it: its arguments as an object, not as text."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRow("a tool call names no function")
    fields = {**call, **function}
    argument_keys = [name for name in ARGUMENTS if fields.get(name)]
    unknown = sorted(key for key in fields if key not in (*ARGUMENTS, *CALL) and fields[key])
    if unknown:
        raise BadRow(f"a tool call carries {unknown[0][:40]!r}, which is not understood")
    if len(argument_keys) > 1:
        raise BadRow(f"a tool call has both {argument_keys[0]} and {argument_keys[1]}")
    arguments = fields[argument_keys[0]] if argument_keys else None
    if isinstance(arguments, str):
        arguments = from_json(arguments, "arguments of a tool call")
    if not isinstance(arguments if arguments is not None else {}, Mapping):
        raise BadRow("arguments of a tool call are not an object")
    if _is_deep(arguments):
        raise BadRow("arguments of a tool call are nested too deeply")
    function_call = {
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments or {}},
    }
    if isinstance(call.get("id"), str):
        function_call["id"] = call["id"]
    try:
        clean(json.dumps(function_call, ensure_ascii=False))
    except (ValueError, TypeError, RecursionError):
        raise BadRow("tool_calls are not JSON") from None
    return function_call


def with_text_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """The call with its arguments as JSON text."""
    function = call["function"]
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


def with_naming_ids(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with call ids as Kimi K2 gives them, `functions.<name>:<number in the chat>`;
    tool results have the ids of the calls that they answer."""
    renamed: list[dict[str, Any]] = []
    number = 0
    waiting: list[tuple[str | None, str]] = []  # old and new ids of calls without a result yet
    for message in messages:
        changed = message
        if message.get("tool_calls"):
            calls, waiting = [], []
            for call in message["tool_calls"]:
                identity = f"functions.{call['function']['name']}:{number}"
                waiting.append((call.get("id"), identity))
                calls.append({**call, "id": identity})
                number += 1
            changed = {**message, "tool_calls": calls}
        elif message["role"] == "tool" and waiting:
            answered = [pair for pair in waiting if pair[0] == message.get("tool_call_id")]
            pair = answered[0] if answered else waiting[0]
            waiting.remove(pair)
            changed = {**message, "tool_call_id": pair[1]}
        renamed.append(changed)
    return renamed


def without_foreign_nulls(
    call: dict[str, Any], tools: list[dict[str, Any]] | None
) -> dict[str, Any]:
    """The call without arguments that are null and unknown to the schema of its tool."""
    function = call["function"]
    if None not in function["arguments"].values():
        return call
    functions = [tool.get("function", tool) for tool in tools or ()]
    schemas = [t.get("parameters") for t in functions if t.get("name") == function["name"]]
    properties = schemas[0].get("properties") if schemas and isinstance(schemas[0], dict) else None
    if not isinstance(properties, dict):
        return call
    arguments = {k: v for k, v in function["arguments"].items() if v is not None or k in properties}
    return {**call, "function": {**function, "arguments": arguments}}


def without_nulls(value: Any) -> Any:
    """A value without the members of its objects that are null, at any depth."""
    if isinstance(value, dict):
        return {
            key: member if key in NULLABLE else without_nulls(member)
            for key, member in value.items()
            if member is not None or key in NULLABLE
        }
    return [without_nulls(member) for member in value] if isinstance(value, list) else value


def _is_deep(value: Any, level: int = 0) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | list):
        return False
    return level == DEEPEST or any(_is_deep(member, level + 1) for member in inner)


def from_json(text: str, what: str) -> Any:
    """The value of a JSON text; None for an empty one. Raises BadRow if it is not JSON."""
    try:
        value = json.loads(text.strip() or "null")
        clean(json.dumps(value, ensure_ascii=False))
    except (ValueError, RecursionError):
        raise BadRow(f"{what} are not JSON") from None
    return value
