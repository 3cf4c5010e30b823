"""Sections `tokens` and `vocab`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from eagle3.config.section import Section

TemplateName = Literal[
    "auto", "generation", "chatml", "deepseek-r1-distill", "deepseek-v2", "deepseek-v3",
    "deepseek-v32", "deepseek-v4", "gemma", "glm-5.2", "glm-5.3", "gpt-oss", "gpt-oss-naive",
    "inkling-thinking", "kimi-k2-instruct", "kimi-k2-thinking", "kimi-k3-thinking", "lfm",
    "ling-3.0", "ling-3.0-thinking", "ling-flash-2.0", "llama3", "llama4", "longcat", "longcat_xml",
    "phi3", "phi4", "phi4-mini", "qwen", "qwen3-instruct", "qwen3-next-thinking", "qwen3-thinking",
    "qwen3.5",
]  # fmt: skip


def scalar(value: Any) -> Any:
    """A validator of values that are neither lists nor mappings."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise PydanticCustomError("scalar_type", "expected string, number, boolean or null")


class Tokens(Section):
    """How conversations become token ids and loss masks."""

    max_length: int = Field(
        default=2048,
        ge=16,
        description="Maximum tokens per conversation; longer ones are cut at the end.",
    )
    chat_template: TemplateName = Field(
        default="auto",
        description="The text is always what the tokenizer's own template renders. `auto` finds "
        "each answer by comparison with the prompt before it. A name also requires that the "
        "template is the one of that name. `generation` uses the template's own "
        "`{% generation %}` blocks instead.",
    )
    chat_template_options: dict[str, Annotated[Any, AfterValidator(scalar)]] = Field(
        default={},
        description="What a server passes to the template along with the messages, such as "
        "`{enable_thinking: false}` for a Qwen3 that is served without thinking.",
    )
    system_prompt: str | None = Field(
        default=None,
        min_length=1,
        description="System message of conversations that have none; null adds nothing.",
    )
    rewritten_turns: Literal["separate", "drop"] = Field(
        default="separate",
        description="What to do with turns that the template renders differently once the chat "
        "goes on, such as thoughts that it removes from history. `separate`: each becomes a "
        "separate document, as the server saw it; `drop`: they are left out.",
    )
    train_only_last_turn: bool = Field(
        default=False, description="Supervise only the last assistant turn of each conversation."
    )


class Vocab(Section):
    """The draft's own, smaller vocabulary."""

    draft_vocab_size: int = Field(
        default=32000,
        ge=8,
        description="How many tokens the draft can propose: the most frequent supervised ones.",
    )
