"""Whether a template shows an answer as it is, all of it."""

from __future__ import annotations

from collections.abc import Callable

from eagle3.data.conversations import BadRow, Message


def check_shown(said: str, answer: Message, opener: Callable[[], str]) -> None:
    """Raise BadRow if the text `said` does not show an answer as it is. Templates trim: Llama all
    around, Qwen3 leading newlines. `opener`: what the template has plain answers begin with."""
    content = answer["content"]
    forms = (content, content.strip(), content.lstrip("\n"), content.strip("\n"))
    plain = not answer.get("tool_calls") and not answer.get("reasoning_content")
    if plain and said not in forms and said.removeprefix(opener()) not in forms:
        raise BadRow("rendered text does not show a turn as it is (the template rewrites it)")
    beside = [call["function"]["name"] for call in answer.get("tool_calls", ())]
    beside.append(answer.get("reasoning_content", "").strip())
    if not (content.strip() in said and all(part in said for part in beside)):
        raise BadRow("rendered text does not show a turn as it is (the template leaves parts out)")
