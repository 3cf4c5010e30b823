"""Token shards: documents side by side, dropped rows counted, anything else refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from eagle3.data.conversations import BadRow, Conversation
from eagle3.data.masks import TokenizedDocument
from eagle3.errors import UserError
from eagle3.files.artifact import Manifest, Settings
from eagle3.files.tensor_file import read_manifest, save_tensors
from eagle3.tokens.needed_states import offsets_of
from eagle3.tokens.shards import KIND, Masked, read_token_shard, write_token_shard

SETTINGS = Settings("tokens", {"tokens": {"max_length": 9}}, {"dataset": "d"})


def document(conversation: Conversation) -> TokenizedDocument:
    """One token a letter of the answer; capital letters are supervised."""
    text = conversation.messages[-1]["content"]
    if not any(map(str.isupper, text)):
        raise BadRow("no supervised token" if text != "!" else "another cause")
    ids = np.array([ord(c) for c in text[:9]], dtype=np.int32)
    mask = np.array([c.isupper() for c in text[:9]], dtype=np.uint8)
    return TokenizedDocument(conversation.id, ids, mask, len(text) > 9)


def by_letters(rows: Iterable[Conversation]) -> Iterator[Masked]:
    for row in rows:
        try:
            yield row, [document(row)]
        except BadRow as fault:
            yield row, fault


def write(path: Path, *answers: str) -> Manifest:
    rows = [
        Conversation(f"é{i}", [{"role": "assistant", "content": answer}])
        for i, answer in enumerate(answers)
    ]
    return write_token_shard(path, iter(rows), by_letters, SETTINGS, {"dataset": "abc"})


def test_documents_lie_side_by_side_without_padding(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.safetensors"
    write(path, "abC", "X", "hELLo")
    shard = read_token_shard(path, SETTINGS.digest)
    assert bytes(shard.input_ids.tolist()) == b"abCXhELLo"
    assert shard.loss_mask.tolist() == [0, 0, 1, 1, 0, 1, 1, 1, 0]
    assert shard.doc_offsets.tolist() == [0, 3, 4, 9]
    assert shard.lengths.tolist() == [3, 1, 5]
    assert shard.row_ids == ["é0", "é1", "é2"]
    assert len(shard) == 3
    kinds = [a.dtype for a in (shard.input_ids, shard.loss_mask, shard.doc_offsets)]
    assert kinds == [np.int32, np.uint8, np.int64]


def test_dropped_rows_make_the_shard_smaller_and_are_counted_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    returned = write(path, "abC", "none", "!", "Xy" * 9, "none")
    shard = read_token_shard(path)
    assert shard.row_ids == ["é0", "é3"]
    assert shard.manifest == returned
    assert returned.inputs == {"dataset": "abc"}
    assert returned.counts == {
        "rows": 5,
        "documents": 2,
        "tokens": 12,
        "supervised": 6,
        "truncated": 1,
        "dropped": {"no supervised token": 2, "another cause": 1},
        "first_dropped": [
            {"id": "é1", "cause": "no supervised token"},
            {"id": "é2", "cause": "another cause"},
            {"id": "é4", "cause": "no supervised token"},
        ],
    }


@pytest.mark.parametrize("answers", [(), ("none", "none")])
def test_an_empty_shard_is_legal(tmp_path: Path, answers: tuple[str, ...]) -> None:
    path = tmp_path / "shard.safetensors"
    counts = write(path, *answers).counts
    assert (counts["rows"], counts["documents"], counts["supervised"]) == (len(answers), 0, 0)
    shard = read_token_shard(path, SETTINGS.digest)
    assert len(shard) == 0
    assert shard.doc_offsets.tolist() == [0]
    assert shard.row_ids == []
    assert (shard.input_ids.dtype, shard.loss_mask.dtype) == (np.int32, np.uint8)


def test_equal_documents_give_equal_manifests(tmp_path: Path) -> None:
    first, again, other = (
        write(tmp_path / name / "train/shard.safetensors", "abC", answer)
        for name, answer in (("a", "X"), ("b", "X"), ("c", "Y"))
    )
    assert first == again != other


def test_a_shard_of_other_settings_or_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    write(path, "abC")
    with pytest.raises(UserError, match=r"shard.safetensors: was made under other settings"):
        read_token_shard(path, "0" * 16)
    save_tensors(path, {"d2t": np.zeros(1)}, Manifest.of("vocab", SETTINGS))
    with pytest.raises(UserError, match="is a 'vocab' file, expected 'tokens'"):
        read_token_shard(path)
    assert read_manifest(path, "vocab").kind != KIND


def test_a_neighbour_under_the_name_of_a_shard_is_refused(tmp_path: Path) -> None:
    first, second = (tmp_path / f"train/shard-0000{number}.safetensors" for number in (0, 1))
    write(first, "abC")
    shutil.copy(first, second)
    assert read_token_shard(first, SETTINGS.digest).manifest.part == "train/shard-00000"
    with pytest.raises(UserError, match=r"shard-00001\S+: is 'train/shard-00000' under another"):
        read_token_shard(second, SETTINGS.digest)
    assert len(read_token_shard(second)) == 1  # whoever only looks at it may call it anything


@pytest.mark.parametrize("lengths", [[], [3], [3, 0, 2]])
def test_offsets_are_the_running_sum(lengths: list[int]) -> None:
    expected = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    for given in (lengths, np.array(lengths, dtype=np.int64), np.array(lengths, dtype=np.int32)):
        result = offsets_of(given)
        assert result.tolist() == expected
        assert result.dtype == np.int64


def test_a_shard_that_loses_too_many_rows_is_refused_with_the_causes(tmp_path: Path) -> None:
    rows = [
        Conversation(f"r{i}", [{"role": "assistant", "content": "good Row" if i % 2 else "bad"}])
        for i in range(40)
    ]
    path = tmp_path / "shard-00000.safetensors"
    with pytest.raises(UserError) as refused:
        write_token_shard(path, iter(rows), by_letters, SETTINGS, {}, 0.4)
    assert str(refused.value).splitlines() == [
        f"{path}: 20 of 40 conversations cannot be used, more than dataset.max_bad_fraction 0.4 "
        "allows:",
        "  20 x no supervised token (first row 'r0'); check tokens.chat_template and "
        "tokens.max_length",
    ]
    assert not path.exists()
    assert write_token_shard(path, iter(rows), by_letters, SETTINGS, {}, 0.5).counts["rows"] == 40


def test_a_refusal_names_what_differs_and_the_remedy(tmp_path: Path) -> None:
    def refusing(rows: Iterable[Conversation]) -> Iterator[Masked]:
        for row in rows:
            detail = f"the row has '{row.id}', the template shows 'R'"
            yield row, BadRow("rewritten", detail, "ask the target")

    rows = [Conversation(f"r{i}", []) for i in range(9)]
    with pytest.raises(UserError) as refused:
        write_token_shard(tmp_path / "shard", iter(rows), refusing, SETTINGS, {}, 0.5)
    assert str(refused.value).splitlines()[1:] == [
        "  9 x rewritten (first row 'r0': the row has 'r0', the template shows 'R'); ask the target"
    ]
    path = tmp_path / "shard-00000.safetensors"
    listed = write_token_shard(path, iter(rows), refusing, SETTINGS, {}).counts["first_dropped"]
    assert listed[8]["detail"] == "the row has 'r8', the template shows 'R'"


def test_a_few_lost_rows_say_nothing_about_a_small_shard(tmp_path: Path) -> None:
    rows = [Conversation(f"r{i}", [{"role": "assistant", "content": "bad"}]) for i in range(3)]
    path = tmp_path / "shard-00000.safetensors"
    assert write_token_shard(path, iter(rows), by_letters, SETTINGS, {}, 0.0).counts["rows"] == 3
