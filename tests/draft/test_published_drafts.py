"""Warm start from drafts as projects publish them: loaded exactly, or refused in one sentence.

Their configurations are the published ones, but for sizes; a shrunken random draft is written under
the names of their tensors, in their kind of file. What is loaded is compared tensor by tensor, and
with what somebody computes who has only the folder, transformers and the paper.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import linear, scaled_dot_product_attention, silu
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from eagle3.config.configuration import Config
from eagle3.draft.config import derive_config
from eagle3.draft.config_file import read_config_file, resolved
from eagle3.draft.model import Eagle3Draft, initialise
from eagle3.draft.pretrained import warm_start
from eagle3.draft.weight_files import weight_files
from eagle3.errors import UserError
from tests.builders.exports import CONFIG, VERIFIER, export, logits_of, rms
from tests.draft.published_configs import LAYER, LLAMA, NVIDIA, QWEN

HIDDEN, VOCAB, DRAFT_VOCAB, LAYERS = 32, 96, 40, 10
USUAL = (1, 4, 6)  # of a target of ten layers: what engines take where nothing is said
SIZES = {
    "hidden_size": HIDDEN,
    "vocab_size": VOCAB,
    "draft_vocab_size": DRAFT_VOCAB,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,  # 4 x 16 is not 32, as in Qwen3-30B-A3B
}
WIDE_HEADS = {"head_dim": 8}  # of files that name no head_dim
LLAMA3 = LAYER["rope_parameters"]
PLAIN = {"rope_type": "default", "rope_theta": 1e6}


def safetensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors")


def two_safetensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """In parts with an index, beside a second copy in another layout."""
    parts = parted(folder, tensors, "model.safetensors", ".safetensors")
    for name, part in parts.items():
        save_file(part, folder / name)
    save_file({"other.weight": torch.ones(1)}, folder / "consolidated.safetensors")


def pickled(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save(tensors, folder / "pytorch_model.bin")
    torch.save({"lr": 0.1}, folder / "training_args.bin")  # nobody reads it


def two_pickled(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    for name, part in parted(folder, tensors, "pytorch_model.bin", ".bin").items():
        torch.save(part, folder / name)


def parted(
    folder: Path, tensors: dict[str, torch.Tensor], index: str, ending: str
) -> dict[str, dict[str, torch.Tensor]]:
    stem = index.removesuffix(ending)
    parts: dict[str, dict[str, torch.Tensor]] = {f"{stem}-0000{n}-of-2{ending}": {} for n in (1, 2)}
    places = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        places[name] = list(parts)[number % 2]
        parts[places[name]][name] = tensor
    (folder / f"{index}.index.json").write_text(json.dumps({"weight_map": places}))
    return parts


@dataclass(frozen=True)
class Published:
    """A draft as somebody publishes it, and what a run needs to start from it."""

    config: dict[str, Any]
    write: Callable[[Path, dict[str, torch.Tensor]], None] = safetensors
    layer: str = "midlayer."
    embedding: bool = True  # is in the file too
    target: dict[str, Any] = field(default_factory=lambda: PLAIN)  # rotary positions of the target
    needs: dict[str, Any] = field(default_factory=dict)  # keys of section `draft`
    dtype: torch.dtype = torch.bfloat16
    aux: tuple[int, ...] = USUAL


# speculators writes what transformers' class has besides; of pull request 53 there
REDHAT_LAYER = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_hidden_layers": 1,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {name: value for name, value in LLAMA3.items() if name != "rope_theta"},
    "rope_theta": 500000.0,
    "use_cache": True,
}
REDHAT = {
    "architectures": ["Eagle3Speculator"],
    "auto_map": {"": "eagle3.Eagle3SpeculatorConfig"},
    "has_no_defaults_at_init": False,
    "norm_before_residual": True,
    "speculators_config": {
        "algorithm": "eagle3",
        "default_proposal_method": "greedy",
        "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 5}],
        "verifier": {"architectures": ["LlamaForCausalLM"], "name_or_path": "meta-llama/x"},
    },
    "speculators_model_type": "eagle3",
    "speculators_version": "0.1.0.dev21",
    "target_hidden_size": None,
    "torch_dtype": "bfloat16",
    "transformer_layer_config": REDHAT_LAYER,
}
# traineagle3/config.json of EAGLE, configs/llama3-8B-eagle3.json of SpecForge: one and the same
EAGLE = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 2048,
    "model_type": "llama",
    "num_hidden_layers": 1,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.28.1",
    "use_cache": True,
}
# what ModelOpt's exporter writes of its default configuration for a Llama
MODELOPT = LLAMA | {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128009,
    "initializer_range": 0.01,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "pad_token_id": None,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"rope_type": "default", "rope_theta": 10000},
    "rope_theta": 10000,
    "transformers_version": "5.3.0",
    "use_cache": True,
    "eagle_config": {
        name: value for name, value in NVIDIA.items() if name not in ("head_dim", "has_lm_head")
    }
    | {"parallel_draft_heads_num_layers": 1},
}
# Qwen3-8B, with the base of the rotary frequencies that it was trained with
ANGELSLIM = QWEN | {
    "architectures": ["Eagle3LlamaForCausalLM"],
    "target_model_type": "qwen3",
    "initializer_range": 0.02,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "rope_theta": 10000,
    "transformers_version": "4.51.0",
    "use_cache": True,
}
THETA = {"rope_theta": 1e4}
AS_WRITTEN = {"rope_theta": 1e4, "rope_scaling": {"rope_type": "default"}}
EPS = {"rms_norm_eps": 1e-5}
LOADED: dict[str, Published] = {
    "SpecForge, lmsys": Published(
        QWEN | {"rope_theta": 1000000.0, "max_position_embeddings": 40960}, dtype=torch.float16
    ),
    "SpecForge, layers named": Published(
        QWEN | {"rope_theta": 1e6, "eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 5, 7]}},
        aux=(2, 5, 7),
        write=two_safetensors,
    ),
    "yuhuili": Published(
        EAGLE,
        write=pickled,
        embedding=False,
        target=LLAMA3,
        needs=AS_WRITTEN | EPS,
        dtype=torch.float16,
    ),
    "yuhuili, in parts": Published(
        EAGLE, write=two_pickled, target=LLAMA3, needs=AS_WRITTEN | EPS, dtype=torch.float16
    ),
    "NVIDIA": Published(
        MODELOPT, layer="layers.0.", embedding=False, target=LLAMA3, needs=AS_WRITTEN | EPS
    ),
    "AngelSlim": Published(ANGELSLIM, needs=THETA),
    "RedHatAI": Published(
        REDHAT, layer="layers.0.", target=LLAMA3, needs={"norm_before_residual": True, **EPS}
    ),
    "RedHatAI, layers named": Published(
        REDHAT
        | {"architectures": ["Eagle3DraftModel"], "eagle_aux_hidden_state_layer_ids": [3, 6, 8]},
        layer="layers.0.",
        target=LLAMA3,
        needs={"norm_before_residual": True, **EPS},
        aux=(2, 5, 7),
    ),
    "EAGLE-3.1": Published(
        QWEN | {"rope_theta": 1e6, "fc_norm": True, "norm_output": True},
        needs={"fc_norm": True, "norm_output": True},
    ),
}


def shrunken(config: dict[str, Any]) -> dict[str, Any]:
    """A published configuration with small sizes, where it has them."""
    if "transformer_layer_config" in config:
        layer = {n: v for n, v in SIZES.items() if n != "draft_vocab_size"}
        nested = config["transformer_layer_config"] | layer
        return config | {"transformer_layer_config": nested, "draft_vocab_size": DRAFT_VOCAB}
    return config | SIZES


def target_of(rope: dict[str, Any], layers: int = LAYERS) -> LlamaConfig:
    sizes = {name: value for name, value in SIZES.items() if name != "draft_vocab_size"}
    return LlamaConfig(**sizes, num_hidden_layers=layers, rope_parameters=dict(rope))


def tensors_of(draft: Eagle3Draft, entry: Published) -> dict[str, torch.Tensor]:
    tensors = {
        name.replace("midlayer.", entry.layer): weight.detach().to(entry.dtype)
        for name, weight in draft.named_parameters()
    }
    ids = torch.arange(DRAFT_VOCAB) * 2 + 1
    tensors["d2t"] = ids - torch.arange(DRAFT_VOCAB)
    tensors["t2d"] = torch.zeros(VOCAB, dtype=torch.bool).index_fill_(0, ids, True)
    if entry.embedding:
        tensors["embed_tokens.weight"] = torch.ones(VOCAB, HIDDEN, dtype=entry.dtype)
    return tensors


def publish(folder: Path, entry: Published) -> dict[str, torch.Tensor]:
    """Write the draft; its tensors by our names."""
    folder.mkdir(parents=True, exist_ok=True)
    config = derive_config(target_of(entry.target), entry.needs, DRAFT_VOCAB, entry.aux)
    draft = Eagle3Draft(config)
    initialise(draft, 3)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in draft.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=draw))
    tensors = tensors_of(draft, entry)
    entry.write(folder, tensors)
    (folder / "config.json").write_text(json.dumps(shrunken(entry.config)))
    return {name.replace(entry.layer, "midlayer."): tensor for name, tensor in tensors.items()}


def started(
    folder: Path,
    needs: dict[str, Any],
    rope: dict[str, Any],
    aux: tuple[int, ...] = USUAL,
    layers: int = LAYERS,
    described: Path | None = None,
) -> Eagle3Draft:
    """The draft of a run with these keys of section `draft`, started from a folder or a file;
    `described`: the run's `draft.config`."""
    config = Config.of({"run": "x", "draft": needs}).to_dict()
    if described:
        config = resolved(config, read_config_file(described))
    draft = Eagle3Draft(derive_config(target_of(rope, layers), config["draft"], DRAFT_VOCAB, aux))
    initialise(draft, 0)
    ids = torch.arange(DRAFT_VOCAB) * 2 + 1
    warm_start(draft, folder, ids, target_layers=layers)
    return draft


def by_hand(
    file: dict[str, Any], w: dict[str, torch.Tensor], aux: torch.Tensor, embedding: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and the state handed on of consecutive rows, as engines compute them."""
    layer = file.get("transformer_layer_config", file)
    known = LlamaConfig(**{n: v for n, v in layer.items() if n not in ("architectures", "dtype")})
    w = {name: tensor.float() for name, tensor in w.items()}
    norm = partial(rms, eps=known.rms_norm_eps)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, known.head_dim)).transpose(0, 1)[None]

    if file.get("fc_norm"):
        chunks = enumerate(aux.chunk(3, dim=-1))
        aux = torch.cat([norm(chunk, w[f"fc_norm.{i}.weight"]) for i, chunk in chunks], dim=-1)
    hidden = linear(aux, w["fc.weight"])
    normed = norm(hidden, w["midlayer.hidden_norm.weight"])
    x = torch.cat((norm(embedding, w["midlayer.input_layernorm.weight"]), normed), -1)
    q, k, v = (heads(linear(x, w[f"midlayer.self_attn.{name}_proj.weight"])) for name in "qkv")
    q, k = apply_rotary_pos_emb(q, k, *LlamaRotaryEmbedding(known)(x, torch.arange(len(x))[None]))
    out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0]
    out = linear(out.transpose(0, 1).flatten(1), w["midlayer.self_attn.o_proj.weight"])
    hidden = (normed if file.get("norm_before_residual") else hidden) + out
    x = norm(hidden, w["midlayer.post_attention_layernorm.weight"])
    gate, up, down = (w[f"midlayer.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    hidden = hidden + linear(silu(linear(x, gate)) * linear(x, up), down)
    read = norm(hidden, w["norm.weight"])
    return linear(read, w["lm_head.weight"]), read if file.get("norm_output") else hidden


@pytest.mark.parametrize("name", LOADED)
def test_a_published_draft_is_loaded_exactly(tmp_path: Path, name: str) -> None:
    entry = LOADED[name]
    tensors = publish(tmp_path, entry)
    draft = started(tmp_path, entry.needs, entry.target, entry.aux)
    for parameter, weight in draft.named_parameters():
        assert torch.equal(weight, tensors[parameter].float()), parameter
    draw = torch.Generator().manual_seed(5)
    aux, embedding = (torch.randn(9, n * HIDDEN, generator=draw) for n in (3, 1))
    with torch.no_grad():
        found = logits_of(draft, aux, embedding)
        expected = by_hand(shrunken(entry.config), tensors, aux, embedding)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LOADED)
def test_its_own_configuration_is_all_that_a_run_needs(tmp_path: Path, name: str) -> None:
    """`draft.config` and `train.warm_start` read one file by one rule."""
    entry = LOADED[name]
    tensors = publish(tmp_path, entry)
    described = tmp_path / "config.json"
    draft = started(tmp_path, {}, entry.target, entry.aux, described=described)
    assert torch.equal(draft.fc.weight, tensors["fc.weight"].float())


@pytest.mark.parametrize("name", [n for n, entry in LOADED.items() if entry.needs])
def test_without_its_keys_it_is_refused_by_the_name_of_one(tmp_path: Path, name: str) -> None:
    entry = LOADED[name]
    publish(tmp_path, entry)
    for left_out in entry.needs:
        needs = {key: value for key, value in entry.needs.items() if key != left_out}
        if left_out == "rope_scaling":
            needs.pop("rope_theta")
        with pytest.raises(UserError) as refusal:
            started(tmp_path, needs, entry.target, entry.aux)
        said = str(refusal.value)
        assert said.startswith("train.warm_start: ") and "\n" not in said
        assert f"draft.{left_out}" in said


@pytest.mark.parametrize("name", LOADED)
def test_states_of_other_layers_are_refused(tmp_path: Path, name: str) -> None:
    """Named at the top, in `eagle_config`, or not at all: then they are the usual ones."""
    entry = LOADED[name]
    publish(tmp_path, entry)
    with pytest.raises(UserError, match=r"set hidden_states\.aux_layers alike") as refusal:
        started(tmp_path, entry.needs, entry.target, (0, 4, 6))
    assert f"reads layers {list(entry.aux)} of the target" in str(refusal.value)
    assert ("names no layers" in str(refusal.value)) == (entry.aux == USUAL)


@pytest.mark.parametrize("form", ["sglang", "vllm", "speculators", "hf"])
def test_our_exports_start_a_run_of_their_layers_and_of_no_others(
    tmp_path: Path, form: str
) -> None:
    old, mapping = export(form, tmp_path / "export", dtype="float32")
    ids = torch.from_numpy(mapping.target_ids)
    draft = Eagle3Draft(CONFIG)
    warm_start(draft, tmp_path / "export", ids, target_layers=VERIFIER.num_speculative_tokens + 2)
    for name, weight in draft.named_parameters():
        assert torch.equal(weight, old.get_parameter(name)), name
    others = Eagle3Draft(type(CONFIG)(**{**vars(CONFIG), "aux_layers": (0, 2, 3)}))
    with pytest.raises(UserError, match=r"reads layers \[1, 3, 4\] of the target, the states are"):
        warm_start(
            others, tmp_path / "export", ids, target_layers=VERIFIER.num_speculative_tokens + 2
        )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "speculators, silent about the residual": (
        {n: v for n, v in REDHAT.items() if n != "norm_before_residual"},
        "norm_before_residual = null; readers disagree",
    ),
    "RedHatAI for gpt-oss": (REDHAT | {"norm_before_fc": True}, "has norm_before_fc = true; a"),
    "nebius": (
        EAGLE | {"truncated_vocab_size": 64000},
        "truncated_vocab_size = 64000; which is no key of a draft known here",
    ),
    "NVIDIA for Kimi": (
        MODELOPT | {"architectures": ["Eagle3DeepseekV2ForCausalLM"]},
        'architectures = ["Eagle3DeepseekV2ForCausalLM"]; known are',
    ),
    "NVIDIA with Medusa heads": (
        MODELOPT | {"eagle_config": MODELOPT["eagle_config"] | {"parallel_draft_step": 3}},
        "parallel_draft_step = 3; a draft here has 1",
    ),
    "NVIDIA, quantised": (
        MODELOPT | {"quantization_config": {"quant_algo": "FP8"}},
        "quantization_config = ",
    ),
    "AngelSlim for Hunyuan": (ANGELSLIM | {"use_qk_norm": True}, "use_qk_norm = true; which"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_model_is_refused_by_name(tmp_path: Path, name: str) -> None:
    config, sentence = REFUSED[name]
    publish(tmp_path, LOADED["yuhuili"])
    (tmp_path / "config.json").write_text(json.dumps(shrunken(config)))
    with pytest.raises(UserError) as refusal:
        started(tmp_path, AS_WRITTEN | EPS, LLAMA3)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("ending", [".safetensors", ".bin", ".pt", ".pth"])
def test_a_file_is_a_draft_with_the_configuration_beside_it(tmp_path: Path, ending: str) -> None:
    entry = LOADED["AngelSlim"]
    tensors = publish(tmp_path, entry)
    (tmp_path / "model.safetensors").unlink()
    path = tmp_path / f"draft{ending}"
    save = save_file if ending == ".safetensors" else torch.save
    save(tensors, path)
    draft = started(path, entry.needs, entry.target)
    assert torch.equal(draft.norm.weight, tensors["norm.weight"].float())
    other = tmp_path / "draft.gguf"
    other.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"draft\.gguf is no file of weights"):
        started(other, entry.needs, entry.target)


def test_a_folder_that_lacks_weights_says_which(tmp_path: Path) -> None:
    publish(tmp_path, LOADED["yuhuili, in parts"])
    lost = weight_files(tmp_path)[1]
    lost.unlink()
    with pytest.raises(UserError, match=rf"lacks {lost.name}, which pytorch_model\.bin\.index\.js"):
        weight_files(tmp_path)
    for path in tmp_path.glob("pytorch_model*"):
        path.unlink()
    with pytest.raises(UserError, match=r"neither \*\.safetensors nor pytorch_model\.bin"):
        weight_files(tmp_path)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"fc.weight": "../elsewhere.bin"}}))
    with pytest.raises(UserError, match=r"^train\.warm_start: .*must be the name of a \.bin file"):
        weight_files(tmp_path)


def test_a_draft_whose_lists_of_tokens_disagree_is_refused(tmp_path: Path) -> None:
    entry = LOADED["yuhuili"]
    tensors = publish(tmp_path, entry)
    ids = torch.arange(DRAFT_VOCAB) * 2 + 1
    absolute = tensors | {"d2t": ids}  # ids themselves, where offsets belong
    torch.save(absolute, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="d2t"):
        started(tmp_path, entry.needs, entry.target)
    torch.save(tensors | {"t2d": ~tensors["t2d"]}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"d2t and t2d of .* do not name the same tokens"):
        started(tmp_path, entry.needs, entry.target)
