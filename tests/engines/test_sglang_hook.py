"""The hook inside SGLang, given batches as SGLang makes them and as it must not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from eagle3.engines.separate.intake import Intake
from eagle3.engines.separate.request import read_fault, read_seen
from eagle3.engines.sglang.engine import SGLANG
from eagle3.engines.sglang.hook import CaptureHook, make_hook
from eagle3.errors import UserError
from tests.builders.engine import engine_request

DOCUMENTS = {3: np.array([5, 6, 7], dtype=np.int32), 8: np.array([9, 4], dtype=np.int32)}
LAYERS = 3


def load_fake():
    """The stand-in, by its file: no test may find it under SGLang's own name."""
    path = Path(__file__).parent / "fake_sglang/sglang/__init__.py"
    spec = importlib.util.spec_from_file_location("fake_sglang", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAKE = load_fake()


class Kept:
    """A consumer that keeps what it is given."""

    def __init__(self):
        self.calls = []

    def add(self, documents, aux, last):
        self.calls.append((documents, aux, last))


@pytest.fixture
def hook(tmp_path):
    return CaptureHook(Intake(tmp_path, SGLANG, DOCUMENTS, Kept(), LAYERS))


def send(hook, names, ids, lengths, prefixes=None, extend=True, change=None):
    """Call the hook for a batch; `change` edits the result first."""
    tokens = torch.tensor(ids)
    result = FAKE.result_of(tokens, LAYERS)
    if change:
        change(result)
    batch = FAKE.batch_of(names, lengths, prefixes, extend)
    return hook(None, (tokens, None, None, batch), result)


def test_rows_arrive_one_document_after_another(hook):
    assert send(hook, ["document-8", "document-3"], [9, 4, 5, 6, 7], [2, 3]) is None
    ((documents, aux, last),) = hook.intake.consumer.calls
    assert documents == [8, 3]
    assert last[:, 0].tolist() == [9, 4, 5, 6, 7] and aux.shape == (5, 12)
    assert read_seen(hook.intake.folder) == {3, 8} and read_fault(hook.intake.folder) is None


def test_rows_of_others_are_left_out(hook):
    send(hook, ["document-8", "warm-up", "document-3"], [9, 4, 0, 0, 5, 6, 7], [2, 2, 3])
    ((documents, aux, last),) = hook.intake.consumer.calls
    assert documents == [8, 3]
    assert last[:, 0].tolist() == aux[:, 0].tolist() == [9, 4, 5, 6, 7]


def test_warm_up_and_decoding_are_ignored(hook):
    send(hook, ["HEALTH_CHECK"], [0], [1])
    send(hook, [], [0], [])
    send(hook, ["document-8"], [9], [1], extend=False)
    assert not hook.intake.consumer.calls and not read_seen(hook.intake.folder)


def without_aux(result):
    result.hidden_states = None


def without_last(result):
    result.last_hidden_states = None


def with_a_row_less(result):
    result.hidden_states = result.hidden_states[1:]


def with_a_layer_less(result):
    result.hidden_states = result.hidden_states[:, FAKE.HIDDEN :]


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ({"names": ["document-8"], "ids": [9, 5], "lengths": [2]}, "document 8 has other tokens"),
        ({"names": ["document-8"], "ids": [9], "lengths": [1]}, "document 8 has 1 rows for its 2"),
        (
            {"names": ["document-8"], "ids": [4], "lengths": [1], "prefixes": [1]},
            "document 8 starts at its token 1",
        ),
        ({"names": ["document-5"], "ids": [4], "lengths": [1]}, "document 5 was never sent"),
        (
            {"names": ["document-8"] * 2, "ids": [9, 4, 9, 4], "lengths": [2, 2]},
            "document 8 came twice",
        ),
        (
            {"names": ["document-8"], "ids": [9, 4], "lengths": [2], "change": without_aux},
            "returned no hidden states",
        ),
        (
            {"names": ["document-8"], "ids": [9, 4], "lengths": [2], "change": without_last},
            "returned no hidden states",
        ),
        (
            {"names": ["document-8"], "ids": [9, 4], "lengths": [2], "change": with_a_row_less},
            r"states \[1, 12\] and \[2, 4\] for a batch of 2 tokens and 3 layers",
        ),
        (
            {"names": ["document-8"], "ids": [9, 4], "lengths": [2], "change": with_a_layer_less},
            r"states \[2, 8\] and \[2, 4\]",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_a_fault(hook, batch, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        send(hook, **batch)
    assert read_fault(hook.intake.folder) == str(raised.value)
    assert not hook.intake.consumer.calls and not read_seen(hook.intake.folder)


def test_a_document_that_comes_again_later_is_a_fault(hook):
    send(hook, ["document-8"], [9, 4], [2])
    with pytest.raises(UserError, match="document 8 came twice"):
        send(hook, ["document-8"], [9, 4], [2])
    assert len(hook.intake.consumer.calls) == 1


def test_a_model_that_hides_its_batch_is_a_fault(hook):
    with pytest.raises(UserError, match=r"passes no batch .* hidden_states\.backend hf"):
        hook(None, (torch.tensor([9, 4]),), None)


def test_only_the_first_fault_is_kept(hook):
    for batch in (["document-5"], ["document-8"]):
        with pytest.raises(UserError):
            send(hook, batch, [0], [1])
    assert "document 5" in read_fault(hook.intake.folder)


def test_the_first_rank_alone_makes_a_consumer(tmp_path, monkeypatch):
    engine_request("model", "absent:Files", {}).write(tmp_path)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert make_hook({"folder": str(tmp_path)}) is None
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    with pytest.raises(ModuleNotFoundError):
        make_hook({"folder": str(tmp_path)})
    assert "ModuleNotFoundError" in read_fault(tmp_path)
