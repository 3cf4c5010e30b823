"""The check before anything is converted: what it lets through, and what it says of the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eagle3.data.faults import BadRow
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.imports.document import Expected, PeerDocument
from eagle3.imports.masks import Answers
from eagle3.imports.source_check import Norm, Sample, check_masks, check_states
from eagle3.target_model.final_norm import load_final_norm
from tests.builders.models import HIDDEN, VOCAB, save_model
from tests.builders.peers import Captured, captured
from tests.builders.shards import open_target
from tests.imports.conftest import ASSISTANT, END, LAYERS, chat

EXPECTED = Expected(VOCAB, HIDDEN, 3)


class Files:
    """Documents in memory; None is a damaged one."""

    def __init__(self, documents: list[Captured | None], normed: bool) -> None:
        self.documents, self.normed = documents, normed

    def read(self, number: int) -> PeerDocument:
        found = self.documents[number]
        if found is None:
            raise BadRow("file that cannot be read whole")
        last = found.last if self.normed else found.before
        return PeerDocument(found.ids, found.mask, found.aux, last)


def sample(documents: list[Captured | None], normed: bool = True) -> Sample:
    return Sample.of(Files(documents, normed), np.arange(len(documents)), EXPECTED)


@pytest.fixture(scope="module")
def norm(target: Path) -> Norm:
    return load_final_norm(target, "model.norm.weight", torch.float32)


@pytest.mark.parametrize("normed", [True, False])
def test_the_targets_own_states_pass_in_either_convention(
    documents: Callable[..., list[Captured]], engine: HFTarget, norm: Norm, normed: bool
) -> None:
    chosen = sample(documents(20, padded=True), normed)
    assert len(chosen.documents) == 16
    errors = check_states(chosen, engine, LAYERS, norm, normed)
    assert list(errors) == ["layer 1", "layer 3", "layer 4", "last"]
    assert max(errors.values()) < 1e-5


def test_states_in_half_precision_pass(
    documents: Callable[..., list[Captured]], engine: HFTarget, norm: Norm
) -> None:
    rounded = [
        replace(d, aux=d.aux.bfloat16(), last=d.last.bfloat16(), before=d.before.bfloat16())
        for d in documents(4)
    ]
    for normed in (True, False):
        errors = check_states(sample(rounded, normed), engine, LAYERS, norm, normed)
        assert 0 < max(errors.values()) < 0.01


def test_documents_without_a_supervised_token_are_not_run(
    documents: Callable[..., list[Captured]], engine: HFTarget, norm: Norm
) -> None:
    """As a chat has whose question alone is longer than the other project kept of it."""
    first, *others = documents(4)
    silent = replace(first, mask=np.zeros_like(first.mask))
    errors = check_states(sample([silent, *others]), engine, LAYERS, norm, True)
    assert errors == check_states(sample(others), engine, LAYERS, norm, True)
    with pytest.raises(UserError, match="no token of 1 documents is supervised"):
        check_states(sample([silent]), engine, LAYERS, norm, True)


def test_damaged_documents_are_passed_over_unless_all_are(
    documents: Callable[..., list[Captured]],
) -> None:
    found = sample([*documents(3), None])
    assert list(found.documents) == [0, 1, 2] and list(found.bad) == [3]
    with pytest.raises(UserError, match=r"none of 2 documents .* number 0: file that cannot be"):
        sample([None, None])


@pytest.mark.parametrize("normed", [True, False])
def test_the_other_norm_convention_is_named(
    documents: Callable[..., list[Captured]], engine: HFTarget, norm: Norm, normed: bool
) -> None:
    turned = [replace(d, last=d.before, before=d.last) for d in documents(2)]
    other = ("after", "before") if normed else ("before", "after")
    with pytest.raises(
        UserError, match=f"should be the one {other[0]} the final norm, but is the one {other[1]}"
    ):
        check_states(sample(turned, normed), engine, LAYERS, norm, normed)


def test_a_gain_of_one_hides_no_missing_norm(tmp_path: Path) -> None:
    """Rows before and after such a norm have the same direction."""
    folder = save_model(tmp_path / "plain", "llama")
    engine, _ = open_target(folder)
    with torch.no_grad():
        engine.body.norm.weight.fill_(1.0)
    norm = engine.body.norm.requires_grad_(False)
    made = [captured(engine, n, *chat(n)) for n in range(2)]
    cosine = torch.nn.functional.cosine_similarity(made[0].before, made[0].last)
    assert float(cosine.min()) > 0.9999
    with pytest.raises(UserError, match="should be the one after the final norm, but is the one b"):
        turned = [replace(d, last=d.before) for d in made]
        check_states(sample(turned), engine, LAYERS, norm, True)


def test_other_layers_are_named(
    documents: Callable[..., list[Captured]], target: Path, engine: HFTarget, norm: Norm
) -> None:
    elsewhere, _ = open_target(target, layers=[2, 3, 4])
    made = [captured(elsewhere, n, *chat(n)) for n in range(3)]
    with pytest.raises(
        UserError, match="output of layer 1 is the output of layer 2: name the layers"
    ):
        check_states(sample(made), engine, LAYERS, norm, True)
    inputs = [replace(d, aux=torch.cat([d.aux[:, 32:], d.aux[:, :32]], 1)) for d in documents(2)]
    with pytest.raises(UserError, match="output of layer 1 is the output of layer 3"):
        check_states(sample(inputs), engine, LAYERS, norm, True)


def test_states_of_another_model_are_refused(engine: HFTarget, norm: Norm, tmp_path: Path) -> None:
    other, _ = open_target(save_model(tmp_path / "other", "llama", initializer_range=0.2))
    made = [captured(other, n, *chat(n)) for n in range(3)]
    with pytest.raises(UserError, match="the states are of another model, or of other weights"):
        check_states(sample(made), engine, LAYERS, norm, True)


def test_states_of_another_size_are_refused(tmp_path: Path) -> None:
    wide = save_model(tmp_path / "wide", "llama", hidden_size=64)
    engine, _ = open_target(wide)
    made = [captured(engine, n, *chat(n)) for n in range(2)]
    with pytest.raises(UserError, match=r"aux states of another shape \(they are \d+ x 192, expec"):
        sample(made)


def test_masks_of_another_template_are_refused(documents: Callable[..., list[Captured]]) -> None:
    answers = Answers((ASSISTANT,), frozenset({END}))
    assert check_masks(sample(documents(3)), answers).alike
    shifted = [replace(d, mask=np.roll(d.mask, -4)) for d in documents(3)]
    with pytest.raises(UserError, match=r"only 0 of 6 answers begin behind .* of another template"):
        check_masks(sample(shifted), answers)
    open_ended = [replace(d, mask=d.mask * (d.ids != END)) for d in documents(3)]
    with pytest.raises(UserError, match="only 0 of 3 answers before another turn end with a stop"):
        check_masks(sample(open_ended), answers)
    nothing = [replace(d, mask=d.mask * 0) for d in documents(3)]
    with pytest.raises(UserError, match="no token of 3 documents is supervised"):
        check_masks(sample(nothing), answers)
