"""What vLLM makes of a draft that is not what its config.json says: nearly everything loads without
a word and only lowers the acceptance, which is seen; our own reader refuses all of it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from eagle3.export.layer_config import AUX_IDS
from tests.builders.served import served
from tests.vllm.speculation import (
    accepted_per_pass,
    agree,
    answered,
    damaged,
    other_residual,
    speculating,
)

STEPS = 3


def other_layers(config):
    config[AUX_IDS] = [number - 1 for number in config[AUX_IDS]]


def as_sglang_has_them(config):
    config["eagle_config"] = {AUX_IDS: [number - 1 for number in config.pop(AUX_IDS)]}


def without_residual(config):
    del config["norm_before_residual"]


def other_theta(config):
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    config["rope_theta"] = 500000.0


def short_context(config):
    config["max_position_embeddings"] = 16


def swapped_chunks(tensors):
    first, *others = tensors["fc.weight"].chunk(3, 1)
    tensors["fc.weight"] = torch.cat([*reversed(others), first], 1)


def without_fc(tensors):
    del tensors["fc.weight"]


def without_mapping(tensors):
    del tensors["d2t"]


def absolute_ids(tensors):
    tensors["d2t"] += torch.arange(len(tensors["d2t"]))


def other_name(tensors):
    tensors["midlayer.hidden_layernorm.weight"] = tensors.pop("midlayer.hidden_norm.weight")


# the format, and what is changed in its config.json or its tensors
LOWER = {
    "other layers": ("vllm", other_layers),
    "layers as SGLang has them": ("vllm", as_sglang_has_them),
    "another residual": ("vllm", other_residual),
    "no word on the residual": ("speculators", without_residual),
    "another theta": ("vllm", other_theta),
    "a short context": ("vllm", short_context),
    "swapped chunks of fc": ("vllm", swapped_chunks),
    "no fc": ("vllm", without_fc),
    "no mapping": ("vllm", without_mapping),
}
FAILS = {
    "absolute d2t": ("vllm", absolute_ids, "IndexError"),
    "a misnamed norm": ("vllm", other_name, "ValueError"),
}
OF_TENSORS = (swapped_chunks, without_fc, without_mapping, absolute_ids, other_name)


@pytest.fixture(scope="module")
def made(targets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return served(folder, targets["llama"], ("vllm", "speculators"))


@pytest.fixture(scope="module")
def drafts(made, tmp_path_factory):
    """The damaged drafts by name."""
    folder = tmp_path_factory.mktemp("damaged")
    faults = {name: fault[:2] for name, fault in (LOWER | FAILS).items()}
    return {
        name: damaged(folder / str(number), made.exports[form], change, change in OF_TENSORS)
        for number, (name, (form, change)) in enumerate(faults.items())
    }


@pytest.fixture(scope="module")
def answers(made, drafts, engine_python, tmp_path_factory):
    """What vLLM answers with the right draft and with each damaged one."""
    engines = {
        name: speculating(made.target, draft, STEPS)
        for name, draft in {"right": made.exports["vllm"], **drafts}.items()
    }
    return answered(engine_python, tmp_path_factory.mktemp("answers"), engines)


@pytest.mark.parametrize("name", LOWER)
def test_it_loads_without_a_word_and_is_seen_in_the_acceptance(made, answers, name):
    agree(answers["right"], made, STEPS)
    right, wrong = accepted_per_pass(answers["right"]), accepted_per_pass(answers[name])
    print(f"{name}: {wrong:.4f} instead of {right:.4f}")
    assert [one["tokens"] for one in answers[name]] == made.answers  # the answers stay right
    assert wrong < right - 0.05


@pytest.mark.parametrize("name", FAILS)
def test_it_does_not_load(answers, name):
    assert answers[name]["fault"] == FAILS[name][2], answers[name]


def test_the_damage_is_what_its_name_says(made, drafts):
    """Each draft differs from the right one in one thing, which is still there after the copy."""
    for name, draft in drafts.items():
        form = (LOWER | FAILS)[name][0]
        own = json.loads((made.exports[form] / "config.json").read_text())
        other = json.loads((draft / "config.json").read_text())
        tensors = [load_file(p / "model.safetensors") for p in (made.exports[form], draft)]
        same = tensors[0].keys() == tensors[1].keys() and all(
            torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items()
        )
        assert (own == other) != same, name
