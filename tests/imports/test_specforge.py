"""SpecForge's files: read as they are, nothing in them run, damage counted."""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from eagle3.data.faults import BadRow
from eagle3.errors import UserError
from eagle3.imports.document import Expected
from eagle3.imports.specforge import SpecForgeFiles
from tests.builders.models import HIDDEN, VOCAB
from tests.builders.peers import Captured, write_specforge

EXPECTED = Expected(VOCAB, HIDDEN, 3)


def opened(path: Path) -> SpecForgeFiles:
    return SpecForgeFiles(path.parent, {0: path.name})


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_gives_what_was_written(
    tmp_path: Path, documents: Callable[..., list[Captured]], compress: bool
) -> None:
    (document,) = documents(1, padded=True, first=2)
    read = opened(write_specforge(tmp_path, document, compress)).read(0)
    EXPECTED.check(read)
    assert np.array_equal(read.input_ids, document.ids)
    assert np.array_equal(read.loss_mask, document.mask)
    assert torch.equal(read.aux, document.aux) and torch.equal(read.last, document.last)
    assert read.input_ids[-10:].tolist() == [0] * 10  # padding comes along; masks cut it off


class Payload:
    """What runs a command when it is loaded by anything but `weights_only`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("compress", [False, True])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, compress: bool) -> None:
    marker, path = tmp_path / "was-run", tmp_path / "data_0.ckpt"
    torch.save({"input_ids": torch.zeros(1), "loss_mask": Payload(marker)}, path)
    if compress:
        packed = tmp_path / "data_0.ckpt.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    with pytest.raises(UserError, match=r"asks to run posix\.mkdir, .* nothing of it was run"):
        opened(path).read(0)
    assert not marker.exists()
    # the payload is a real one
    plain = pickle.loads(pickle.dumps(Payload(marker)))
    assert plain is None and marker.is_dir()


def test_damaged_files_are_bad_rows_with_a_cause(
    tmp_path: Path, documents: Callable[..., list[Captured]]
) -> None:
    (document,) = documents(1)
    for compress in (False, True):
        path = write_specforge(tmp_path, document, compress)
        whole = path.read_bytes()
        for size in (0, 1, 20, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(BadRow, match="cannot be read whole"):
                opened(path).read(0)
        path.write_bytes(pickle.dumps([1, 2]))
        with pytest.raises(BadRow, match="cannot be read whole"):
            opened(path).read(0)
        path.unlink()
        with pytest.raises(BadRow, match="cannot be read whole"):
            opened(path).read(0)


def test_files_of_another_strategy_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data_0.ckpt"
    for content in ({"input_ids": torch.zeros(2), "hidden_states": torch.zeros(2)}, torch.zeros(2)):
        torch.save(content, path)
        with pytest.raises(BadRow, match="another strategy than eagle3") as fault:
            opened(path).read(0)
        assert "input_ids" in fault.value.detail or fault.value.detail == "it has Tensor"


CHANGES = {
    "aux states of another shape": {"aux": torch.zeros(5, 2 * HIDDEN)},
    "last states of another shape": {"last": torch.zeros(5, HIDDEN + 1)},
    "mask of another length": {"loss_mask": np.zeros(4, np.int64)},
    "mask with other values": {"loss_mask": np.full(5, 2)},
    "outside the target's vocabulary": {"input_ids": np.full(5, VOCAB)},
    "states that are not finite": {"last": torch.full((5, HIDDEN), torch.inf)},
}


@pytest.mark.parametrize("cause", CHANGES)
def test_what_does_not_fit_the_target_is_a_bad_row(cause: str) -> None:
    from eagle3.imports.document import PeerDocument

    fitting = {
        "input_ids": np.arange(5),
        "loss_mask": np.array([0, 0, 1, 1, 1]),
        "aux": torch.zeros(5, 3 * HIDDEN),
        "last": torch.zeros(5, HIDDEN),
    }
    EXPECTED.check(PeerDocument(**fitting))
    with pytest.raises(BadRow, match=cause):
        EXPECTED.check(PeerDocument(**fitting | CHANGES[cause]))
