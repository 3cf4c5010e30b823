"""Tiny random targets, saved as real Hugging Face directories."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

VOCAB, HIDDEN, LAYERS = 96, 32, 8
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,  # wide enough that greedy text is not one token over and over
    "eos_token_id": 1,
    "bos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
KINDS = ("llama", "qwen3", "qwen3_moe")


def model_config(kind, **changes):
    """The configuration of a tiny model; `changes` go over the common figures."""
    values = COMMON | {"rope_parameters": dict(ROPE)} | changes
    if kind == "llama":
        return LlamaConfig(**values)
    if kind == "qwen3":
        return Qwen3Config(**{"head_dim": 12} | values)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    return Qwen3MoeConfig(**{"head_dim": 12} | experts | values)


def build_model(kind, seed=0, **changes):
    """A random model in float32 with norms away from one."""
    torch.manual_seed(seed)
    config = model_config(kind, **changes)
    classes = {"llama": LlamaForCausalLM, "qwen3": Qwen3ForCausalLM}
    model = classes.get(kind, Qwen3MoeForCausalLM)(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.mul_(1 + 0.3 * torch.rand(weight.shape))
    return model


def save_model(folder: Path, kind, shards=False, **changes) -> Path:
    """Save a model; `shards` splits its weights over several files."""
    build_model(kind, **changes).save_pretrained(folder, max_shard_size="40KB" if shards else "1GB")
    return folder


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n {{ m.content }} <|im_end|>\n {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n {% endif %}"
)


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of one token per word, as many words as the tiny models know."""
    marks = ["<pad>", "<|im_end|>", "<unk>", "<|im_start|>user", "<|im_start|>assistant"]
    words = marks + [f"w{i}" for i in range(VOCAB - len(marks))]
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", unk_token="<unk>", pad_token="<pad>"
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)


def save_wrapper(folder: Path, kind, **changes) -> Path:
    """A multimodal model whose text part is a tiny model, and a config with `text_config`.

    `gemma3` has tied embeddings, `llava` and its kin have a head under their own prefix, and the
    Qwens say nothing about tying in their text part.
    """
    import transformers as t

    text = COMMON | {"rope_parameters": dict(ROPE)}
    vision = {"hidden_size": 16, "intermediate_size": 16}
    tower = vision | {"num_hidden_layers": 1, "num_attention_heads": 2}
    patches = {"image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    if kind == "gemma3":
        text = {k: v for k, v in text.items() if k not in ("rope_parameters", "initializer_range")}
        text |= {"head_dim": 8, "sliding_window": 8, "tie_word_embeddings": True}
        config = t.Gemma3Config(
            text_config=text, vision_config=tower | patches, mm_tokens_per_image=4, **changes
        )
    elif kind == "llava":
        config = t.LlavaConfig(
            text_config=t.LlamaConfig(**text),
            vision_config=t.CLIPVisionConfig(**tower, **patches),
            **changes,
        )
    elif kind == "mistral3":
        config = t.Mistral3Config(
            text_config=t.MistralConfig(**text),
            vision_config=t.PixtralVisionConfig(**tower, **patches, head_dim=8),
            **{"tie_word_embeddings": False} | changes,
        )
    elif kind == "internvl":
        config = t.InternVLConfig(
            text_config=t.Qwen2Config(**text),
            vision_config=t.InternVLVisionConfig(**tower, image_size=[28, 28], patch_size=[14, 14]),
            **{"tie_word_embeddings": False} | changes,
        )
    else:
        del text["tie_word_embeddings"]
        text["rope_parameters"] = ROPE | {"mrope_section": [1, 1, 2]}
        eyes = vision | {"depth": 1, "num_heads": 2, "out_hidden_size": HIDDEN}
        if kind == "qwen3_vl":
            text |= {"head_dim": 8}
            eyes |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 4}
            config = t.Qwen3VLConfig(text_config=text, vision_config=eyes, **changes)
        else:
            config = t.Qwen2_5_VLConfig(text_config=text, vision_config=eyes, **changes)
    model = t.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return folder
