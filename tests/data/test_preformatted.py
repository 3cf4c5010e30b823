"""Texts rendered by somebody else: the same spans as the turns they were made of would give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3.config.tokens import Tokens
from eagle3.data.answer_record import Record
from eagle3.data.conversations import BadRow, Conversation, parse_row
from eagle3.data.masks import Masker
from eagle3.data.preformatted import Marks, answers_of
from eagle3.data.regeneration import regenerate
from eagle3.data.templates import Renderer
from tests.data.published import published
from tests.data.toy_tokenizers import (
    CHATML,
    EMPTY_THOUGHT,
    GENERATION,
    LLAMA3,
    QWEN3,
    conversation_of,
    toy_tokenizer,
)

TOKENIZERS = {
    "chatml": toy_tokenizer(CHATML),
    "llama3": toy_tokenizer(LLAMA3),
    "qwen3": toy_tokenizer(QWEN3),
    "generation": toy_tokenizer(GENERATION),
    "harmony": published()["trl/gptoss"].tokenizer(),
    # the mark of the next turn is what ends an answer
    "glm": published()["xinference/glm4-0414"].tokenizer(),
    # no header: the mark that ends a question is all that stands before an answer
    "mistral": published()["axolotl/mistral_v1"].tokenizer(),
}
STOPS = {
    "generation": ["<end>"],
    "harmony": published()["trl/gptoss"].stops,
    "glm": published()["xinference/glm4-0414"].stops,
    "mistral": published()["axolotl/mistral_v1"].stops,
}
RENDERERS = {
    name: Renderer(tokenizer, "auto", stops=STOPS.get(name, ()))
    for name, tokenizer in TOKENIZERS.items()
}
plain = st.text(st.characters(codec="utf-8", exclude_characters="<>|:"), min_size=1, max_size=12)


def text_row(text: str) -> Conversation:
    return Conversation("row", [], None, text)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(contents=st.lists(plain.filter(str.strip), min_size=1, max_size=3), answer=plain)
def test_a_rendered_text_has_the_spans_of_its_turns(
    name: str, contents: list[str], answer: str
) -> None:
    turns = [turn for content in contents for turn in (content, (answer + "x").strip())]
    rendered = RENDERERS[name].render(conversation_of(*turns))[-1]
    if len(rendered.spans) < len(contents):
        return  # earlier turns have texts of their own
    assert RENDERERS[name].render(text_row(rendered.text)) == [rendered]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_prompt_of_a_text_is_that_of_its_turns(name: str) -> None:
    turns = conversation_of("Hi", "Hello!", "Bye", "Bye!")
    rendered = RENDERERS[name].render(turns)[-1]
    prompt = RENDERERS[name].prompt_in(rendered.text).removesuffix(EMPTY_THOUGHT)
    assert prompt == RENDERERS[name].prompt(turns.messages[:-1])


def test_an_answer_of_several_parts_is_one_span() -> None:
    text = (
        "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>analysis<|message|>Hm"
        "<|end|><|start|>assistant<|channel|>final<|message|>Hello!<|return|>"
    )
    (result,) = RENDERERS["harmony"].render(text_row(text))
    ((start, end),) = result.spans
    assert text[start:end] == text[text.index("<|channel|>") :]


@pytest.mark.parametrize(
    ("opened", "text", "answer"),
    [
        ("<think>\n", "A:<think>\nhm\n</think>\n\nYes.", "hm\n</think>\n\nYes."),
        ("<think>\n", "A:<think>\n\n</think>\n\nYes.", "Yes."),
        ("<think>\n", "A:Yes.", "Yes."),  # history without thoughts
        ("", "A:<think>\n\n</think>\n\nYes.", "Yes."),
        ("", "A:<think>\nhm\n</think>\n\nYes.", "<think>\nhm\n</think>\n\nYes."),
        ("<think>\n\n</think>\n\n", "A:<think>\n\n</think>\n\nYes.", "Yes."),
    ],
)
def test_a_thought_that_is_opened_or_left_empty_is_prompt(
    opened: str, text: str, answer: str
) -> None:
    marks = Marks("A:" + opened, ["<end>"])
    ((start, end),) = answers_of("Q:Hi<end>" + text + "<end>\n", marks)
    assert ("Q:Hi<end>" + text + "<end>\n")[start:end] == answer + "<end>"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[INST] Hi [/INST] Hello!", "no answer after '<|im_start|>assistant\\n', as the temp"),
        ("<|im_start|>assistant\nHello!", "an answer of the text has no mark that ends it"),
    ],
)
def test_a_text_of_another_template_or_cut_short_is_refused(text: str, cause: str) -> None:
    with pytest.raises(BadRow) as refused:
        RENDERERS["chatml"].render(text_row(text))
    assert cause in str(refused.value)


def test_a_row_with_a_text_is_read_written_and_masked_like_its_turns() -> None:
    turns = conversation_of("Hi", "Hello!")
    masker = Masker(toy_tokenizer(CHATML), Tokens())
    text = masker.renderer.render(turns)[0].text
    row, repairs = parse_row({"text": text, "conversations": None})
    assert repairs == [] and Conversation.from_json(row.to_json()) == row
    assert parse_row({"text": text})[0].id == row.id != parse_row({"text": text + "\n"})[0].id
    masked = []
    for each in (row, turns):
        ((_, result),) = masker([each])
        assert isinstance(result, list)
        masked.append(result[0])
    assert (masked[0].input_ids == masked[1].input_ids).all()
    assert (masked[0].loss_mask == masked[1].loss_mask).all() and masked[0].loss_mask.any()


@pytest.mark.parametrize("row", [{"text": ""}, {"text": " \n"}, {"text": 3}, {"text": None}])
def test_a_text_without_content_is_no_row(row: dict[str, Any]) -> None:
    with pytest.raises(BadRow, match="no list of turns under 'conversations' or 'messages'"):
        parse_row(row)


def test_turns_go_before_a_text_beside_them() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    row, _ = parse_row({"text": "Hi", "messages": turns})
    assert row.text is None and row.messages == turns


def test_a_text_cannot_be_answered_anew_and_is_counted(tmp_path: Path) -> None:
    with Record.opened(tmp_path / "record.jsonl", "digest") as record:
        outcome = regenerate([text_row("x")], lambda asked: iter(()), 0, record, lambda row: None)
    assert outcome.rows == []
    assert outcome.counts == {"a rendered text has no turns to answer: dropped": 1}
