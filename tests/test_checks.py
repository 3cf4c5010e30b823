"""What a target's own files say is compared with the configuration before any job."""

from __future__ import annotations

import json
import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from eagle3.checks import check_choices, check_shape, check_target, embedded_text_config
from eagle3.config.configuration import Config
from eagle3.config.target import EmbeddedTarget
from eagle3.draft.config import derive_config
from eagle3.errors import UserError
from eagle3.target_model.config import load_config
from eagle3.target_model.embedded import build_model
from eagle3.target_model.layers import aux_layers, layer_count
from tests.builders.models import save_model, save_tokenizer
from tests.rules.workflow import merged

FITTING: dict[str, Any] = {
    "run": "x",
    "tokens": {"max_length": 128},
    "vocab": {"draft_vocab_size": 48},
}
CONFIG = Config.of(FITTING).to_dict()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, folders = tmp_path_factory.mktemp("targets"), {}
    for name, changes in {"plain": {}, "tied": {"tie_word_embeddings": True}}.items():
        folders[name] = save_model(root / name, "llama", shards=True, **changes)
        save_tokenizer(folders[name])
    return folders


def changed(change: dict[str, Any]) -> dict[str, Any]:
    return merged(deepcopy(CONFIG), change)


def test_a_target_that_fits_says_whether_its_head_is_its_embedding(saved: dict[str, Path]) -> None:
    assert check_target(CONFIG, saved["plain"]) is False
    assert check_target(CONFIG, saved["tied"]) is True


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
USP = {"attention_backend": "usp"}
BY_SGLANG = {"backend": "sglang"}
MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "vocabulary": ({"vocab": {"draft_vocab_size": 97}}, "vocab.draft_vocab_size is 97, larger"),
    "length": ({"tokens": {"max_length": 512}}, "tokens.max_length is 512, beyond the target's"),
    "answers": ({"evaluation": {"max_new_tokens": 250}}, "evaluation.max_new_tokens is 250, which"),
    "layers": (
        {"hidden_states": {"aux_layers": [1, 2, 8]}},
        "hidden_states.aux_layers is [1, 2, 8]",
    ),
    "a window and flash": (
        {
            "draft": {"sliding_window": 64},
            "export": {"formats": ["vllm"]},
            "train": {"attention_backend": "flash"},
        },
        "train.attention_backend is flash but draft.sliding_window is 64: its kernels see whole",
    ),
    "a window shorter than a chain": (
        {"draft": {"sliding_window": 4}, "export": {"formats": ["vllm"]}},
        "draft.sliding_window is 4, shorter than a chain of 5 steps (train.ttt_steps, evaluation.",
    ),
    "a single layer": (
        {"hidden_states": {"aux_layers": [2]}, "export": {"formats": ["vllm", "sglang"]}},
        "export.formats is ['vllm', 'sglang'] but hidden_states.aux_layers is [2]: SGLang's draft",
    ),
    "SGLang's last layer": (
        {"hidden_states": {"aux_layers": [1, 2, 7], "backend": "sglang"}},
        "SGLang cannot return the output of the last layer: use layers below 7",
    ),
    "a draft for SGLang that reads the last layer": (
        {"hidden_states": {"aux_layers": [1, 2, 7]}},
        "export.formats is ['sglang'] but hidden_states.aux_layers is [1, 2, 7]: SGLang (0.5.23) "
        "hands on no output of the last layer",
    ),
    "heads of keys": (
        {"resources": {"capture": {"tensor_parallel": 4}}},
        "resources.capture.tensor_parallel is 4, which does not divide the target's "
        "num_key_value_heads (2); use 1 or 2",
    ),
    "heads in SGLang": (
        {"hidden_states": {"backend": "sglang"}, "resources": {"capture": {"tensor_parallel": 3}}},
        "resources.capture.tensor_parallel is 3; SGLang cannot split the target's 4 heads with 2",
    ),
    "heads in vLLM": (
        {"hidden_states": {"backend": "vllm"}, "resources": {"capture": {"tensor_parallel": 3}}},
        "resources.capture.tensor_parallel is 3; vLLM cannot split the target's 4 heads with 2",
    ),
    "heads of the draft": (
        {"train": USP, "resources": {"train": {"sp_ulysses_size": 3}}},
        "resources.train.sp_ulysses_size: 3 ranks cannot divide the draft's 4 heads",
    ),
    "heads for the kernel of attention": (
        {
            "train": {"attention_backend": "flash", "precision": "bfloat16"},
            "draft": {"head_dim": 12},
            "resources": {"device": "cuda"},
        },
        "config: train.attention_backend is flash, whose kernel takes heads of 8, 16, … 256 "
        "numbers, not of 12; use auto",
    ),
    "shape of the draft": (
        {"draft": {"num_attention_heads": 3}},
        "draft.num_attention_heads 3 is not a multiple of num_key_value_heads 2",
    ),
    "context of the draft": (
        {"draft": {"max_position_embeddings": 64}},
        "tokens.max_length is 128, beyond the draft's context of 64 tokens (draft.max_position",
    ),
    "rotary positions of the draft": (
        {"draft": {"rope_scaling": {"rope_type": "linear"}}},
        "draft.rope_scaling of type linear lacks factor",
    ),
    "rotary positions that SGLang does not read": (
        {"draft": {"rope_scaling": YARN | {"attention_factor": 2.0}}},
        "export.formats is ['sglang'] but the draft's rotary positions have attention_factor",
    ),
    "embedding": (
        {"target": {"embedding_key": "wte.weight"}},
        "target.embedding_key is 'wte.weight', which",
    ),
    "norm": (
        {"target": {"final_norm_key": "model.ln_f.weight"}},
        "target.final_norm_key is 'model",
    ),
    "head": ({"target": {"lm_head_key": "output.weight"}}, "target.lm_head_key is 'output.weight'"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_the_target_is_one_sentence(saved: dict[str, Path], name: str) -> None:
    change, sentence = MISFITS[name]
    with pytest.raises(UserError, match=re.escape(sentence)):
        check_target(changed(change), saved["plain"])


def test_rotary_positions_are_looked_at_before_the_target_is_known() -> None:
    with pytest.raises(UserError, match=r"rope_type 'longrope', which no draft here can have"):
        check_choices(changed({"draft": {"rope_scaling": {"rope_type": "longrope"}}}))
    check_choices(changed({"draft": {"rope_scaling": YARN}}))


@pytest.mark.parametrize("backend", ["sglang", "vllm"])
def test_engines_copy_heads_of_keys_where_there_are_fewer_than_ranks(
    saved: dict[str, Path], backend: str
) -> None:
    four = {
        "hidden_states": {"backend": backend},
        "resources": {"capture": {"tensor_parallel": 4}},
    }
    check_target(changed(four), saved["plain"])


def edited(folder: Path, **values: Any) -> None:
    """config.json with other values."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def damage(folder: Path, fault: str) -> None:
    match fault:
        case "a missing file of weights":
            sorted(folder.glob("model-*.safetensors"))[0].unlink()
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
        case "no chat template":
            (folder / "chat_template.jinja").unlink()
        case "an encoder":
            edited(folder, is_encoder_decoder=True)
        case "no context":
            edited(folder, max_position_embeddings=-1)
        case "an unknown rule on logits":
            edited(folder, logit_bias=2.0)


FAULTS = {
    "a missing file of weights": r"lacks model-00001-of-\d+\.safetensors, which model",
    "no tokenizer": r"has no tokenizer \(tokenizer\.json, ",
    "no chat template": r"has no chat template .* use the chat model",
    "an encoder": r"config\.json is of an encoder with a decoder; a target is a decoder alone",
    "no context": r"has max_position_embeddings = -1; must be a whole number from 1",
    "an unknown rule on logits": r"its configuration has logit_bias = 2\.0, a rule on logits",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_target_that_is_not_whole_or_not_supported_is_refused(
    saved: dict[str, Path], tmp_path: Path, fault: str
) -> None:
    folder = shutil.copytree(saved["plain"], tmp_path / "model")
    damage(folder, fault)
    with pytest.raises(UserError, match=FAULTS[fault]):
        check_target(CONFIG, folder)


def test_a_draft_of_another_shape_than_the_targets_is_a_warning(
    saved: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(saved["plain"], tmp_path / "model")
    rope = {"rope_type": "dynamic", "rope_theta": 3e4, "factor": 2.0}
    edited(folder, rope_parameters=rope)
    check_target(CONFIG, folder)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: draft: the target's rotary positions are of type 'dynamic'; ")
    check_target(changed({"draft": {"rope_theta": 3e4}}), folder)
    assert capsys.readouterr().err == ""


def test_a_draft_to_start_from_is_compared_before_any_job(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    def start(**values: Any) -> dict[str, Any]:
        (tmp_path / "config.json").write_text(json.dumps(values))
        return changed({"train": {"warm_start": str(tmp_path)}})

    check_target(start(rope_theta=10000.0), saved["plain"])
    with pytest.raises(UserError, match=r"train\.warm_start: .* set draft\.rope_theta \(50000\)"):
        check_target(start(rope_theta=50000.0), saved["plain"])
    with pytest.raises(UserError, match=r"train\.warm_start: .* has norm_before_residual True"):
        check_target(start(norm_before_residual=True), saved["plain"])
    with pytest.raises(UserError, match=r"set hidden_states\.aux_layers alike"):
        check_target(start(eagle_aux_hidden_state_layer_ids=[1, 2, 3]), saved["plain"])


def test_the_embedded_target_is_checked_by_the_configuration_it_will_have(tmp_path: Path) -> None:
    tiny = {**CONFIG["embedded_target"], "hidden_size": 32, "vocab_size": 300, "num_layers": 7}
    build_model(EmbeddedTarget.model_validate(tiny), 300).config.save_pretrained(tmp_path)
    saved, expected = load_config(tmp_path), embedded_text_config(tiny)
    layers = aux_layers(None, 7)
    drafts = [derive_config(text, {}, 64, layers).to_dict() for text in (saved, expected)]
    for draft in drafts:  # the tokenizer decides on its special tokens
        del draft["bos_token_id"], draft["eos_token_id"]
    assert drafts[0] == drafts[1]
    check_shape(changed({"vocab": {"draft_vocab_size": 64}}), expected)


def test_a_layer_that_texts_pass_by_cannot_be_read(saved: dict[str, Path]) -> None:
    """Llama 3.2 Vision: layers that look at images are left out where there is none."""
    text = load_config(saved["plain"])
    text.cross_attention_layers = [3, 6]
    with pytest.raises(UserError, match=r"aux_layers is \[1, 3, 4\]; layer 3 of the target reads"):
        check_shape(CONFIG, text)
    check_shape(changed({"hidden_states": {"aux_layers": [1, 2, 5]}}), text)


def without(folder: Path, name: str) -> Path:
    """A copy of a single-file target that lacks a tensor."""
    save_model(folder, "llama")
    save_tokenizer(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_target_without_a_final_norm_needs_a_norm_that_starts_at_ones(tmp_path: Path) -> None:
    folder = without(tmp_path / "model", "model.norm.weight")
    with pytest.raises(UserError, match=r"final_norm_key .*set train\.norm_init to ones"):
        check_target(CONFIG, folder)
    check_target(changed({"train": {"norm_init": "ones"}}), folder)


@pytest.mark.parametrize(("kind", "figure"), [("mpt", "max_seq_len"), ("bloom", "seq_length")])
def test_a_context_of_another_name_is_found(tmp_path: Path, kind: str, figure: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": kind, figure: 77}))
    assert load_config(tmp_path).max_position_embeddings == 77


def test_a_model_without_a_context_or_with_several_states_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "bloom"}))
    with pytest.raises(UserError, match="has no max_position_embeddings; add it to the file"):
        load_config(tmp_path)
    file.write_text(json.dumps({"model_type": "bloom", "max_position_embeddings": 99}))
    assert load_config(tmp_path).max_position_embeddings == 99
    file.write_text(json.dumps({"model_type": "gemma3n_text"}))
    with pytest.raises(UserError, match="its layers hand on several states"):
        load_config(tmp_path)


def test_layers_are_counted_once() -> None:
    from types import SimpleNamespace

    assert layer_count(SimpleNamespace(num_hidden_layers=56, num_layers=28)) == 28
    assert layer_count(SimpleNamespace(num_hidden_layers=8)) == 8


@pytest.mark.parametrize("use", [{"export": {"formats": ["sglang"]}}, {"hidden_states": BY_SGLANG}])
def test_layers_that_sglang_counts_otherwise_are_refused(use: dict[str, Any]) -> None:
    """Its class for DeepSeek takes ids for inputs of layers unless the first one is 1."""
    text = embedded_text_config(EmbeddedTarget().model_dump())
    others = {"export": {"formats": ["vllm"]}}
    for layers in ([1, 2, 3], [2, 3, 4], [0, 1, 3]):
        change = merged({"hidden_states": {"aux_layers": layers}}, merged(deepcopy(others), use))
        text.model_type = "llama"
        check_shape(changed(change), text)
        text.model_type = "deepseek_v3"
        check_shape(changed(merged({"hidden_states": {"aux_layers": layers}}, others)), text)
        if layers[0] == 1:
            check_shape(changed(change), text)
            continue
        with pytest.raises(UserError, match="the target a deepseek_v3, of which SGLang"):
            check_shape(changed(change), text)


def test_states_that_sglang_changes_are_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """Its class for Gemma 3 appends a tensor that the next norm writes to."""
    text = embedded_text_config(EmbeddedTarget().model_dump())
    for model_type, formats, warned in (
        ("gemma3_text", ["hf", "sglang"], True),
        ("gemma3_text", ["vllm"], False),
        ("llama", ["sglang"], False),
    ):
        text.model_type = model_type
        check_shape(changed({"export": {"formats": formats}}), text)
        said = capsys.readouterr().err
        assert ("warning: export: SGLang 0.5.23 hands a draft of a gemma3_text" in said) == warned


def test_a_kimi_is_read_as_the_deepseek_that_it_is(tmp_path: Path) -> None:
    """Though its own code lies beside it, which nobody has trusted."""
    raw = {"model_type": "kimi_k2", "hidden_size": 64, "auto_map": {"AutoConfig": "x.Y"}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    text = load_config(tmp_path)
    assert (text.model_type, text.hidden_size) == ("deepseek_v3", 64)
