"""Chat templates by name: what a model's own template is expected to write around an answer.

The text is always rendered by the tokenizer's own template, and answers are found by comparing
renderings (see `templates`). A name only adds the marks that must be there, so that a wrong
tokenizer or an edited template is noticed before hours are spent. The marks are those of the
published models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Named:
    """The marks around an answer."""

    headers: tuple[str, ...]  # one of them ends the prompt, maybe with an opened thought after it
    ends: tuple[str, ...]  # one of them ends the answer
    # the next turn's mark ends an answer: the last one of a text has none
    next_turn_ends: bool = False
    between: tuple[str, ...] = ()  # marks that end a part of an answer, or an answer in history


CHATML = Named(("<|im_start|>assistant\n",), ("<|im_end|>",))
DEEPSEEK = Named(("<｜Assistant｜>",), ("<｜end▁of▁sentence｜>",))
GLM = Named(("<|assistant|>",), ("<|user|>", "<|observation|>", "<|endoftext|>"), True)
HARMONY = Named(("<|start|>assistant",), ("<|return|>", "<|call|>"), between=("<|end|>",))
KIMI = Named(("<|im_assistant|>assistant<|im_middle|>",), ("<|im_end|>",))
LING = Named(("<role>ASSISTANT</role>", "<role>ASSISTANT</role>\n"), ("<|role_end|>",))

NAMED = {
    "chatml": CHATML,
    "deepseek-r1-distill": DEEPSEEK,
    "deepseek-v2": Named(("Assistant:", "Assistant: "), ("<｜end▁of▁sentence｜>",)),
    "deepseek-v3": DEEPSEEK,
    "deepseek-v32": DEEPSEEK,
    "deepseek-v4": DEEPSEEK,
    "gemma": Named(("<start_of_turn>model\n",), ("<end_of_turn>",)),
    "glm-5.2": GLM,
    "glm-5.3": GLM,
    "gpt-oss": HARMONY,
    "gpt-oss-naive": HARMONY,
    "inkling-thinking": Named(
        ("<|message_model|>",),
        ("<|message_user|>", "<|message_tool|>", "<|message_system|>"),
        True,
    ),
    "kimi-k2-instruct": KIMI,
    "kimi-k2-thinking": KIMI,
    "kimi-k3-thinking": Named(('<|open|>message role="assistant"<|sep|>',), ("<|end_of_msg|>",)),
    "lfm": CHATML,
    "ling-3.0": LING,
    "ling-3.0-thinking": LING,
    "ling-flash-2.0": LING,
    "llama3": Named(
        ("<|start_header_id|>assistant<|end_header_id|>\n\n",), ("<|eot_id|>", "<|eom_id|>")
    ),
    "llama4": Named(("<|header_start|>assistant<|header_end|>\n\n",), ("<|eot|>", "<|eom|>")),
    "longcat": Named((" ASSISTANT:",), ("</longcat_s>",)),
    "longcat_xml": Named(("<longcat_assistant>",), ("</longcat_s>",)),
    "phi3": Named(("<|assistant|>\n",), ("<|end|>",)),
    "phi4": Named(("<|im_start|>assistant<|im_sep|>",), ("<|im_end|>",)),
    "phi4-mini": Named(("<|assistant|>",), ("<|end|>",)),
    "qwen": CHATML,
    "qwen3-instruct": CHATML,
    "qwen3-next-thinking": CHATML,
    "qwen3-thinking": CHATML,
    "qwen3.5": CHATML,
}
