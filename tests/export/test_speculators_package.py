"""The speculators library's own classes read our export."""

from __future__ import annotations

from dataclasses import replace

import pytest
from safetensors.torch import load_file

from tests.builders.exports import CONFIG, EAGLE31, NORMED_RESIDUAL, QK_NORM, VERIFIER, export

FROM_TARGET = {"embed_tokens.weight", "verifier_lm_head.weight", "verifier_norm.weight"}


SHAPES = (
    *(CONFIG, EAGLE31, QK_NORM, NORMED_RESIDUAL),
    replace(EAGLE31, num_hidden_layers=3, aux_layers=(0, 1, 2, 5, 6)),
    replace(QK_NORM, num_hidden_layers=2, aux_layers=(4,)),
    replace(CONFIG, num_hidden_layers=2, sliding_window=16),
)


@pytest.mark.parametrize("config", SHAPES)
def test_the_library_takes_every_key_and_every_tensor(tmp_path, config):
    from speculators.config import SpeculatorModelConfig  # seconds, which no other test waits for
    from speculators.models.eagle3 import Eagle3DraftModel

    export("speculators", tmp_path, config, "float32")
    result = SpeculatorModelConfig.from_pretrained(tmp_path)
    assert result.eagle_aux_hidden_state_layer_ids == [layer + 1 for layer in config.aux_layers]
    assert result.transformer_layer_config.num_hidden_layers == config.num_hidden_layers
    assert (result.norm_before_residual, result.norm_before_fc) == (
        config.norm_before_residual,
        False,
    )
    assert (result.fc_norm, result.norm_output) == (config.fc_norm, config.norm_output)
    assert result.speculators_config.verifier.name_or_path == VERIFIER.name
    assert result.transformer_layer_config.rope_parameters == config.rope
    result.transformer_layer_config._attn_implementation = "eager"
    model = Eagle3DraftModel(result)
    assert model.sliding_window_indices == ([0, 1] if config.sliding_window else [])
    assert config.sliding_window in (None, model.sliding_window)
    missing, unknown = model.load_state_dict(load_file(tmp_path / "model.safetensors"), False)
    assert set(missing) == FROM_TARGET and not unknown
