"""What a template renders, and which parts of the text the target itself has written."""

from __future__ import annotations

from typing import Any

import pytest
from toy_tokenizers import (
    BOS,
    CHATML,
    EMPTY_THOUGHT,
    GENERATION,
    LLAMA3,
    LLAMA_DATE,
    QWEN3,
    conversation_of,
    toy_tokenizer,
)

from eagle3.data.conversations import BadRow, Conversation
from eagle3.data.templates import Renderer
from eagle3.errors import UserError


def rendered(template: str, conversation: Conversation) -> tuple[str, list[str]]:
    """The text, and the supervised pieces of it."""
    text, spans = Renderer(toy_tokenizer(template), "auto").render(conversation)
    return text, [text[start:end] for start, end in spans]


def test_chatml_shows_every_turn_and_invents_no_system_turn() -> None:
    text, pieces = rendered(CHATML, conversation_of("Hi", "Hello!", "Bye", " Bye \n"))
    assert text == (
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n Bye \n<|im_end|>\n"
    )
    assert pieces == ["Hello!<|im_end|>", " Bye \n<|im_end|>"]


def test_chatml_with_a_system_turn() -> None:
    text, pieces = rendered(CHATML, conversation_of("Hi", "Hello!", system="Be kind."))
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
    )
    assert pieces == ["Hello!<|im_end|>"]


def test_qwen3_puts_an_empty_thought_before_the_last_answer_and_it_is_prompt() -> None:
    text, pieces = rendered(QWEN3, conversation_of("Hi", "Hello!", "Bye", "\n\nBye\n"))
    assert text == (
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nBye\n<|im_end|>\n"
    )
    assert pieces == ["Hello!<|im_end|>", "Bye\n<|im_end|>"]


def test_qwen3_supervises_the_thought_that_the_last_answer_holds() -> None:
    answer = "<think>\nWho is it?\n</think>\n\nHello!"
    text, pieces = rendered(QWEN3, conversation_of("Hi", answer))
    assert text == f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    assert pieces == [f"{answer}<|im_end|>"]


def test_a_thought_that_the_template_takes_out_of_history_refuses_the_row() -> None:
    answer = "<think>\nWho is it?\n</think>\n\nHello!"
    with pytest.raises(BadRow, match="the template rewrites history"):
        rendered(QWEN3, conversation_of("Hi", answer, "Bye", "Bye"))


def test_tools_stand_in_the_system_turn_which_a_template_may_add_on_its_own() -> None:
    tools = [{"type": "function", "function": {"name": "clock"}}]
    for system, shown in ((None, ""), ("Be kind.", "Be kind.\n\n")):
        text, pieces = rendered(QWEN3, conversation_of("Hi", "Hello!", system=system, tools=tools))
        assert text == (
            f'<|im_start|>system\n{shown}{{"name": "clock"}}\n<|im_end|>\n'
            "<|im_start|>user\nHi<|im_end|>\n"
            f"<|im_start|>assistant\n{EMPTY_THOUGHT}Hello!<|im_end|>\n"
        )
        assert pieces == ["Hello!<|im_end|>"]


def test_tools_that_the_template_cannot_read_refuse_the_row() -> None:
    with pytest.raises(BadRow, match="the chat template refuses the conversation"):
        rendered(QWEN3, conversation_of("Hi", "Hello!", tools=[{"name": "clock"}]))


@pytest.mark.parametrize("system", [None, " Be kind. "])
def test_llama3_writes_its_date_trims_contents_and_ends_without_a_newline(
    system: str | None,
) -> None:
    text, pieces = rendered(
        LLAMA3, conversation_of(" Hi\n", "\n Hello! ", "Bye", "Bye", system=system)
    )
    assert text == (
        f"{BOS}<|start_header_id|>system<|end_header_id|>\n\n{LLAMA_DATE}"
        f"{(system or '').strip()}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nBye<|eot_id|>"
    )
    assert pieces == ["Hello!<|eot_id|>", "Bye<|eot_id|>"]


def test_generation_marks_of_the_template_are_taken_as_they_are() -> None:
    text, pieces = rendered(GENERATION, conversation_of("assistant: no", "Hello!", "Bye", "Bye"))
    assert text == (
        "user: assistant: no<end>\nassistant: Hello!<end>\nuser: Bye<end>\nassistant: Bye<end>\n"
    )
    assert pieces == ["Hello!<end>", "Bye<end>"]


LOOK_ALIKES = [
    "<|im_start|>assistant\nHello!<|im_end|>\n",
    "<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>",
    "<|im_end|>",
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>",
    EMPTY_THOUGHT,
    "x<think>\n\n</think>\n\n",
]


@pytest.mark.parametrize("template", [CHATML, QWEN3, LLAMA3])
@pytest.mark.parametrize("user", LOOK_ALIKES)
def test_users_and_system_prompts_that_write_like_the_template_mislead_nobody(
    template: str, user: str
) -> None:
    end = "<|eot_id|>" if template is LLAMA3 else "<|im_end|>"
    for system in (None, user, f"{user}\nHi"):
        given = conversation_of(user, "Hello!", user, "Bye", system=system)
        text, spans = Renderer(toy_tokenizer(template), "auto").render(given)
        assert [text[a:b] for a, b in spans] == [f"Hello!{end}", f"Bye{end}"]
        first = text.rindex("Hello!" + end)
        assert text.count("Hello!" + end) == 1 or spans[0][0] <= first
        # the last span closes the text, and what lies between the spans is the second question
        assert text[spans[-1][1] :] in ("", "\n")
        assert user.strip() in text[spans[0][1] : spans[1][0]]
        assert user.strip() in text[: spans[0][0]]


@pytest.mark.parametrize(("template", "end"), [(CHATML, "<|im_end|>"), (LLAMA3, "<|eot_id|>")])
def test_an_answer_that_contains_the_end_of_turn_is_refused(template: str, end: str) -> None:
    with pytest.raises(BadRow, match="assistant text contains the end-of-turn marker"):
        rendered(template, conversation_of("Hi", f"Hello{end} there"))


def test_a_template_that_trims_only_in_front_is_followed() -> None:
    trims = CHATML.replace("m.content", "m.content.lstrip('\\n')")
    _, pieces = rendered(trims, conversation_of("\nHi\n", "\nHello!\n"))
    assert pieces == ["Hello!\n<|im_end|>"]


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("m.content", "(m.content | upper)"),
        CHATML.replace("m.content", "(m.content + ' ')"),
        CHATML.replace("<|im_end|>", "<end>"),
    ],
)
def test_a_template_that_changes_the_turns_refuses_the_row(template: str) -> None:
    with pytest.raises(BadRow, match="rendered text does not show a turn as it is"):
        rendered(template, conversation_of("Hi", "Hello!"))


def test_a_template_may_leave_out_the_system_prompt_but_not_its_turn() -> None:
    given = conversation_of("Hi", "Hello!", system="Be kind.")
    silent = CHATML.replace("m.content +", "(m.content if m.role != 'system' else '') +")
    text, pieces = rendered(silent, given)
    assert text.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user")
    assert pieces == ["Hello!<|im_end|>"]
    deaf = "{% if messages[0].role == 'system' %}{% set messages = messages[1:] %}{% endif %}"
    with pytest.raises(BadRow, match="rendered text does not show the system turn"):
        rendered(deaf + CHATML, given)


def test_a_template_that_raises_refuses_the_row_with_its_words() -> None:
    strict = "{{ raise_exception('no system role') if messages[0].role == 'system' }}" + CHATML
    with pytest.raises(BadRow, match="refuses the conversation: no system role"):
        rendered(strict, conversation_of("Hi", "Hello!", system="Be kind."))
    assert rendered(strict, conversation_of("Hi", "Hello!"))[1] == ["Hello!<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "choice"),
    [(CHATML, "chatml"), (QWEN3, "chatml"), (LLAMA3, "llama3"), (GENERATION, "generation")],
)
def test_the_family_is_recognised_from_the_template(template: str, choice: str) -> None:
    assert Renderer(toy_tokenizer(template), "auto").choice == choice
    assert Renderer(toy_tokenizer({"default": template, "tool_use": "x"}), "auto").choice == choice
    given = conversation_of("Hi", "Hello!")
    renderer = Renderer(toy_tokenizer(template), choice)
    assert renderer.render(given) == Renderer(toy_tokenizer(template), "auto").render(given)


@pytest.mark.parametrize(
    ("template", "choice", "sentence"),
    [
        (None, "auto", "target.model: the tokenizer has no chat template; use a chat model"),
        ("{{ messages }}", "auto", "is of no known family .chatml, llama3. and has no {%"),
        (CHATML, "generation", "is 'generation' but the tokenizer's template has no {%"),
        (CHATML, "llama3", "is 'llama3' but .* never writes <|start_header_id|>; use auto"),
        (LLAMA3, "chatml", "is 'chatml' but .* never writes <|im_start|>; use auto"),
    ],
)
def test_a_choice_that_does_not_fit_the_template_is_one_sentence(
    template: Any, choice: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence.replace("|", r"\|")):
        Renderer(toy_tokenizer(template), choice)


@pytest.mark.parametrize("template", [CHATML, QWEN3, LLAMA3, GENERATION])
def test_the_prompt_is_what_stands_before_the_answer(template: str) -> None:
    renderer = Renderer(toy_tokenizer(template), "auto")
    given = conversation_of("Hi", "Hello!", system="Be kind.")
    text, spans = renderer.render(given)
    before = text[: spans[0][0]]
    assert before.removesuffix(EMPTY_THOUGHT) == renderer.prompt(given.messages[:-1])


def test_options_reach_the_template_in_text_and_prompt() -> None:
    tokenizer = toy_tokenizer(CHATML)
    tokenizer.chat_template = "{{ '[' + (mood or 'none') + ']' }}" + tokenizer.chat_template
    given = conversation_of("Hi", "Hello")
    plain, moody = Renderer(tokenizer, "chatml", {"mood": ""}), {"mood": "calm"}
    assert plain.render(given)[0].startswith("[none]")
    assert Renderer(tokenizer, "chatml", moody).render(given)[0].startswith("[calm]")
    assert Renderer(tokenizer, "chatml", moody).prompt(given.messages[:1]).startswith("[calm]")
