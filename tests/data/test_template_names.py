"""Every named template, in small: marks as the name says, and what models do with thoughts."""

from __future__ import annotations

from typing import Any

import pytest

from eagle3.data.conversations import BadRow, Conversation
from eagle3.data.template_names import NAMED
from eagle3.data.templates import Renderer
from eagle3.errors import UserError
from tests.data.toy_tokenizers import conversation_of, toy_tokenizer

# the names of SpecForge's registry, which people bring along
PEER = [
    "llama3",
    "llama4",
    "qwen",
    "lfm",
    "phi3",
    "phi4",
    "phi4-mini",
    "gpt-oss-naive",
    "gpt-oss",
    "deepseek-r1-distill",
    "qwen3-thinking",
    "qwen3-instruct",
    "qwen3-next-thinking",
    "kimi-k2-thinking",
    "kimi-k2-instruct",
    "kimi-k3-thinking",
    "deepseek-v3",
    "deepseek-v2",
    "ling-flash-2.0",
    "deepseek-v32",
    "glm-5.2",
    "gemma",
    "longcat",
    "longcat_xml",
    "qwen3.5",
    "inkling-thinking",
]


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def template_of(name: str) -> str:
    """The plainest template with the marks of a name."""
    named = NAMED[name]
    header, end = quoted(named.headers[0]), quoted(named.ends[0])
    user = end if named.next_turn_ends else quoted("[user]")
    closing = "''" if named.next_turn_ends else end
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        f"{{{{ {header} + m.content + {closing} }}}}"
        f"{{% else %}}{{{{ {user} + m.content }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {header} }}}}{{% endif %}}"
    )


def pieces(template: str, conversation: Conversation, choice: str, **more: Any) -> list[list[str]]:
    """The supervised pieces of every text."""
    found = Renderer(toy_tokenizer(template), choice, **more).render(conversation)
    return [[r.text[a:b] for a, b in r.spans] for r in found]


def test_every_name_of_the_peer_is_known() -> None:
    assert len(PEER) == 26
    assert set(PEER) <= set(NAMED)


@pytest.mark.parametrize("choice", ["named", "auto"])
@pytest.mark.parametrize("name", NAMED)
def test_answers_and_what_ends_them_are_supervised_under_every_name(name: str, choice: str) -> None:
    named = NAMED[name]
    given = conversation_of("Hi", "Hello!", "Bye", " Bye\n", system=None)
    end, last = named.ends[0], "" if named.next_turn_ends else named.ends[0]
    found = pieces(template_of(name), given, name if choice == "named" else "auto")
    assert found == [[f"Hello!{end}", f" Bye\n{last}"]]


@pytest.mark.parametrize("name", NAMED)
def test_a_tokenizer_of_another_kind_is_refused_under_every_name(name: str) -> None:
    other = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ '[me]' if add_generation_prompt }}"
    )
    with pytest.raises(UserError, match=rf"tokens.chat_template is '{name}', which ends prompts"):
        Renderer(toy_tokenizer(other), name)


# thoughts: DeepSeek-R1 opens one in its prompt and takes them out of history
R1 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}"
    "{{ '<｜Assistant｜>' }}"
    "{% if loop.last %}{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ m.content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)


def thoughtful(*turns: tuple[str, str, str]) -> Conversation:
    messages: list[dict[str, Any]] = []
    for question, thought, answer in turns:
        messages.append({"role": "user", "content": question})
        reply = {"role": "assistant", "content": answer, "reasoning_content": thought}
        messages.append(reply)
    return Conversation("row", messages)


@pytest.mark.parametrize("choice", ["deepseek-r1-distill", "auto"])
def test_an_opened_thought_is_prompt_and_what_is_thought_is_not(choice: str) -> None:
    given = thoughtful(("Hi", "Who?", "Hello!"), ("Bye", "Why?", "Bye!"))
    end = "<｜end▁of▁sentence｜>"
    assert pieces(R1, given, choice) == [
        [f"Who?\n</think>\n\nHello!{end}"],  # of a text of its own: history shows it otherwise
        [f"Why?\n</think>\n\nBye!{end}"],
    ]


# gpt-oss: a thought is a channel of its own, history has the last channel only, and a mark of its
# own ends the answer that is last
HARMONY = (
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}{% else %}"
    "{% if loop.last and m.reasoning_content %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.reasoning_content + '<|end|>' }}"
    "{% endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)


def test_channels_of_harmony_are_supervised_up_to_the_mark_that_returns() -> None:
    given = thoughtful(("Hi", "Who?", "Hello!"), ("Bye", "Why?", "Bye!"))
    thought = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
    final = "<|channel|>final<|message|>{}<|return|>"
    assert pieces(HARMONY, given, "gpt-oss", stops=["<|return|>", "<|call|>"]) == [
        [thought.format("Who?") + final.format("Hello!")],
        [thought.format("Why?") + final.format("Bye!")],
    ]


def test_a_plain_answer_of_harmony_is_supervised_with_its_channel() -> None:
    given = conversation_of("Hi", "Hello!", "Bye", "Bye!")
    final = "<|channel|>final<|message|>{}"
    assert pieces(HARMONY, given, "gpt-oss", stops=["<|return|>", "<|call|>"]) == [
        [final.format("Hello!") + "<|return|>"],  # history ends it with another mark
        [final.format("Bye!") + "<|return|>"],
    ]


CALLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}"
    "{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_calls_are_supervised_and_results_of_tools_are_not() -> None:
    call = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
    messages = [
        {"role": "user", "content": "What time?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "12:00"},
        {"role": "assistant", "content": "Noon."},
    ]
    text = '<tool_call>{"name": "clock", "arguments": {"zone": "UTC"}}</tool_call><|im_end|>'
    found = pieces(CALLS, Conversation("row", messages), "qwen3-instruct")
    assert found == [[text, "Noon.<|im_end|>"]]
    deaf = CALLS.replace("m.tool_calls or []", "[]")
    with pytest.raises(BadRow, match="the template leaves parts out"):
        pieces(deaf, Conversation("row", messages), "auto")
    forgetful = conversation_of("Hi", "Hello!")
    forgetful.messages[1]["reasoning_content"] = "Who is it?"
    with pytest.raises(BadRow, match="the template leaves parts out"):
        pieces(CALLS, forgetful, "auto")


def test_a_gemma_template_that_knows_no_system_prompt_refuses_the_row() -> None:
    strict = "{{ raise_exception('no system') if messages[0].role == 'system' }}"
    with pytest.raises(BadRow, match="the chat template refuses the conversation: no system"):
        pieces(strict + template_of("gemma"), conversation_of("a", "b", system="c"), "gemma")
