"""gpt-oss through transformers: sinks and sliding windows in batches, and weights in MXFP4."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from eagle3.engines.hf import HFTarget
from tests.builders.shards import plain_states

HIDDEN, EXPERTS, LAYERS = 64, 4, (0, 1, 2)
MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same random model twice: experts in bfloat16, and packed as in the published weights."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    plain, packed = (tmp_path_factory.mktemp(name) for name in ("plain", "packed"))
    torch.manual_seed(0)
    config = transformers.GptOssConfig(
        vocab_size=96,
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        sliding_window=8,
        max_position_embeddings=256,
        initializer_range=0.15,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    weights, stored = model.state_dict(), {}
    for name, weight in weights.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, into, out = weight.shape
            shape = (experts, out, into // 32, 16)  # two values of 4 bits a byte, 32 share a scale
            blocks = torch.randint(0, 256, shape, dtype=torch.uint8)
            scales = torch.randint(118, 124, shape[:3], dtype=torch.uint8)  # 2^(s - 127)
            weight.copy_(convert_moe_packed_tensors(blocks, scales))
            stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        else:
            if name.endswith("sinks"):
                weight.normal_()
            stored[name] = weight.clone()
    model.save_pretrained(plain)
    config.save_pretrained(packed)
    written = json.loads((packed / "config.json").read_text())
    written |= {"architectures": ["GptOssForCausalLM"], "dtype": "bfloat16"}
    (packed / "config.json").write_text(json.dumps(written | {"quantization_config": MXFP4}))
    save_file(stored, packed / "model.safetensors", {"format": "pt"})
    return plain, packed


def test_weights_in_mxfp4_give_the_states_of_the_same_weights_unpacked(folders) -> None:
    ids = torch.arange(40)[None]
    (aux, last), (packed_aux, packed_last) = (
        HFTarget.load(folder, LAYERS).states(ids) for folder in folders
    )
    assert packed_aux.dtype == torch.bfloat16
    assert torch.equal(aux, packed_aux) and torch.equal(last, packed_last)


def test_documents_in_a_batch_have_the_states_that_each_has_alone(folders) -> None:
    """Longer than the window, so that what lies outside it and the sinks count."""
    target = HFTarget.load(folders[0], LAYERS, "float32")
    documents = [torch.randint(0, 96, (length,)) for length in (37, 12, 20)]
    aux, last = target.flat_states(documents)
    alone = [plain_states(target, document, LAYERS) for document in documents]
    assert torch.allclose(aux, torch.cat([a for a, _ in alone]), rtol=1e-4, atol=1e-4)
    assert torch.allclose(last, torch.cat([b for _, b in alone]), rtol=1e-4, atol=1e-4)
    # the window is at work: the last state does not depend on what lies far before it in layer 0
    other = documents[0].clone()
    other[0] = (other[0] + 1) % 96
    again = plain_states(target, other, LAYERS)[0]
    assert torch.equal(again[-1, :HIDDEN], alone[0][0][-1, :HIDDEN])
