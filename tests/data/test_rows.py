"""The dataset artefact: a fixed order, a fixed split, a census, and rows found by number."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from eagle3.data.conversations import Conversation, parse_row
from eagle3.data.row_files import Unreadable
from eagle3.data.rows import DatasetFile, Stream, check_enough, write_dataset
from eagle3.errors import UserError
from eagle3.files.artifact import Settings, file_sha256, read_json

VALUES = {"seed": 7, "eval_fraction": 0.2, "max_bad_fraction": 0.5, "deduplicate": False}
SETTINGS = Settings("dataset", {"dataset": VALUES}, {})


def row(number: int | str, answer: str = "Hello") -> dict[str, Any]:
    question = {"from": "human", "value": f"Question {number} é\n"}
    return {"id": f"r{number}", "conversations": [question, {"from": "gpt", "value": answer}]}


def write(out: Path, rows: list[Any], want: int = 1, **changed: Any) -> dict[str, Any]:
    return write_dataset([Stream(iter(rows))], {**VALUES, **changed}, out, SETTINGS, want)


def ids(out: Path, split: str) -> list[str]:
    dataset = DatasetFile(out, split)
    return [c.id for c in dataset.read(0, len(dataset))]


def naive_hash(seed: int, identity: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{identity}".encode()).digest()


def test_the_files_equal_those_of_a_naive_sort_in_memory(tmp_path: Path) -> None:
    rows = [row(i) for i in range(300)]
    report = write(tmp_path, rows)
    parsed = sorted((parse_row(r)[0] for r in rows), key=lambda c: naive_hash(7, c.id))
    text = "".join(c.to_json() + "\n" for c in parsed)
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == text
    held = [int.from_bytes(naive_hash(7, c.id)[24:], "big") / 2**64 < 0.2 for c in parsed]
    for split, wanted in (("train", False), ("eval", True)):
        expected = [c for c, out in zip(parsed, held, strict=True) if out == wanted]
        dataset = DatasetFile(tmp_path, split, SETTINGS.digest)
        assert dataset.read(0, 300) == expected
        assert len(dataset) == report["splits"][split] == len(expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "rows.index.safetensors",
        "rows.jsonl",
        "rows.report.json",
    ]
    assert DatasetFile(tmp_path, "eval").manifest.inputs["rows"] == file_sha256(
        tmp_path / "rows.jsonl"
    )


def test_order_and_split_depend_on_seed_and_ids_and_not_on_the_source(tmp_path: Path) -> None:
    rows = [row(i) for i in range(60)]
    write(tmp_path / "a", rows)
    random.Random(0).shuffle(rows)
    rows = [row(r["id"][1:], answer="Something else") for r in rows]
    write(tmp_path / "b", rows)
    write(tmp_path / "c", rows, seed=8)
    for split in ("train", "eval"):
        assert ids(tmp_path / "a", split) == ids(tmp_path / "b", split)
        assert ids(tmp_path / "a", split) != ids(tmp_path / "c", split)


def test_more_rows_move_no_row_to_the_other_split_and_keep_the_order(tmp_path: Path) -> None:
    few = [row(i) for i in range(50)]
    more = [row(i) for i in range(200)]
    random.Random(1).shuffle(more)
    write(tmp_path / "few", few)
    write(tmp_path / "more", more)
    known = {r["id"] for r in few}
    for split in ("train", "eval"):
        kept = [identity for identity in ids(tmp_path / "more", split) if identity in known]
        assert kept == ids(tmp_path / "few", split) != []


def test_a_larger_held_out_share_only_takes_rows_from_training(tmp_path: Path) -> None:
    rows = [row(i) for i in range(200)]
    write(tmp_path / "a", rows, eval_fraction=0.1)
    write(tmp_path / "b", rows, eval_fraction=0.4)
    assert set(ids(tmp_path / "a", "eval")) < set(ids(tmp_path / "b", "eval"))
    assert 60 <= len(ids(tmp_path / "b", "eval")) <= 100


def test_the_order_is_mixed(tmp_path: Path) -> None:
    write(tmp_path, [row(i) for i in range(100)])
    numbers = [int(identity[1:]) for identity in ids(tmp_path, "train")]
    assert sum(b > a for a, b in pairwise(numbers)) < 60


def test_a_repeat_is_refused_and_a_used_id_with_other_content_gets_its_own(
    tmp_path: Path,
) -> None:
    given = [row(1), row(1), row(1, "Other"), row(1, "Third"), row(1, "Other"), row(2), row(1)]
    report = write(tmp_path, given, max_bad_fraction=1.0)
    assert report["rejected"] == {"same id and content as an earlier row": 3}
    assert report["valid"] == 4
    result = sorted(ids(tmp_path, "train") + ids(tmp_path, "eval"))
    assert result[0] == "r1"
    assert result[3] == "r2"
    assert all(identity.startswith("r1~") for identity in result[1:3])
    answers = {
        c.messages[1]["content"]
        for split in ("train", "eval")
        for c in DatasetFile(tmp_path, split).read(0, 9)
    }
    assert answers == {"Hello", "Other", "Third"}


def test_the_report_counts_every_cause_and_names_the_first_bad_rows(tmp_path: Path) -> None:
    late = {**row(5), "conversations": [*row(5)["conversations"], {"from": "human", "value": "?"}]}
    bad = [
        Unreadable("line is not JSON"),
        {"id": "x", "conversations": []},
        {"id": float("nan"), "conversations": []},
        {"id": b"\x00", "conversations": []},
    ]
    report = write(tmp_path, [row(1), bad[0], row(2), *bad[1:], late, row(3), row(4)])
    stored, manifest = read_json(tmp_path / "rows.report.json", "dataset", SETTINGS.digest)
    assert stored == report
    cause = "no list of turns under 'conversations' or 'messages'"
    assert report["rows_read"] == 9
    assert report["valid"] == 5 == sum(report["splits"].values())
    assert report["rejected"] == {cause: 3, "line is not JSON": 1}
    assert report["repaired"] == {"unanswered last user turn left out": 1}
    assert report["first_rejected"] == [
        {"row": 2, "id": None, "cause": "line is not JSON"},
        {"row": 4, "id": "x", "cause": cause},
        {"row": 5, "id": None, "cause": cause},
        {"row": 6, "id": None, "cause": cause},
    ]
    assert manifest.counts == {"valid": 5}


def test_only_the_first_hundred_bad_rows_are_listed(tmp_path: Path) -> None:
    report = write(tmp_path, [row(1), row(2), *[{}] * 150], max_bad_fraction=1.0)
    assert sum(report["rejected"].values()) == 150
    assert [entry["row"] for entry in report["first_rejected"]] == list(range(3, 103))


def test_too_many_bad_rows_stop_the_run_with_causes_and_the_first_one(tmp_path: Path) -> None:
    rows = [row(1), {}, row(2), {}, row(3)]
    assert write(tmp_path, rows, max_bad_fraction=0.4)["valid"] == 3
    with pytest.raises(UserError) as caught:
        write(tmp_path / "b", rows, max_bad_fraction=0.39)
    assert str(caught.value) == (
        "dataset.source: 2 of 5 rows cannot be used (2 x no list of turns under 'conversations' or "
        "'messages'), more than dataset.max_bad_fraction 0.39 allows; first bad row: number 2"
    )
    assert list((tmp_path / "b").iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [([], r"no usable row among 0 \(empty\)"), ([{}, 3], r"no usable row among 2 \(1 x no list")],
)
def test_a_source_without_a_usable_row_is_refused(
    tmp_path: Path, rows: list[Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=f"^dataset.source: {sentence}"):
        write(tmp_path, rows, max_bad_fraction=1.0)


def test_too_few_training_rows_say_how_many_there_are(tmp_path: Path) -> None:
    rows = [row(i) for i in range(20)]
    train = write(tmp_path, rows)["splits"]["train"]
    assert train < 20
    with pytest.raises(UserError) as caught:
        write(tmp_path / "b", rows, want=20)
    assert str(caught.value) == (
        f"dataset.num_samples is 20 but the source has only {train} valid training rows; lower "
        f"num_samples to at most {train}"
    )
    check_enough(train, train)


def test_rows_are_read_by_number_and_end_where_the_split_ends(tmp_path: Path) -> None:
    write(tmp_path, [row(i) for i in range(30)])
    dataset = DatasetFile(tmp_path, "train")
    everything = dataset.read(0, len(dataset))
    assert dataset.read(5, 9) == everything[5:9]
    assert dataset.read(len(dataset) - 2, len(dataset) + 50) == everything[-2:]
    assert dataset.read(len(dataset), len(dataset) + 5) == []
    assert all(isinstance(c, Conversation) for c in everything)


def test_a_dataset_of_other_settings_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [row(i) for i in range(9)])
    with pytest.raises(UserError, match=r"rows.index.safetensors: was made under other settings"):
        DatasetFile(tmp_path, "train", "0" * 16)


def test_missing_or_cut_rows_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [row(i) for i in range(9)])
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    for _ in ("cut", "gone"):
        with pytest.raises(UserError, match=r"rows.jsonl: missing, or not the file its index"):
            DatasetFile(tmp_path, "train")
        path.unlink(missing_ok=True)


def test_a_damaged_row_is_refused_and_the_others_can_be_read(tmp_path: Path) -> None:
    write(tmp_path, [row(i) for i in range(40)])
    path = tmp_path / "rows.jsonl"
    dataset = DatasetFile(tmp_path, "train")
    lines = path.read_bytes().splitlines(keepends=True)
    bad = int(dataset.rows[3])
    lines[bad] = lines[bad].replace(b"Hello", b"Hallo")
    path.write_bytes(b"".join(lines))
    assert json.loads(lines[bad])["conversations"][1]["content"] == "Hallo"
    assert len(DatasetFile(tmp_path, "train").read(0, 3)) == 3
    with pytest.raises(UserError, match=f"line {bad + 1} does not match its checksum: delete it"):
        DatasetFile(tmp_path, "train").read(0, 9)


def talks(name: str, count: int) -> list[dict[str, Any]]:
    """Rows with different words, which say where they are from."""
    return [
        {"id": n, "messages": [{"role": "user", "content": f"{name} {n}"}, ANSWER]}
        for n in range(count)
    ]


ANSWER = {"role": "assistant", "content": "Yes"}


def test_several_sources_are_mixed_by_weight_in_every_stretch(tmp_path: Path) -> None:
    sizes, weights = {"a": 300, "b": 100, "c": 30}, {"a": 2.0, "b": 1.0, "c": 0.5}

    def build(folder: str) -> DatasetFile:
        streams = [Stream(talks(n, sizes[n]), n, weights[n]) for n in sizes]
        values = {**VALUES, "eval_fraction": 1e-9}
        report = write_dataset(streams, values, tmp_path / folder, SETTINGS, 400)
        whole = {n: {"read": c, "valid": c, "commits": []} for n, c in sizes.items()}
        assert report["sources"] == whole
        return DatasetFile(tmp_path / folder, "train")

    ids = [row.id for row in build("one")]
    assert ids == [row.id for row in build("again")]
    assert sorted(ids) == sorted(f"{n}/{i}" for n, c in sizes.items() for i in range(c))
    for stretch in (35, 70, 105, 200):  # until c, the smallest, has no more
        counts = Counter(identity[0] for identity in ids[:stretch])
        for name, weight in weights.items():
            assert abs(counts[name] - stretch * weight / 3.5) <= 1, (stretch, name)


def test_rows_that_say_the_same_under_another_id_are_left_out_on_request(tmp_path: Path) -> None:
    rows = [{**row, "id": f"{row['id']}-{n}"} for n in range(2) for row in talks("a", 6)]
    values = {**VALUES, "eval_fraction": 1e-9}
    both = write_dataset([Stream(rows)], values, tmp_path / "both", SETTINGS, 1)
    assert both["valid"] == 12
    values["deduplicate"] = True
    once = write_dataset([Stream(rows)], values, tmp_path / "once", SETTINGS, 1)
    assert once["valid"] == 6
    assert once["rejected"] == {"same content as an earlier row": 6}


def test_a_message_of_ten_megabytes_is_a_row_like_any_other(tmp_path: Path) -> None:
    large = {"id": "l", "messages": [{"role": "user", "content": "x\0y" * 3_500_000}, ANSWER]}
    values = {**VALUES, "eval_fraction": 1e-9}
    write_dataset([Stream([large, *talks("a", 2)])], values, tmp_path, SETTINGS, 1)
    result = {row.id: row for row in DatasetFile(tmp_path, "train")}
    assert result["l"].messages == large["messages"]
