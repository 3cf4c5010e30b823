"""Answers marked by a template's own `{% generation %}` blocks.

The blocks are written for training on whole turns, so they seldom match what a target emits: many
contain the newline after the end of a turn, some end before the stop token, some begin before the
end of the prompt. Each is cut or extended to what the target emits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eagle3.data.answer_finder import AnswerFinder, Span
from eagle3.data.conversations import BadRow, Message
from eagle3.data.rendering_check import cut


def spans_of_marks(
    finder: AnswerFinder,
    stops: tuple[str, ...],
    messages: list[Message],
    answers: Sequence[int],
    tools: Any,
) -> tuple[str, list[Span]]:
    """The text of a conversation, and the spans of it that the blocks mark.

    `stops`: texts of the tokens at which the target stops, if they are known. `answers`: indices of
    the messages that are trained. Raises BadRow if the blocks do not end where the target stops.
    """
    text, blocks = finder.template.with_marks(messages, tools)
    prompts = [finder.template(messages[:index], tools, prompt=True) for index in answers]
    prompt_ends = [len(prompt) for prompt in prompts if text.startswith(prompt)]
    spans = []
    for first, last in blocks:
        start = max([first, *(end for end in prompt_ends if first < end < last)])
        end = _end(text, start, last, stops)
        if text[start:end].strip() and text[start:end] not in stops:
            spans.append((start, end))
    if len(answers) < sum(message["role"] == "assistant" for message in messages):
        spans = [span for span in spans if span[0] in prompt_ends]
    unended = [s for s in spans[-1:] if not text[s[0] : s[1]].endswith(stops)]
    if unended and stops and not finder.next_turn_ends:
        raise BadRow(
            "the template's {% generation %} block does not end where the target stops",
            f"it ends with {cut(text[: unended[0][1]][-60:])}",
            "set tokens.chat_template to auto, which needs no blocks, or correct eos_token_id in "
            "generation_config.json",
        )
    return text, spans


def _end(text: str, start: int, last: int, stops: Sequence[str]) -> int:
    """The end of the last stop token in a block, or of one that follows it directly."""
    inside = [
        text.rfind(stop, start, last) + len(stop) for stop in stops if stop in text[start:last]
    ]
    if inside:
        return max(inside)
    return last + next((len(stop) for stop in stops if text.startswith(stop, last)), 0)
