"""The draft in SGLang's form: what it writes, and a reader stricter than SGLang's own.

SGLang skips tensors it does not know and leaves those it misses uninitialised, without a word.
So names and shapes are checked here, on the way out and on the way in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from eagle3.artifact import Manifest, Settings, write_text
from eagle3.draft.config import DraftConfig
from eagle3.draft.model import Eagle3Draft
from eagle3.errors import Foreign, UserError
from eagle3.target.hf import DTYPES
from eagle3.tensorfile import load_tensors, save_tensors
from eagle3.tokens.vocab import VocabMapping

KIND = "draft-sglang"
ARCHITECTURE = "LlamaForCausalLMEagle3"
AUX_IDS = "eagle_aux_hidden_state_layer_ids"


def expected_shapes(config: DraftConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of an export and its shape."""
    h, d = config.hidden_size, config.head_dim
    heads, kv, width = config.num_attention_heads, config.num_key_value_heads, 2 * h
    return {
        "fc.weight": (h, 3 * h),
        "midlayer.hidden_norm.weight": (h,),
        "midlayer.input_layernorm.weight": (h,),
        "midlayer.post_attention_layernorm.weight": (h,),
        "midlayer.self_attn.q_proj.weight": (heads * d, width),
        "midlayer.self_attn.k_proj.weight": (kv * d, width),
        "midlayer.self_attn.v_proj.weight": (kv * d, width),
        "midlayer.self_attn.o_proj.weight": (h, heads * d),
        "midlayer.mlp.gate_proj.weight": (config.intermediate_size, h),
        "midlayer.mlp.up_proj.weight": (config.intermediate_size, h),
        "midlayer.mlp.down_proj.weight": (h, config.intermediate_size),
        "norm.weight": (h,),
        "lm_head.weight": (config.draft_vocab_size, h),
        "d2t": (config.draft_vocab_size,),
        "t2d": (config.vocab_size,),
    }


def engine_config(config: DraftConfig, dtype: str) -> dict[str, Any]:
    """config.json as SGLang reads it; rotary parameters in the old and the new spelling."""
    scaling = {k: v for k, v in config.rope.items() if k != "rope_theta"}
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": 1,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope["rope_theta"],
        "rope_scaling": None if scaling.get("rope_type") == "default" else scaling,
        "rope_parameters": dict(config.rope),
        "max_position_embeddings": config.max_position_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "vocab_size": config.vocab_size,
        "draft_vocab_size": config.draft_vocab_size,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "torch_dtype": dtype,
        "use_cache": True,
        "qk_norm": config.qk_norm,
        "fc_norm": config.fc_norm,
        "norm_output": config.norm_output,
        # SGLang: 0-based layer outputs; read only when nested like this
        "eagle_config": {
            AUX_IDS: list(config.aux_layers),
            "use_aux_hidden_state": True,
        },
    }


def export_sglang(
    folder: Path,
    config: DraftConfig,
    weights: dict[str, torch.Tensor],
    mapping: VocabMapping,
    dtype: str,
    settings: Settings,
    inputs: dict[str, str],
) -> None:
    """Write `config.json` and `model.safetensors`, then read them back strictly.

    Raises UserError if a tensor is missing, unknown or of the wrong shape.
    """
    tensors = {name: tensor.to(DTYPES[dtype]) for name, tensor in weights.items()}
    tensors["d2t"] = torch.from_numpy(mapping.d2t.copy())
    tensors["t2d"] = torch.from_numpy(mapping.t2d.copy())
    _check(folder, config, tensors)
    save_tensors(folder / "model.safetensors", tensors, Manifest.of(KIND, settings, inputs))
    written = json.dumps(engine_config(config, dtype), indent=2) + "\n"
    write_text(folder / "config.json", written)
    loaded, back = load_sglang(folder)
    if loaded.config != config or (back.d2t != mapping.d2t).any():
        raise UserError(f"{folder}: the export does not read back as it was written")


def load_sglang(
    folder: Path, settings_digest: str | None = None
) -> tuple[Eagle3Draft, VocabMapping]:
    """The draft of an export, in float32, and its vocabulary mapping.

    Raises UserError on anything that an engine would load silently wrong.
    """
    tensors, _ = load_tensors(folder / "model.safetensors", KIND, settings_digest, "pt")
    config = _read_config(folder / "config.json")
    with Foreign(f"{folder}: config.json does not describe the draft beside it"):
        _check(folder, config, tensors)
        mapping = VocabMapping(tensors.pop("d2t").numpy(), tensors.pop("t2d").numpy())
        draft = Eagle3Draft(config)
        draft.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return draft.eval(), mapping


def _read_config(path: Path) -> DraftConfig:
    """The shape of a draft from an engine's config.json."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as fault:
        raise UserError(f"{path}: is not JSON ({fault})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: does not hold a JSON object")
    if found.get("architectures") != [ARCHITECTURE] or found.get("tie_word_embeddings"):
        raise UserError(f"{path}: is not the configuration of an untied {ARCHITECTURE}")
    names = set(DraftConfig.__dataclass_fields__) - {"rope", "aux_layers"}
    nested = found.get("eagle_config")
    nested = nested if isinstance(nested, dict) else {}
    missing = sorted(name for name in (*names, "rope_parameters") if name not in found)
    # at the top level the ids would be read by nobody
    if AUX_IDS not in nested:
        missing.append(f"eagle_config.{AUX_IDS}")
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} missing; export the draft again")
    with Foreign(f"{path}: does not describe a draft"):
        return DraftConfig(
            **{name: found[name] for name in names},
            rope=found["rope_parameters"],
            aux_layers=tuple(nested[AUX_IDS]),
        )


def _check(folder: Path, config: DraftConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Names, shapes and the mapping's own laws."""
    expected = expected_shapes(config)
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise UserError(f"{folder}: tensors missing: {missing}, unknown: {unknown}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(f"{folder}: {name} is {tuple(tensors[name].shape)}, expected {shape}")
        if not torch.isfinite(tensors[name]).all():
            raise UserError(
                f"{folder}: {name} is not finite in {tensors[name].dtype}; use export.dtype "
                "bfloat16 or float32"
            )
    ids = tensors["d2t"] + torch.arange(config.draft_vocab_size)
    members = tensors["t2d"].nonzero().flatten()
    if not torch.equal(ids, members):
        raise UserError(f"{folder}: d2t (offsets) and t2d (membership) do not name the same tokens")
