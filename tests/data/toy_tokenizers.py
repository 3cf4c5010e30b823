"""Small byte-level tokenizers with chat templates in the style of real models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
BOS, START_HEADER, END_HEADER, EOT = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
SPECIAL = ("<|endoftext|>", IM_START, IM_END, BOS, START_HEADER, END_HEADER, EOT, "<end>")
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
LLAMA_DATE = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# thoughts of earlier turns are taken out; the last answer always shows one, maybe an empty one
QWEN3 = (
    "{% set ns = namespace(asked=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% if tools %}{{ '<|im_start|>system\\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}"
    "{% for tool in tools %}{{ (tool.function | tojson) + '\\n' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{% set thought = '' %}{% set said = m.content %}"
    "{% if '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\\n') %}"
    "{% endif %}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{% if loop.index0 > ns.asked %}"
    "{{ '<think>\\n' + thought + '\\n</think>\\n\\n' + said.lstrip('\\n') }}"
    "{% else %}{{ said }}{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% elif m.role == 'user' or not tools %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

LLAMA3 = (
    "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\n' }}"
    "{{ 'Cutting Knowledge Date: December 2023\\nToday Date: 26 Jul 2024\\n\\n' }}"
    "{% if messages[0].role == 'system' %}"
    "{{ messages[0].content | trim }}{% set messages = messages[1:] %}"
    "{% endif %}"
    "{{ '<|eot_id|>' }}"
    "{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}"
    "{{ (m.content | trim) + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

GENERATION = (
    "{% for m in messages %}"
    "{{ m.role + ': ' }}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<end>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<end>' }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def toy_tokenizer(
    template: str | None,
    merged: Iterable[str] = (),
    trim_offsets: bool = False,
    compose: bool = False,
) -> Any:
    """One token a byte, and what byte pair encoding makes of the texts `merged`.

    `trim_offsets`: offsets leave out spaces, as GPT-2's do. `compose`: NFC, as Qwen2's do.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    texts = list(merged)
    if texts:
        trainer = trainers.BpeTrainer(
            vocab_size=600, initial_alphabet=alphabet, show_progress=False, min_frequency=1
        )
        core.train_from_iterator(texts, trainer)
    if compose:
        core.normalizer = normalizers.NFC()
    if trim_offsets:
        core.post_processor = processors.ByteLevel(trim_offsets=True)
    core.add_special_tokens([AddedToken(mark, normalized=False) for mark in SPECIAL])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=IM_END)
    fast.chat_template = template
    return fast


def conversation_of(*contents: str, system: str | None = None, tools: Any = None) -> Any:
    """A conversation of user and assistant in turn."""
    from eagle3.data.conversations import Conversation

    messages = [] if system is None else [{"role": "system", "content": system}]
    for position, content in enumerate(contents):
        messages.append({"role": ("user", "assistant")[position % 2], "content": content})
    return Conversation("row", messages, tools)


def marked_tokenizer(template: Any, marks: Iterable[str], begin: str, end: str) -> Any:
    """One token a byte, and one for each of `marks`, as a published tokenizer has them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(mark, normalized=False) for mark in dict.fromkeys(marks)])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=begin, eos_token=end)
    fast.chat_template = template
    return fast
