"""Names of templates: their marks are those of the published ones, and others are refused."""

from __future__ import annotations

from typing import Any

import pytest

from eagle3.data.conversations import Conversation
from eagle3.data.template_names import NAMED
from eagle3.data.templates import Renderer
from eagle3.errors import UserError
from tests.data.kinds import conversation
from tests.data.oracle import right
from tests.data.published import published
from tests.data.toy_tokenizers import toy_tokenizer

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


# a published template of each name, where one can be had
PUBLISHED = {
    "chatml": "xinference/Yi-1.5-chat",
    "deepseek-r1-distill": "trl/deepseek_r1_distill",
    "deepseek-v2": "xinference/deepseek-chat",
    "deepseek-v3": "trl/deepseekv3",
    "gemma": "trl/gemma",
    "glm-5.2": "xinference/glm-5.2",
    "glm-5.3": "xinference/glm-5.3",
    "gpt-oss": "trl/gptoss",
    "gpt-oss-naive": "xinference/gpt-oss",
    "kimi-k2-instruct": "xinference/moonlight-16b-a3b-instruct",
    "kimi-k2-thinking": "xinference/Kimi-K2.5",
    "lfm": "trl/lfm2_2_5",
    "ling-3.0": "xinference/Ling-3.0-flash",
    "llama3": "trl/llama3_1",
    "llama4": "axolotl/llama4",
    "phi3": "trl/phi3",
    "phi4": "axolotl/phi_4",
    "qwen": "trl/qwen2_5",
    "qwen3-instruct": "trl/qwen3_instruct_2507",
    "qwen3-next-thinking": "xinference/Qwen3-Next-Thinking",
    "qwen3-thinking": "trl/qwen3",
    "qwen3.5": "trl/qwen3_5_think",
}


@pytest.mark.parametrize("known_stops", [True, False])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_name_and_auto_find_what_is_right_in_the_published_template(
    name: str, known_stops: bool
) -> None:
    """Without a generation_config.json the marks of the name end answers; with a template that
    auto knows too."""
    row = published()[PUBLISHED[name]]
    expected = right(row, "two turns")
    assert expected is not None
    for choice in (name, "auto"):
        stops = row.stops if known_stops else ()
        result = pieces(row.tokenizer(), conversation("two turns"), choice, stops=stops)
        assert [piece for text in result for piece in text] == expected


def pieces(tokenizer: Any, talk: Conversation, choice: str, **more: Any) -> list[list[str]]:
    """The supervised pieces of every text."""
    result = Renderer(tokenizer, choice, **more).render(talk)
    return [[r.text[a:b] for a, b in r.spans] for r in result]


def test_every_name_of_the_peer_is_known() -> None:
    assert len(PEER) == 26
    assert set(PEER) <= set(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_a_tokenizer_of_another_kind_is_refused_under_every_name(name: str) -> None:
    other = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ '[me]' if add_generation_prompt }}"
    )
    with pytest.raises(UserError, match=rf"tokens.chat_template is '{name}', which ends prompts"):
        Renderer(toy_tokenizer(other), name)
