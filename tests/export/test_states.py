"""Exported states: what the dataset class of speculators reads is what was stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eagle3.config.configuration import Config
from eagle3.errors import UserError
from eagle3.export.states import export_states
from eagle3.run import External, Run
from eagle3.store.reader import FeatureShard
from eagle3.target_model.final_norm import load_final_norm
from eagle3.tokens.shards import read_token_shard
from eagle3.tokens.vocab import read_mapping
from tests.builders.models import save_model
from tests.builders.run_file import NAME
from tests.builders.shards import training_set

RUN = Run(
    Config.of(
        {
            "run": NAME,
            "dataset": {"num_samples": 12, "shard_size": 12},
            "evaluation": {"held_out_samples": 12},
        }
    ),
    External((), "", "", "", "a target", "", ""),
    {},
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two captured shards, of which the second is held out."""
    folder = tmp_path_factory.mktemp("export")
    target = save_model(folder / "target", "llama")
    training_set(folder, target)
    paths = RUN.paths
    for old, new in (
        (paths.tokens("train", 1), paths.tokens("eval", 0)),
        (paths.states("train", 1), paths.states("eval", 0)),
    ):
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(folder / new)
    return folder


def test_the_reader_of_speculators_gives_what_was_stored(base: Path, tmp_path: Path) -> None:
    from speculators.data_generation.offline import check_hidden_states
    from speculators.train.data import ArrowDataset

    counts = export_states(RUN, base, base / "target", tmp_path / "out")
    assert (counts.train, counts.held_out, counts.layers) == (12, 12, (2, 4, 5))
    norm = load_final_norm(base / "target", "model.norm.weight", torch.float32)
    number = 0
    for part, split in (("train", "train"), ("val", "eval")):
        theirs = ArrowDataset(
            2048, tmp_path / "out", on_missing="raise", train_ratio=counts.train_ratio, split=part
        )
        tokens = read_token_shard(base / RUN.paths.tokens(split, 0))
        stored = FeatureShard(base / RUN.paths.states(split, 0), tokens)
        assert len(theirs) == len(tokens)
        needed = stored.layout.needed
        for document in range(len(tokens)):
            item, read = theirs[document], stored.read(document)
            kept, start = needed.kept[document], tokens.doc_offsets[document]
            ids = tokens.input_ids[start : start + kept].tolist()
            assert item["input_ids"].tolist() == ids
            check_hidden_states(theirs.transfer.get_cached(number), ids)
            number += 1
            assert torch.equal(item["hidden_states"][: kept - 2], read["aux"])
            taught = item["loss_mask"].bool()
            rows = slice(*needed.last_offsets[[document, document + 1]])
            assert np.flatnonzero(taught).tolist() == needed.last_positions[rows].tolist()
            again = norm(item["verifier_last_hidden_states"][taught])
            torch.testing.assert_close(again, read["last"], rtol=1e-4, atol=1e-5)
            # nobody asks for what is not there
            assert not item["verifier_last_hidden_states"][~taught].any()


def test_every_token_that_a_mask_asks_for_has_its_own_teacher(base: Path, tmp_path: Path) -> None:
    """The label behind each supervised place is supervised in ours, and the places are those whose
    rows of aux are there."""
    from speculators.train.data import ArrowDataset

    export_states(RUN, base, base / "target", tmp_path / "out")
    theirs = ArrowDataset(2048, tmp_path / "out", on_missing="raise")
    tokens = read_token_shard(base / RUN.paths.tokens("train", 0))
    for document in range(len(tokens)):
        start = tokens.doc_offsets[document]
        places = np.flatnonzero(theirs[document]["loss_mask"])
        assert tokens.loss_mask[start + places + 1].all()
        assert theirs[document]["hidden_states"][places - 1].abs().sum(1).gt(0).all()


def test_the_vocabulary_is_where_its_trainer_looks(base: Path, tmp_path: Path) -> None:
    export_states(RUN, base, base / "target", tmp_path / "out")
    mapping, _ = read_mapping(base / RUN.paths.vocab)
    assert np.array_equal(np.load(tmp_path / "out/d2t-64.npy"), mapping.d2t)
    assert np.array_equal(np.load(tmp_path / "out/t2d-64.npy"), mapping.t2d)


def test_files_of_a_call_that_was_stopped_are_not_in_the_export(base: Path, tmp_path: Path) -> None:
    remains = tmp_path / ".out.unfinished/hidden_states/hs_9999.safetensors"
    remains.parent.mkdir(parents=True)
    remains.touch()
    export_states(RUN, base, base / "target", tmp_path / "out")
    assert not (tmp_path / "out/hidden_states" / remains.name).exists()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_folder_that_exists_is_left_alone(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists; name a new folder"):
        export_states(RUN, base, base / "target", tmp_path)


def test_a_norm_that_cannot_be_undone_is_one_sentence(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer_norm = torch.nn.LayerNorm(32).requires_grad_(False)
    monkeypatch.setattr("eagle3.export.states.load_final_norm", lambda *_: layer_norm)
    with pytest.raises(UserError, match="final norm is a LayerNorm, which cannot be undone"):
        export_states(RUN, base, base / "target", tmp_path / "out")
    assert not (tmp_path / "out").exists()
