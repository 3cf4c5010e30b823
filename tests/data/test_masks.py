"""Token masks: exactly the tokens that the target itself emits, found by character offsets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from eagle3.config.tokens import Tokens
from eagle3.data.conversations import BadRow, Conversation
from eagle3.data.masks import BATCH, Masker, TokenizedDocument, run_of
from eagle3.data.templates import Renderer
from eagle3.errors import UserError
from tests.data.toy_tokenizers import (
    CHATML,
    GENERATION,
    LLAMA3,
    QWEN3,
    conversation_of,
    toy_tokenizer,
)

TEMPLATES = {"chatml": CHATML, "qwen3": QWEN3, "llama3": LLAMA3, "generation": GENERATION}
END = {"chatml": "<|im_end|>", "qwen3": "<|im_end|>", "llama3": "<|eot_id|>", "generation": "<end>"}
# merges newlines, spaces and words, so that tokens lie across many borders
PROSE = ["\n\n\n\nHello there, hello\n\n\n  there!", "assistant\n\nHello", "    return é👩‍👧"] * 3
BYTES = {name: toy_tokenizer(template) for name, template in TEMPLATES.items()}
MERGED = {name: toy_tokenizer(template, PROSE) for name, template in TEMPLATES.items()}
TRIMMED = {name: toy_tokenizer(t, PROSE, trim_offsets=True) for name, t in TEMPLATES.items()}


def masker(
    tokenizer: Any, length: int = 10_000, last: bool = False, stop: Any = (), **more: Any
) -> Callable[[Conversation], TokenizedDocument]:
    """From a conversation to its only document."""
    build = every(tokenizer, length, last, stop, **more)

    def one(conversation: Conversation) -> TokenizedDocument:
        (document,) = build(conversation)
        return document

    return one


def every(
    tokenizer: Any, length: int = 10_000, last: bool = False, stop: Any = (), **more: Any
) -> Callable[[Conversation], list[TokenizedDocument]]:
    """From a conversation to its documents; raises why there are none."""
    values = Tokens(max_length=length, train_only_last_turn=last, **more)
    build = Masker(tokenizer, values, stop)

    def documents(conversation: Conversation) -> list[TokenizedDocument]:
        ((same, result),) = build([conversation])
        assert same is conversation
        if isinstance(result, BadRow):
            raise result
        return result

    return documents


def text_of(tokenizer: Any, document: TokenizedDocument, value: int = 1) -> str:
    ids = document.input_ids[document.loss_mask == value]
    return tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)


def slow_mask(offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[int]:
    """Character by character."""
    inside = {position for start, end in spans for position in range(start, end)}
    return [int(all(p in inside for p in range(start, end))) for start, end in offsets]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tokenizers", [BYTES, MERGED, TRIMMED], ids=["bytes", "merged", "trimmed"])
def test_answers_and_their_end_are_supervised_and_the_newline_after_is_not(
    tokenizers: dict[str, Any], name: str
) -> None:
    tokenizer, end = tokenizers[name], END[name]
    answers = "Hello there", "def f():\n    return  1"
    document = masker(tokenizer)(conversation_of("Hi", answers[0], "Code?", answers[1]))
    assert text_of(tokenizer, document) == answers[0] + end + answers[1] + end
    assert document.input_ids.dtype == np.int32
    assert document.loss_mask.dtype == np.uint8
    assert (document.row_id, document.truncated) == ("row", False)
    whole = tokenizer.apply_chat_template(
        conversation_of("Hi", answers[0], "Code?", answers[1]).messages, tokenize=False
    )
    assert tokenizer.decode(document.input_ids.tolist()) == whole


@pytest.mark.parametrize("name", TEMPLATES)
def test_only_the_last_turn(name: str) -> None:
    tokenizer = MERGED[name]
    document = masker(tokenizer, last=True)(conversation_of("Hi", "Hello", "Bye", "Bye now"))
    assert text_of(tokenizer, document) == "Bye now" + END[name]


def test_begin_of_text_appears_once() -> None:
    document = masker(BYTES["llama3"])(conversation_of("Hi", "Hello"))
    bos = BYTES["llama3"].bos_token_id
    assert document.input_ids[0] == bos
    assert (document.input_ids == bos).sum() == 1


def test_a_token_across_the_end_of_the_header_is_not_supervised() -> None:
    tokenizer = MERGED["chatml"]
    document = masker(tokenizer)(conversation_of("Hi", "\n\nHello"))
    crossing = tokenizer.convert_tokens_to_ids("ĊĊ")
    assert crossing in document.input_ids[document.loss_mask == 0]
    assert text_of(tokenizer, document) == "\nHello<|im_end|>"


def test_spaces_without_width_do_not_tear_a_hole_into_an_answer() -> None:
    tokenizer = TRIMMED["chatml"]
    encoded = tokenizer("x ü", return_offsets_mapping=True, add_special_tokens=False)
    assert any(start == end for start, end in encoded["offset_mapping"])
    document = masker(tokenizer)(conversation_of("x ü", " ü ü  x "))
    assert text_of(tokenizer, document) == " ü ü  x <|im_end|>"
    first, last = np.flatnonzero(document.loss_mask)[[0, -1]]
    assert document.loss_mask[first : last + 1].all()


def test_a_long_conversation_keeps_its_beginning() -> None:
    tokenizer = BYTES["chatml"]
    given = conversation_of("Hi", "Hello", "Bye", "Bye now")
    whole = masker(tokenizer)(given)
    length = len(whole.input_ids)
    assert not masker(tokenizer, length)(given).truncated
    for cut in (length - 1, length - 5, length // 2):
        document = masker(tokenizer, cut)(given)
        assert document.truncated
        assert np.array_equal(document.input_ids, whole.input_ids[:cut])
        assert np.array_equal(document.loss_mask, whole.loss_mask[:cut])


def test_a_row_without_a_supervised_token_is_refused_with_its_cause() -> None:
    tokenizer = BYTES["chatml"]
    given = conversation_of("Hi " * 50, "Hello")
    first = int(np.flatnonzero(masker(tokenizer)(given).loss_mask)[0])
    assert masker(tokenizer, first + 1)(given).loss_mask.sum() == 1
    with pytest.raises(BadRow, match=r"^no supervised token within max_length$"):
        masker(tokenizer, first)(given)
    nothing = toy_tokenizer(GENERATION.replace("{{ m.content + '<end>' }}{% endg", "{% endg"))
    with pytest.raises(BadRow, match=r"^no supervised token$"):
        masker(nothing)(given)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_turn_must_end_with_a_token_that_stops_the_target(name: str) -> None:
    tokenizer = BYTES[name]
    end = tokenizer.convert_tokens_to_ids(END[name])
    given = conversation_of("Hi", "Hello", "Bye", "Bye now")
    assert masker(tokenizer, stop=[end, 3])(given).loss_mask.any()
    with pytest.raises(UserError) as caught:
        masker(tokenizer, stop=[1, 0])
    result = str(caught.value)
    assert END[name] in result
    if name == "generation":
        assert "block does not end where the target stops" in result
        assert "set tokens.chat_template to auto" in result
    else:
        assert "without a token of generation_config.eos_token_id, [0, 1] ('!', '\"')" in result


BLOCK = "{% generation %}{{ m.content + '<end>' }}{% endgeneration %}"


@pytest.mark.parametrize("choice", ["auto", "generation"])
@pytest.mark.parametrize(
    "block",
    [
        "{% generation %}{{ m.content }}{% endgeneration %}<end>",  # ends before the stop token
        "{% generation %}{{ m.content + '<end>\\n\\n' }}{% endgeneration %}",  # goes on behind it
        "{% generation %}{{ m.content + '<end>' }}{% endgeneration %}{% generation %}<end>"
        "{% endgeneration %}",  # marks what a template adds at the end
    ],
)
def test_blocks_are_cut_and_extended_to_what_the_target_emits(block: str, choice: str) -> None:
    tokenizer = toy_tokenizer(GENERATION.replace(BLOCK, block))
    stop = [tokenizer.convert_tokens_to_ids("<end>")]
    given = conversation_of("Hi", "Hello", "Bye", "Bye now")
    document = masker(tokenizer, stop=stop, chat_template=choice)(given)
    assert text_of(tokenizer, document) == "Hello<end>Bye now<end>"


def test_a_block_that_begins_before_the_end_of_the_prompt_is_trimmed() -> None:
    wide = GENERATION.replace("{{ m.role + ': ' }}", "{% if m.role == 'user' %}user: {% endif %}")
    wide = wide.replace("{% generation %}", "{% generation %}assistant: ")
    tokenizer = toy_tokenizer(wide)
    stop = [tokenizer.convert_tokens_to_ids("<end>")]
    given = conversation_of("Hi", "Hello", "Bye", "Bye now")
    document = masker(tokenizer, stop=stop, chat_template="generation")(given)
    assert text_of(tokenizer, document) == "Hello<end>Bye now<end>"


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["chatml", "qwen3", "llama3"])
def test_an_answer_that_was_cut_off_ends_with_its_text(name: str, last: bool) -> None:
    tokenizer = MERGED[name]
    stop = [tokenizer.convert_tokens_to_ids(END[name])]
    whole = conversation_of("Hi", "Hello there", "And?", "Hello there, hello")
    part = conversation_of("Hi", "Hello there", "And?", "Hello there")
    document = masker(tokenizer, last=last, stop=stop)(replace(part, cut=True))
    expected = masker(tokenizer, last=last, stop=stop)(part)
    first = "" if last else "Hello there" + END[name]
    assert text_of(tokenizer, document) == first + "Hello there"
    # nothing else differs from the same answer as a whole one
    size = len(document.input_ids)
    assert np.array_equal(document.input_ids, expected.input_ids[:size])
    assert np.array_equal(document.loss_mask, expected.loss_mask[:size])
    assert stop[0] == expected.input_ids[size] and not document.truncated
    longer = masker(tokenizer, last=last, stop=stop)(replace(whole, cut=True))
    assert text_of(tokenizer, longer) == first + "Hello there, hello"


def test_blocks_say_nothing_of_an_answer_that_was_cut_off() -> None:
    given = replace(conversation_of("Hi", "Hello"), cut=True)
    with pytest.raises(BadRow, match="cut off does not fit"):
        masker(BYTES["generation"])(given)


def test_an_answer_with_a_stop_token_inside_is_refused() -> None:
    tokenizer = BYTES["chatml"]
    stop = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    with pytest.raises(BadRow, match="assistant text contains the end-of-turn marker"):
        masker(tokenizer, stop=stop)(conversation_of("Hi", "Hello<|endoftext|> there"))
    asked = masker(tokenizer, stop=stop)(conversation_of("Hi<|endoftext|>", "Hello"))
    assert text_of(tokenizer, asked) == "Hello<|im_end|>"


def test_turns_that_history_shows_otherwise_are_documents_of_their_own_or_dropped() -> None:
    tokenizer = BYTES["qwen3"]
    thought = "<think>\nWho is it?\n</think>\n\n"
    given = conversation_of("Hi", f"{thought}Hello", "Bye", f"{thought}Bye", "So", "So")
    first, second, whole = every(tokenizer)(given)
    assert [d.row_id for d in (first, second, whole)] == ["row#0", "row#1", "row"]
    assert text_of(tokenizer, first) == f"{thought}Hello<|im_end|>"
    assert text_of(tokenizer, second) == f"{thought}Bye<|im_end|>"
    assert text_of(tokenizer, whole) == "So<|im_end|>"
    (dropped,) = every(tokenizer, rewritten_turns="drop")(given)
    assert np.array_equal(dropped.input_ids, whole.input_ids)
    (last,) = every(tokenizer, last=True)(given)
    assert text_of(tokenizer, last) == "So<|im_end|>"
    # a turn of its own that does not fit leaves the others
    shorter = every(tokenizer, len(second.input_ids) - 20)(given)
    assert [d.row_id for d in shorter] == ["row#0", "row#1"][: len(shorter)]


def test_more_conversations_than_a_batch_keep_their_order_and_their_causes() -> None:
    tokenizer = BYTES["chatml"]
    talks = [conversation_of("Hi", f"Hello {n}") for n in range(BATCH + 5)]
    talks[3] = conversation_of("Hi", "Hello<|im_end|>")
    result = list(Masker(tokenizer, Tokens())(iter(talks)))
    assert [talk for talk, _ in result] == talks
    for number, (_, documents) in enumerate(result):
        if number == 3:
            assert isinstance(documents, BadRow)
        else:
            assert not isinstance(documents, BadRow)
            assert text_of(tokenizer, documents[0]) == f"Hello {number}<|im_end|>"


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match=r"no character offsets, .* a tokenizer\.json is"):
        masker(Slow())


PIECES = st.sampled_from(
    [
        *("\n", " ", "\t", "\r\n", "\u2028", "\u200b", "\x00", "    return", "Hello", "user: "),
        *("é", "e\u0301", "👩\u200d👧", "🇩🇪", "ﷺ"),
        *("<|im_start|>user\n", "<|start_header_id|>", "<think>"),
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(st.characters(exclude_categories=["Cs"]), max_size=6)))
CONTENTS = TEXTS.map("".join).filter(lambda text: text.strip() and "</think>" not in text)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    system = draw(st.none() | CONTENTS)
    turns = draw(st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=3))
    return conversation_of(*(text for pair in turns for text in pair), system=system)


def shown(name: str, contents: list[str]) -> list[str]:
    """Answers as the template shows them."""
    match name:
        case "llama3":
            return [content.strip() for content in contents]
        case "qwen3":
            return [*contents[:-1], contents[-1].lstrip("\n")]
    return contents


def same_in_history(talk: Conversation) -> bool:
    """Whether this template shows every answer alike as the last and as an earlier one: it takes
    newlines in front from the last one only."""
    answers = [m["content"] for m in talk.messages[:-1] if m["role"] == "assistant"]
    return not any(answer.startswith("\n") for answer in answers)


@pytest.mark.parametrize("name", TEMPLATES)
@given(talk=conversations())
@example(talk=conversation_of("a", "\n\nb\n"))
@settings(max_examples=80, deadline=None)
def test_supervised_tokens_spell_the_answers_and_nothing_else(
    name: str, talk: Conversation
) -> None:
    assume(name != "qwen3" or same_in_history(talk))
    document = masker(BYTES[name])(talk)
    answers = [m["content"] for m in talk.messages if m["role"] == "assistant"]
    expected = "".join(answer + END[name] for answer in shown(name, answers))
    assert text_of(BYTES[name], document) == expected


@pytest.mark.parametrize("name", TEMPLATES)
@given(talk=conversations())
@settings(max_examples=80, deadline=None)
def test_masks_equal_a_walk_over_single_characters(name: str, talk: Conversation) -> None:
    assume(name != "qwen3" or same_in_history(talk))
    (rendered,) = Renderer(MERGED[name], "auto").render(talk)
    text = rendered.text
    offsets = MERGED[name](text, add_special_tokens=False, return_offsets_mapping=True)
    expected = slow_mask(offsets["offset_mapping"], rendered.spans)
    assert masker(MERGED[name])(talk).loss_mask.tolist() == expected


@given(talk=conversations())
@settings(max_examples=80, deadline=None)
def test_trimmed_offsets_leave_no_hole_in_an_answer(talk: Conversation) -> None:
    build = masker(TRIMMED["chatml"])
    mask = build(talk).loss_mask
    runs = int((np.diff(mask, prepend=0, append=0).astype(np.int8) == 1).sum())
    assert runs == sum(m["role"] == "assistant" for m in talk.messages)


def test_a_tokenizer_that_composes_characters_is_followed() -> None:
    tokenizer = toy_tokenizer(CHATML, compose=True)
    document = masker(tokenizer)(conversation_of("e\u0301", "cafe\u0301 e\u0301\n"))
    assert text_of(tokenizer, document) == "café é\n<|im_end|>"


@given(
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    edges=st.sets(st.integers(0, 60), min_size=2, max_size=8),
)
@settings(deadline=None)
def test_any_spans_over_any_tokens_equal_the_slow_twin(cuts: list[int], edges: set[int]) -> None:
    bounds = [0, *np.cumsum(cuts).tolist()]
    offsets = list(pairwise(bounds))
    ordered = sorted(edges)
    # at least one character between spans, as headers are
    spans = [(a, b) for a, b in zip(ordered[::2], ordered[1::2], strict=False)]
    expected = slow_mask(offsets, spans)
    result = [0] * len(offsets)
    for span in spans:
        run = run_of(offsets.__getitem__, len(offsets), span)
        result[run] = [1] * len(result[run])
    assert result == expected
