"""Which files a folder of another project has, in which order, and what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eagle3.errors import UserError
from eagle3.imports.job import check_complete
from eagle3.imports.listing import dataset_digest, dataset_folder, list_files
from eagle3.imports.split import check_counts, ordered


def place(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return folder


def test_numbers_give_the_order_and_not_names(tmp_path: Path) -> None:
    first, second = "rows_0-2000", "rows_2000-4000"
    names = (f"{first}/data_10.ckpt", f"{first}/data_2.ckpt.gz", f"{second}/data_2000.ckpt")
    others = ("vocab_mapping.pt", f"{first}/data_3.tmp")
    found = list_files("specforge", place(tmp_path, *names, *others))
    assert found.numbers.tolist() == [2, 10, 2000]
    assert found.names == [names[1], names[0], names[2]]
    assert len(found) == 3 and found.expected == 2001


def test_folders_that_specforge_made_ahead_count_as_expected(tmp_path: Path) -> None:
    place(tmp_path, "rows_0-2000/data_0.ckpt", "rows_0-2000/data_1.ckpt")
    (tmp_path / "rows_4000-6000").mkdir()
    assert list_files("specforge", tmp_path).expected == 4001


def test_of_a_compressed_twin_the_plain_file_is_taken(tmp_path: Path) -> None:
    place(tmp_path, "rows_0-2/data_1.ckpt.gz", "rows_0-2/data_1.ckpt", "rows_0-2/data_0.ckpt.gz")
    assert list_files("specforge", tmp_path).names == [
        "rows_0-2/data_0.ckpt.gz",
        "rows_0-2/data_1.ckpt",
    ]
    place(tmp_path, "rows_0-4/data_1.ckpt")
    with pytest.raises(UserError, match=r"document 1 is in rows_0-. *.* keep one"):
        list_files("specforge", tmp_path)


def test_the_digest_is_of_names_and_sizes(tmp_path: Path) -> None:
    folder = place(tmp_path / "a", "hs_0.safetensors", "hs_12.safetensors")
    other = place(tmp_path / "b", "hs_0.safetensors", "hs_12.safetensors", "hs_12.safetensors.lock")
    digest = list_files("speculators", folder).digest
    assert list_files("speculators", other).digest == digest
    (other / "hs_0.safetensors").write_bytes(b"longer than before")
    assert list_files("speculators", other).digest != digest


def test_the_states_and_the_dataset_of_speculators_find_each_other(tmp_path: Path) -> None:
    states = place(tmp_path / "data" / "hidden_states", "hs_0.safetensors")
    with pytest.raises(UserError, match=r"hidden_states\.source\.dataset: .* so name its folder"):
        dataset_folder(states, None)
    place(tmp_path / "data", "dataset_info.json", "state.json", "data-00000-of-00001.arrow")
    for path in (states, tmp_path / "data"):
        assert list_files("speculators", path).folder == states
        assert dataset_folder(path, None) == tmp_path / "data"
    before = dataset_digest(tmp_path / "data")
    (tmp_path / "data" / "state.json").write_text("another fingerprint")
    assert dataset_digest(tmp_path / "data") != before


@pytest.mark.parametrize("kind", ["specforge", "speculators"])
def test_a_folder_without_files_is_one_sentence(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"hidden_states\.source\.path is .*, which holds no"):
        list_files(kind, place(tmp_path, "readme.txt"))


def test_half_a_folder_is_refused_unless_the_configuration_allows_it(tmp_path: Path) -> None:
    names = (f"rows_0-2000/data_{number}.ckpt" for number in range(0, 20, 2))
    found = list_files("specforge", place(tmp_path, *names))
    with pytest.raises(UserError, match=r"has files of 10 of 19 documents, .* above 0\.47"):
        check_complete("specforge", found, None, 0.05)
    assert check_complete("specforge", found, None, 0.5) == 9
    with pytest.raises(UserError, match="has files of 10 of 400 documents, so speculators"):
        check_complete("speculators", found, 400, 0.05)


def test_the_order_and_the_split_are_those_of_rows_with_these_ids() -> None:
    """The slow twin: one hash after another, as the dataset job makes them."""
    import hashlib

    numbers = np.array([0, 3, 7, 11, 20, 21, 22])
    order, held_out = ordered(numbers, seed=5, eval_fraction=0.4)
    hashes = {n: hashlib.sha256(f"5\n{n}".encode()).digest() for n in numbers.tolist()}
    expected = sorted(hashes, key=hashes.__getitem__)
    assert numbers[order].tolist() == expected
    share = [int.from_bytes(hashes[n][24:], "big") / 2**64 < 0.4 for n in expected]
    assert held_out.tolist() == share
    check_counts(held_out, len(numbers) - sum(share))
    with pytest.raises(UserError, match=r"dataset\.num_samples is 7 but the source has only"):
        check_counts(held_out, 7)
