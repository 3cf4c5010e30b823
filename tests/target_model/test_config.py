"""config.json read as JSON against what transformers makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from eagle3.draft.config import derive_config
from eagle3.errors import UserError
from eagle3.target_model.config import PLAIN_TYPES, architectures, from_json, load_config
from eagle3.target_model.cost import target_flops_per_token
from eagle3.target_model.logits import logit_rules

PUBLISHED = json.loads((Path(__file__).parent / "published/configs.json").read_text())
FIGURES = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps"),
    *("bos_token_id", "eos_token_id", "tie_word_embeddings"),
)
EXPERTS = ("moe_intermediate_size", "num_experts_per_tok")


def folder_with(folder: Path, values: dict) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def draft_of(config):
    """The draft that is derived, or what is said of one that cannot be."""
    try:
        return derive_config(config, {}, 64, (1, 4, 6))
    except UserError as fault:
        return str(fault)


def assert_same(found, expected, file):
    for name in FIGURES + (EXPERTS if "moe" in file["model_type"] else ()):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.rope_parameters == expected.rope_parameters
    heads = expected.hidden_size // expected.num_attention_heads
    assert found.head_dim == (getattr(expected, "head_dim", None) or heads)
    assert str(found.dtype) == str(expected.dtype).removeprefix("torch.")
    assert hasattr(found, "moe_intermediate_size") == hasattr(expected, "moe_intermediate_size")
    # what the pipeline makes of it
    assert draft_of(found) == draft_of(expected)
    assert target_flops_per_token(found) == target_flops_per_token(expected)
    assert logit_rules(found) == logit_rules(expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_says_what_transformers_says(tmp_path, name):
    file = PUBLISHED[name]
    folder = folder_with(tmp_path, file)
    result = load_config(folder)
    assert from_json(file) == result  # transformers was not asked
    assert_same(result, AutoConfig.from_pretrained(folder), file)
    assert architectures(folder) == tuple(AutoConfig.from_pretrained(folder).architectures)


@pytest.mark.parametrize("name", PUBLISHED)
def test_so_does_the_same_file_saved_by_transformers_5(tmp_path, name):
    AutoConfig.for_model(**PUBLISHED[name]).save_pretrained(tmp_path)
    file = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in file
    assert_same(from_json(file), AutoConfig.from_pretrained(tmp_path), file)


def test_every_model_type_is_compared():
    """Mistral's, whose file is spelled like Llama's, by the test below."""
    assert {file["model_type"] for file in PUBLISHED.values()} == PLAIN_TYPES.keys() - {"mistral"}


@given(
    kind=st.sampled_from(sorted(PLAIN_TYPES)),
    dropped=st.sets(st.sampled_from(sorted(PUBLISHED["Llama-3.1-8B"])), max_size=2),
    changed=st.dictionaries(
        st.sampled_from(
            ("rope_scaling", "rope_theta", "head_dim", "partial_rotary_factor", "eos_token_id")
        ),
        st.sampled_from(
            (
                None,
                1,
                64,
                1.5,
                [1, 2],
                "x",
                {"rope_type": "linear", "factor": 2.0},
                {"type": "yarn"},
            )
        ),
        max_size=2,
    ),
)
def test_a_file_that_leaves_something_out_is_never_read_otherwise(
    tmp_path_factory, kind, dropped, changed
):
    """Whatever is missing or strange: the JSON is declined, or says what transformers says."""
    base = PUBLISHED["Qwen3-30B-A3B" if "moe" in kind else "Llama-3.1-8B"]
    file = {k: v for k, v in {**base, "model_type": kind, **changed}.items() if k not in dropped}
    result = from_json(file)
    if result is not None:
        folder = folder_with(tmp_path_factory.mktemp("config"), file)
        try:
            expected = AutoConfig.from_pretrained(folder)
        except Exception:
            return  # of a model that no engine loads: said when its weights are
        assert_same(result, expected, file)


def test_other_model_types_and_wrappers_are_asked_of_transformers():
    assert from_json({**PUBLISHED["Llama-3.1-8B"], "model_type": "gpt_oss"}) is None
    assert from_json({"model_type": "gemma3", "text_config": PUBLISHED["Qwen3-32B"]}) is None
    assert from_json({**PUBLISHED["Qwen3-32B"], "auto_map": {"AutoConfig": "x.Y"}}) is None


@pytest.mark.parametrize("value", [2**24 + 1, 0, "many", None, True, 1.5])
def test_a_figure_that_no_model_has_is_refused_by_name(tmp_path, value):
    file = {**PUBLISHED["Qwen3-32B"], "vocab_size": value}
    with pytest.raises(UserError, match=r"vocab_size|cannot read the configuration"):
        load_config(folder_with(tmp_path, file))
