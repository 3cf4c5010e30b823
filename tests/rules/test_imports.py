"""States of SpecForge instead of a capture, and states of another run, on real Snakemake runs."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eagle3.config.configuration import Config
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.run import load_run
from eagle3.store.reader import FeatureShard
from eagle3.tokens.shards import read_token_shard
from tests.builders.models import save_model, save_tokenizer
from tests.builders.peers import captured, write_specforge
from tests.rules.workflow import snakemake

pytestmark = pytest.mark.dag
IMPORT = {"import_source": 1, "import_tokens": 3, "import_states": 2, "import_held_out": 1}
DELIVERY = {"export": 1, "evaluate": 1, "report": 1}
TRAINING = {"train_stage": 2, "score_stage": 2, "select_best": 1, **DELIVERY}
DRAFT = "checkpoints/stage-0002/model.safetensors"


def importing(target: Path, states: Path, **more: Any) -> dict[str, Any]:
    source = {"kind": "specforge", "path": str(states)}
    return {
        "run": "imported",
        "target": {"model": str(target)},
        "hidden_states": {"source": source, **more},
        # the run whose states these are did not store every conversation of its dataset
        "dataset": {"max_bad_fraction": 0.99},
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny target, and a folder with the names of SpecForge's files."""
    folder = tmp_path_factory.mktemp("names")
    save_model(folder / "target", "llama")
    save_tokenizer(folder / "target")
    (folder / "states" / "rows_0-2000").mkdir(parents=True)
    for number in range(160):
        (folder / "states" / "rows_0-2000" / f"data_{number}.ckpt").write_text("x")
    fitting = {"tokens": {"max_length": 64}, "vocab": {"draft_vocab_size": 32}}
    fitting |= {"train": {"pack_tokens": 64}}
    return importing(folder / "target", folder / "states") | fitting


def test_the_dry_run_shows_imports_in_place_of_captures(
    small: dict[str, Any], tmp_path: Path
) -> None:
    outcome = snakemake(tmp_path, "-n", change=small)
    assert outcome.code == 0, outcome.text[-4000:]
    rest = {"vocab": 1, "schedule": 1, "plan": 1}
    assert dict(outcome.jobs) == {**IMPORT, **rest, **TRAINING}
    assert "warning: dataset.source is not read: tokens and masks come with" in outcome.text


def test_too_few_documents_are_known_before_any_job(small: dict[str, Any], tmp_path: Path) -> None:
    outcome = snakemake(
        tmp_path, "-n", change={**small, "dataset": {"num_samples": 200, "shard_size": 100}}
    )
    assert outcome.code == 1
    assert "dataset.num_samples is 200 but the source has only" in outcome.text


def test_damaged_files_stop_at_the_check_and_nothing_is_written(
    small: dict[str, Any], tmp_path: Path
) -> None:
    outcome = snakemake(tmp_path, change=small)
    assert outcome.code == 1 and dict(outcome.jobs) == {"import_source": 1}
    log = (tmp_path / "results/imported/logs/import_source.log").read_text()
    assert "error: hidden_states.source.path: none of 16 documents that were read can be" in log
    left = [p.name for p in (tmp_path / "results/imported").rglob("*") if p.is_file()]
    assert sorted(left) == ["import_source.log", "run.json"]


FAULTS = {
    "no path": ({"kind": "specforge"}, {}, "hidden_states.source.path is null"),
    "no kind": ({"path": "x"}, {}, "names a folder, but its kind is capture"),
    "dataset": ({"kind": "run", "path": "x", "dataset": "y"}, {}, "belongs to kind speculators"),
    "answers": (
        {"kind": "specforge", "path": "x"},
        {"dataset": {"deduplicate": True}},
        "dataset.deduplicate is set, but hidden_states.source brings finished tokens",
    ),
    "kind": (
        {"kind": "modelopt", "path": "x"},
        {},
        "allowed: capture, specforge, speculators, run",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_contradicts_an_import_is_one_sentence(name: str) -> None:
    source, more, words = FAULTS[name]
    with pytest.raises(UserError) as fault:
        Config.of({"run": "x", "hidden_states": {"source": source}, **more})
    assert words in str(fault.value)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def specforge(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The states of the finished run as SpecForge would have stored them: a number in the order of
    their ids, padding, and the very numbers that the run has stored."""
    folder = tmp_path_factory.mktemp("peer")
    run = load_run(finished / "results/small")
    engine = HFTarget.load(finished / run.target, (1, 3, 4), "auto")
    rows = [
        (split, shard) for split, shards in (("train", 2), ("eval", 1)) for shard in range(shards)
    ]
    number = 0
    for split, shard in rows:
        tokens = read_token_shard(finished / run.paths.tokens(split, shard))
        stored = FeatureShard(finished / run.paths.states(split, shard), tokens)
        needed = stored.layout.needed
        for place in range(len(tokens)):
            inside = slice(*tokens.doc_offsets[[place, place + 1]])
            ids, mask = tokens.input_ids[inside], tokens.loss_mask[inside]
            document = captured(engine, number, ids, mask, padding=number % 3)
            read = stored.read(place)
            document.aux[: len(read["aux"])] = read["aux"]
            at = needed.last_positions[slice(*needed.last_offsets[[place, place + 1]])]
            document.last[torch.from_numpy(at)] = read["last"]
            write_specforge(folder, document, compress=number % 4 == 0)
            number += 1
    assert number > 180
    return folder


@pytest.mark.long
def test_a_run_on_imported_states_is_a_run_like_any_other(
    finished: Path, specforge: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    shutil.copytree(finished / "results/small/target", target)
    change = importing(target, specforge)
    outcome = snakemake(tmp_path, change=change)
    assert outcome.code == 0, outcome.text[-8000:]
    assert dict(outcome.jobs) == {**IMPORT, "vocab": 1, "schedule": 1, "plan": 1, **TRAINING}
    out = tmp_path / "results" / "imported"
    page = (out / "report.html").read_text()
    assert "imported from SpecForge (peer" in page
    assert "SpecForge" in (out / "draft/sglang/README.md").read_text()
    assert snakemake(tmp_path, change=change).idle
    # what a change re-runs
    rate = {**change, "train": {"learning_rate": 2.0e-3}}
    assert dict(snakemake(tmp_path, "-n", change=rate).jobs) == {"plan": 1, **TRAINING}
    codec = importing(target, specforge, codec="int8")
    states = {"import_states": 2, "import_held_out": 1}
    assert dict(snakemake(tmp_path, "-n", change=codec).jobs) == {**states, "plan": 1, **TRAINING}
    moved = tmp_path / "moved"
    shutil.copytree(specforge, moved)
    elsewhere = importing(target, moved)
    assert dict(snakemake(tmp_path, "-n", change=elsewhere).jobs) == {"report": 1}
    (moved / "rows_0-2000" / "data_7.ckpt").write_bytes(b"of another size")
    assert snakemake(tmp_path, "-n", change=elsewhere).jobs["import_source"] == 1
    rolling = importing(target, specforge, window_shards=1, keep=False)
    planned = snakemake(tmp_path, "-n", change=rolling)
    assert planned.jobs["import_states"] == 4 and "import_tokens" not in planned.jobs


@pytest.mark.long
def test_another_run_takes_over_states_and_trains_the_same_draft(copy: Path) -> None:
    def named(**states: Any) -> dict[str, Any]:
        source = {"kind": "run", "path": "results/small"}
        return {"run": "other", "hidden_states": {"source": source, **states}}

    outcome = snakemake(copy, change=named())
    assert outcome.code == 0, outcome.text[-8000:]
    assert outcome.jobs["shared_states"] == 2 and outcome.jobs["shared_held_out"] == 1
    assert not {"hidden_states", "held_out_states"} & set(outcome.jobs)
    one, other = (copy / "results" / name for name in ("small", "other"))
    shard = "hidden_states/train/shard-00000.safetensors"
    assert (other / shard).is_symlink() and (other / shard).samefile(one / shard)
    assert digest(one / DRAFT) == digest(other / DRAFT)
    assert snakemake(copy, "-n", change=named()).idle and snakemake(copy, "-n").idle
    # one more shard is captured, and other settings are refused
    more = {**named(), "dataset": {"num_samples": 192}}
    planned = snakemake(copy, "-n", change=more)
    assert planned.jobs["hidden_states"] == 1 and "shared_states" not in planned.jobs
    refused = snakemake(copy, "-n", change=named(codec="int8"))
    assert refused.code == 1
    assert 'there hidden_states.codec = "bf16", here hidden_states.codec = "int8"' in refused.text
    assert np.all([not path.is_symlink() for path in one.rglob("*.safetensors")])
