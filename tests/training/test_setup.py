"""What a stage starts with: head, norm and switches as the configuration says."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from eagle3.training.setup import build_draft
from tests.builders.exports import write
from tests.builders.shards import TRAIN, changed, train_draft, training_set

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(targets, tmp_path_factory):
    return training_set(tmp_path_factory.mktemp("set"), targets["llama"])


def built(made, existing=None, draft=None, **train):
    values = deepcopy(made.settings.values)
    values["train"] = changed(TRAIN, **train).model_dump()
    values["draft"] = draft or {}
    return build_draft(made.target, values, made.mapping, CPU, existing)


@pytest.mark.parametrize("start", ["target", "random", "frozen"])
def test_the_head_starts_as_the_targets_or_drawn_and_learns_unless_frozen(made, start):
    draft, parts = built(made, head_init=start)
    assert torch.equal(draft.lm_head.weight, parts.head.weight) == (start != "random")
    assert draft.lm_head.weight.requires_grad == (start != "frozen")
    assert draft.norm.weight.requires_grad


@pytest.mark.parametrize("start", ["target", "ones", "frozen"])
def test_the_norm_starts_as_the_targets_or_at_one_and_learns_unless_frozen(made, start):
    draft, _ = built(made, norm_init=start)
    assert bool((draft.norm.weight == 1).all()) == (start == "ones")
    assert draft.norm.weight.requires_grad == (start != "frozen")
    assert draft.lm_head.weight.requires_grad


def test_switches_of_the_draft_reach_it_and_are_off_unless_named(made):
    plain, _ = built(made)
    every, _ = built(made, draft={"qk_norm": True, "fc_norm": True, "norm_output": True})
    more = {n for n, _ in every.named_parameters()} - {n for n, _ in plain.named_parameters()}
    heads = {f"midlayer.self_attn.{n}_norm.weight" for n in "qk"}
    assert more == heads | {f"fc_norm.{i}.weight" for i in range(3)}
    assert every.config.norm_output and not plain.config.norm_output
    for name, weight in plain.named_parameters():  # so that recipes can be compared seed by seed
        assert torch.equal(every.get_parameter(name), weight), name


@pytest.mark.parametrize("head", ["target", "frozen"])
def test_a_stage_starts_from_an_exported_draft(made, tmp_path, head):
    trained, parts = train_draft(made, tmp_path)
    weights = {name: p.detach() for name, p in trained.named_parameters()}
    folder = tmp_path / "draft"
    write("sglang", folder, weights, made.mapping, trained.config, "float32")
    draft, _ = built(made, folder, head_init=head, seed=5)
    for name, weight in draft.named_parameters():
        kept = head == "frozen" and name == "lm_head.weight"
        assert torch.equal(weight, parts.head.weight if kept else weights[name]), name
