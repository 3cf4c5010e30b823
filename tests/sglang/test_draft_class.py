"""SGLang's own draft class loads the export: every parameter accounted for, the same logits."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.builders.exports import CONFIG, EAGLE31, export, inputs, logits_of

SCRIPT = Path(__file__).parent / "load_export.py"
CASES = {
    "plain": CONFIG,
    "eagle31": EAGLE31,
    "two states": replace(CONFIG, aux_layers=(1, 4)),
    "five states": replace(EAGLE31, aux_layers=(0, 1, 3, 4, 5)),
    "three layers": replace(EAGLE31, num_hidden_layers=3),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_engines_class_takes_every_tensor_and_computes_the_same(
    engine_python, tmp_path, monkeypatch, name
):
    draft, mapping = export("sglang", tmp_path / "export", CASES[name], "float32")
    aux, embedding = inputs(draft.config, draft.config.vocab_size)
    ids = torch.randint(3, 40, (9,), generator=torch.Generator().manual_seed(1))
    given = {"aux": aux[:9].contiguous(), "embedding": embedding, "ids": ids}
    save_file(given, tmp_path / "given.safetensors")
    places = [tmp_path / place for place in ("export", "given.safetensors", "found", "report")]
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [engine_python, SCRIPT, *places]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]

    told = json.loads(places[3].read_text())
    assert told["class"] == "LlamaForCausalLMEagle3"
    # the mapping is no parameter; a misnamed norm is dropped without a word, so our reader refuses
    assert told["dropped"] == ["d2t", "t2d", "midlayer.hidden_layernorm.weight"]
    # the target's takes the first one's place; layers behind the first have a norm that is not used
    unused = [
        f"model.layers.{number}.input_layernorm.weight"
        for number in range(1, draft.config.num_hidden_layers)
    ]
    assert told["unfilled"] == ["model.embed_tokens.weight", *unused]
    assert told["target_ids"] == mapping.target_ids.tolist()
    assert told["norm_output"] is draft.config.norm_output

    logits, handed_on = logits_of(draft, aux[:9], embedding[ids])
    result = load_file(places[2])
    torch.testing.assert_close(result["logits"], logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(result["handed_on"], handed_on, rtol=0, atol=1e-4)
