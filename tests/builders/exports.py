"""Small drafts in every form, damaged ones, and a reader that shares no code with ours."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial

import torch
from ml_dtypes import bfloat16
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear, scaled_dot_product_attention, silu
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from eagle3.draft.config import DraftConfig
from eagle3.draft.model import Eagle3Draft, initialise
from eagle3.export.exported import Description, Verifier, write_draft
from eagle3.export.formats import DRAFT_FORMATS, format_of
from eagle3.files.artifact import MANIFEST_KEY, canonical
from eagle3.files.tensor_file import content_sha256, read_manifest
from eagle3.tokens.vocab import build_mapping
from tests.builders.shards import stage_settings

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIG = DraftConfig(
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,  # 4 * 8 is not 16
    vocab_size=40,
    draft_vocab_size=12,
    rms_norm_eps=1e-5,
    max_position_embeddings=512,
    rope=LLAMA3,
    aux_layers=(1, 3, 4),
    bos_token_id=2,
    eos_token_id=[1, 5],
)
EAGLE31 = replace(CONFIG, fc_norm=True, norm_output=True)
QK_NORM = replace(CONFIG, qk_norm=True)
NORMED_RESIDUAL = replace(CONFIG, norm_before_residual=True)
VERIFIER = Verifier("meta-llama/Llama-3.1-8B-Instruct", ("LlamaForCausalLM",), 5)


def draft_and_mapping(config=CONFIG):
    """A random draft with norms away from one, and a vocabulary."""
    draft = Eagle3Draft(config)
    initialise(draft, 3)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in draft.parameters():
            if weight.dim() == 1:
                weight.add_(0.3 * torch.randn(weight.shape, generator=draw))
    counts = torch.randint(1, 100, (config.vocab_size,), generator=draw).numpy()
    return draft, build_mapping(counts, config.draft_vocab_size, [1])


def write(
    form,
    folder,
    weights,
    mapping,
    config=CONFIG,
    dtype="bfloat16",
    embedding=None,
    verifier=VERIFIER,
):
    described = Description(config, dtype, verifier if form == "speculators" else None)
    settings, arrays = stage_settings(f"export_{form}"), numpy_of(weights)
    rows = None if embedding is None else numpy_of({"": embedding})[""]
    write_draft(DRAFT_FORMATS[form], folder, described, arrays, mapping, settings, {}, rows)


def numpy_of(tensors):
    """Tensors as arrays, bfloat16 too."""
    return {
        name: (
            t.view(torch.int16).numpy().view(bfloat16) if t.dtype == torch.bfloat16 else t.numpy()
        )
        for name, t in tensors.items()
    }


def export(form, folder, config=CONFIG, dtype="bfloat16", embedding=None):
    """Write the random draft; it and its vocabulary."""
    draft, mapping = draft_and_mapping(config)
    write(form, folder, draft.state_dict(), mapping, config, dtype, embedding)
    return draft, mapping


def rewritten(folder, change):
    """Change tensors of a finished export in place, keeping its manifest and its checksum right."""
    path = folder / "model.safetensors"
    manifest = read_manifest(path, format_of(folder).kind)
    tensors = dict(load_file(path))
    change(tensors)
    stamped = {**asdict(manifest), "content_sha256": content_sha256(tensors)}
    save_file(tensors, path, metadata={MANIFEST_KEY: canonical(stamped)})


def reconfigured(folder, change):
    """Change a finished config.json in place."""
    path = folder / "config.json"
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))


def cast(draft, dtype):
    """The draft as a reader of an export in `dtype` has it: float32, of rounded weights."""
    rounded = Eagle3Draft(draft.config)
    weights = draft.state_dict().items()
    rounded.load_state_dict({name: w.to(getattr(torch, dtype)).float() for name, w in weights})
    return rounded


def inputs(config, rows=9):
    """Random states [n, C H] and embeddings [n, H]."""
    draw = torch.Generator().manual_seed(5)
    width, size = config.aux_width, config.hidden_size
    return torch.randn(rows, width, generator=draw), torch.randn(rows, size, generator=draw)


def rms(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def logits_by_hand(folder, aux, embeddings):
    """What somebody computes who has only the folder, transformers and the paper: float32 logits
    [n, V_draft] and states handed on [n, H] of consecutive rows."""
    whole = json.loads((folder / "config.json").read_text())
    if "transformer_layer_config" in whole:  # of the speculators library
        c = AutoConfig.for_model(**whole["transformer_layer_config"])
        layer = "layers.0."
    else:
        c, layer = AutoConfig.from_pretrained(folder), "midlayer."
    tensors = load_file(folder / "model.safetensors")
    w = {name: t.float() for name, t in tensors.items() if t.is_floating_point()}
    norm = partial(rms, eps=c.rms_norm_eps)
    heads = lambda x: x.unflatten(-1, (-1, c.head_dim)).transpose(0, 1)[None]  # noqa: E731
    if whole["fc_norm"]:
        chunks = enumerate(aux.split(c.hidden_size, dim=-1))
        aux = torch.cat([norm(chunk, w[f"fc_norm.{i}.weight"]) for i, chunk in chunks], dim=-1)
    hidden = linear(aux, w["fc.weight"])
    turned = LlamaRotaryEmbedding(c)(hidden, torch.arange(len(hidden))[None])
    seen = torch.ones(len(hidden), len(hidden), dtype=torch.bool).tril()
    if "sliding_attention" in (getattr(c, "layer_types", None) or []):
        seen &= seen.triu(1 - c.sliding_window)
    for number in range(c.num_hidden_layers):
        prefix = layer if number == 0 else f"layers.{number}."
        part = {n.removeprefix(prefix): t for n, t in w.items() if n.startswith(prefix)}
        if number == 0:
            normed = norm(hidden, part["hidden_norm.weight"])
            x = torch.cat((norm(embeddings, part["input_layernorm.weight"]), normed), -1)
            residual = normed if whole["norm_before_residual"] else hidden
        else:  # SGLang's class has another name for it
            before = "hidden_norm" if "eagle_config" in whole else "input_layernorm"
            x, residual = norm(hidden, part[f"{before}.weight"]), hidden
        q, k, v = (heads(linear(x, part[f"self_attn.{name}_proj.weight"])) for name in "qkv")
        if c.model_type == "qwen3":
            gains = (part[f"self_attn.{name}_norm.weight"] for name in "qk")
            q, k = (norm(y, gain) for y, gain in zip((q, k), gains, strict=True))
        q, k = apply_rotary_pos_emb(q, k, *turned)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)[0]
        attended = attended.transpose(0, 1).flatten(1)
        hidden = residual + linear(attended, part["self_attn.o_proj.weight"])
        x = norm(hidden, part["post_attention_layernorm.weight"])
        gated = silu(linear(x, part["mlp.gate_proj.weight"])) * linear(
            x, part["mlp.up_proj.weight"]
        )
        hidden = hidden + linear(gated, part["mlp.down_proj.weight"])
    normed = norm(hidden, w["norm.weight"])
    return linear(normed, w["lm_head.weight"]), normed if whole["norm_output"] else hidden


def logits_of(draft, aux, embeddings):
    """The same by the draft's class."""
    places = torch.arange(len(aux))
    hidden, window = draft.project_aux(aux), draft.config.sliding_window or len(aux)
    seen = (places <= places[:, None]) & (places > places[:, None] - window)
    for number in range(draft.config.num_hidden_layers):
        x = draft.layer_input(embeddings, hidden, number)
        q, (k, v) = draft.queries(x, places, number), draft.keys_values(x, places, number)
        q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
        attended = scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)[0]
        hidden = draft.finish(hidden, attended.transpose(0, 1), number)
    return draft.logits(hidden), hidden
