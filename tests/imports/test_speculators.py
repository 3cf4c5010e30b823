"""Files of speculators: our reader against its own, its float8 form included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from eagle3.data.faults import BadRow
from eagle3.errors import UserError
from eagle3.imports.document import Expected
from eagle3.imports.listing import list_files
from eagle3.imports.speculators import SpeculatorsFiles
from tests.builders.models import HIDDEN, VOCAB
from tests.builders.peers import Captured, write_speculators


@pytest.fixture
def folder(tmp_path: Path, documents: Callable[..., list[Captured]]) -> Path:
    write_speculators(tmp_path / "data", documents(4))
    return tmp_path / "data"


def opened(folder: Path) -> SpeculatorsFiles:
    listing = list_files("speculators", folder)
    names = dict(zip(listing.numbers.tolist(), listing.names, strict=True))
    return SpeculatorsFiles(listing.folder, names, folder)


def test_a_document_is_what_its_own_dataset_class_gives(folder: Path) -> None:
    from speculators.train.data import ArrowDataset

    theirs, ours = ArrowDataset(2048, folder, on_missing="raise"), opened(folder)
    assert len(theirs) == 4
    for number in range(4):
        item, document = theirs[number], ours.read(number)
        Expected(VOCAB, HIDDEN, 3).check(document)
        assert item["input_ids"].tolist() == document.input_ids.tolist()
        assert item["loss_mask"].tolist() == document.loss_mask.tolist()
        assert torch.equal(item["hidden_states"], document.aux)
        assert torch.equal(item["verifier_last_hidden_states"], document.last)


def test_float8_states_are_what_its_own_transfer_gives(folder: Path) -> None:
    from hs_connectors.fp8_utils import SCALES_KEY, quantize_tensor_to_fp8
    from hs_connectors.transfer import FP8Transfer

    path = folder / "hidden_states" / "hs_2.safetensors"
    tensors = load_file(path)
    states, scales = quantize_tensor_to_fp8(tensors["hidden_states"])
    save_file({**tensors, "hidden_states": states, SCALES_KEY: scales}, path)
    theirs = FP8Transfer(path.parent).get_cached(2)["hidden_states"]
    document = opened(folder).read(2)
    assert torch.equal(document.last, theirs[:, -1])
    assert torch.equal(document.aux, theirs[:, :-1].flatten(1))


def test_damaged_files_are_those_that_its_own_check_finds(folder: Path) -> None:
    from speculators.data_generation.offline import find_corrupt_hidden_state_indices

    states = folder / "hidden_states"
    whole = (states / "hs_1.safetensors").read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        (states / "hs_1.safetensors").write_bytes(whole[:size])
        assert set(find_corrupt_hidden_state_indices(states, [0, 1, 2, 3])) == {1}
        with pytest.raises(BadRow, match="cannot be read whole"):
            opened(folder).read(1)
    assert len(opened(folder).read(0).input_ids)


def test_tokens_of_another_row_and_rows_that_are_missing_are_bad_rows(folder: Path) -> None:
    states = folder / "hidden_states"
    (states / "hs_0.safetensors").rename(states / "hs_9.safetensors")
    (states / "hs_2.safetensors").replace(states / "hs_3.safetensors")
    files = opened(folder)
    with pytest.raises(BadRow, match="without a row in the dataset"):
        files.read(9)
    with pytest.raises(BadRow, match="tokens other than those of its row"):
        files.read(3)
    save_file({"token_ids": torch.zeros(3)}, states / "hs_1.safetensors")
    with pytest.raises(BadRow, match="without states of layers"):
        opened(folder).read(1)


def test_a_dataset_without_masks_is_one_sentence(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([{"input_ids": [1]}]).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(UserError, match="has no input_ids and loss_mask"):
        SpeculatorsFiles(tmp_path, {}, tmp_path / "data")
    with pytest.raises(UserError, match=r"hidden_states\.source\.dataset: cannot read"):
        SpeculatorsFiles(tmp_path, {}, tmp_path)


def test_masks_of_booleans_are_read_too(
    tmp_path: Path, documents: Callable[..., list[Captured]]
) -> None:
    import datasets

    (document,) = documents(1)
    write_speculators(tmp_path / "data", [document])
    row = {"input_ids": document.ids.tolist(), "loss_mask": document.mask.astype(bool).tolist()}
    other = datasets.Dataset.from_list([row])
    other.save_to_disk(str(tmp_path / "other"))
    files = SpeculatorsFiles(
        tmp_path / "data/hidden_states", {0: "hs_0.safetensors"}, tmp_path / "other"
    )
    assert np.array_equal(files.read(0).loss_mask, document.mask)
