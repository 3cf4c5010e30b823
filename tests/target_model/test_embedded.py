"""Laws of the embedded target: its tokenizer, its training and its saved directory."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from eagle3.config.target import EmbeddedTarget
from eagle3.target_model.embedded import build_model, save, train
from eagle3.target_model.embedded_tokenizer import train_tokenizer

LOG = logging.getLogger("test")
TEXTS = [f"The train number {n} leaves at {n}:15 and arrives at {n}:45." for n in range(60)]
CHAT = [
    {"role": "user", "content": "Hi, is it 20 °C?"},
    {"role": "assistant", "content": "Yes 🙂"},
]
SMALL = EmbeddedTarget(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_heads=2,
    num_kv_heads=1,
    max_position_embeddings=64,
    epochs=2,
    batch_tokens=256,
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, SMALL.vocab_size)


@pytest.fixture(scope="module")
def documents(tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def trained(
    tokenizer: PreTrainedTokenizerFast, documents: list[list[int]]
) -> tuple[LlamaForCausalLM, float]:
    model = build_model(SMALL, len(tokenizer))
    return model, train(model, documents, SMALL, LOG)


@pytest.mark.parametrize(
    "text", ["plain", "Chloé, 20 °C, €3.50", "🙂👩‍🚀\n\n\ttab", "日本語", " two  "]
)
def test_any_text_round_trips(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    assert tokenizer.bos_token_id is None
    assert tokenizer("a<|im_end|>", add_special_tokens=True)["input_ids"][-1] == 2


def test_template_is_chatml_and_invents_no_system_prompt(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    turn = "<|im_start|>user\nHi, is it 20 °C?<|im_end|>\n"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == (
        turn + "<|im_start|>assistant\nYes 🙂<|im_end|>\n"
    )
    assert tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True) == (
        turn + "<|im_start|>assistant\n"
    )


def test_vocabulary_must_hold_the_bytes() -> None:
    with pytest.raises(ValueError, match="259"):
        train_tokenizer(TEXTS, 258)


def test_training_lowers_the_loss_and_repeats_exactly(
    tokenizer: PreTrainedTokenizerFast, documents: list[list[int]]
) -> None:
    threads = torch.get_num_threads()
    model, loss = trained(tokenizer, documents)
    again, same = trained(tokenizer, documents)
    assert loss < 0.75 * math.log(len(tokenizer))  # against the loss of guessing evenly
    assert loss == same
    assert torch.get_num_threads() == threads
    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_too_few_tokens_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="3 tokens"):
        train(build_model(SMALL, len(tokenizer)), [[1, 2, 3]], SMALL, LOG)


def test_saved_directory_loads_everywhere(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = build_model(SMALL, len(tokenizer))
    save(model, tokenizer, tmp_path)
    names = ("config", "generation_config", "tokenizer", "tokenizer_config")
    files = {f"{name}.json" for name in names} | {"model.safetensors", "chat_template.jinja"}
    assert files <= {path.name for path in tmp_path.iterdir()}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.eos_token_id == loaded.generation_config.eos_token_id == 2
    assert not loaded.config.tie_word_embeddings
    with safe_open(tmp_path / "model.safetensors", framework="pt") as weights:
        head, embedding = map(weights.get_tensor, ("lm_head.weight", "model.embed_tokens.weight"))
    assert head.shape == embedding.shape == (len(tokenizer), SMALL.hidden_size)
    assert not torch.equal(head, embedding)
    fresh = AutoTokenizer.from_pretrained(tmp_path)
    assert fresh.eos_token_id == 2
    assert fresh.bos_token_id is None
    assert (
        fresh.apply_chat_template(CHAT)["input_ids"]
        == (tokenizer.apply_chat_template(CHAT)["input_ids"])
    )
    generation = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["pad_token_id"] == 0
    assert not generation.get("do_sample", False)
