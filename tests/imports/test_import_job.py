"""One imported shard: the same as one that was captured, bit for bit, from either project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eagle3.capture.job import CaptureJob
from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.imports.document import PeerFiles
from eagle3.imports.index import ImportIndex, open_files, read_index, write_index
from eagle3.imports.job import import_shard
from eagle3.imports.listing import list_files
from eagle3.store.reader import FeatureShard
from eagle3.tokens.shards import TokenShard
from tests.builders.models import save_model
from tests.builders.peers import Captured, captured, write_specforge, write_speculators
from tests.builders.shards import TARGET_KEYS, placement, read_all, stage_settings, token_shard
from tests.builders.shards import captured as capture_shard_of
from tests.imports.conftest import chat

CPU = torch.device("cpu")
TOKENS = stage_settings("tokens")


def settings(codec: str):
    values = {"aux_layers": None, "codec": codec, "backend": "hf"}
    return stage_settings(
        "hidden_states",
        {"tokens": TOKENS.digest},
        hidden_states=values,
        target=TARGET_KEYS | {"dtype": "float32"},
    )


def shard_of(path: Path, documents: list[Captured]) -> TokenShard:
    """The token shard of documents whose names are their numbers, without padding."""
    chats = [chat(document.number) for document in documents]
    shard = token_shard(path, chats)
    assert shard.row_ids == [f"row-{n}" for n in range(len(documents))]
    return shard


def files_of(kind: str, folder: Path, documents: list[Captured]) -> PeerFiles:
    if kind == "specforge":
        for document in documents:
            write_specforge(folder, document, compress=document.number % 2 == 0)
    else:
        write_speculators(folder, documents)
    listing = list_files(kind, folder)
    names = dict(zip(listing.numbers.tolist(), listing.names, strict=True))
    return open_files(kind, listing.folder, names, str(folder))


class Numbered:
    """Files whose documents have the names that `token_shard` gives rows."""

    def __init__(self, job: CaptureJob) -> None:
        self.job = job

    @property
    def tokens(self) -> TokenShard:
        shard = self.job.tokens
        return replace(shard, row_ids=[name.removeprefix("row-") for name in shard.row_ids])

    def __getattr__(self, name: str):
        return getattr(self.job, name)


@pytest.mark.parametrize("codec", ["fp32", "bf16", "bf16_zstd", "fp8_e4m3", "nf4"])
@pytest.mark.parametrize("kind", ["specforge", "speculators"])
def test_an_imported_shard_is_the_captured_one(
    tmp_path: Path, target: Path, engine: HFTarget, kind: str, codec: str
) -> None:
    # each document alone, as the capture below has them, and as long
    documents = [captured(engine, n, *chat(n)) for n in range(6)]
    path = tmp_path / "tokens" / "shard-00000.safetensors"
    tokens = shard_of(path, documents)
    wanted = settings(codec)
    own = capture_shard_of(tmp_path / "own.safetensors", target, path, wanted, batch_tokens=1)
    padded = [
        replace(
            d,
            ids=np.concatenate([d.ids, np.zeros(n, np.int64)]),
            mask=np.concatenate([d.mask, np.zeros(n, np.int64)]),
            aux=torch.cat([d.aux, torch.randn(n, d.aux.shape[1])]),
            last=torch.cat([d.last, torch.randn(n, d.last.shape[1])]),
        )
        for n, d in enumerate(documents)
    ]
    files = files_of(kind, tmp_path / "peer", padded if kind == "specforge" else documents)
    job = Numbered(CaptureJob(wanted, path, target))
    out = tmp_path / "imported.safetensors"
    cosines = import_shard(job, files, out, placement(self_check=True), CPU)
    assert min(cosines.values()) > 0.99
    imported = FeatureShard(out, tokens, wanted.digest)
    for name, states in read_all(own).items():
        assert torch.equal(read_all(imported)[name], states), name
    if not own.layout.framed:  # whose frames lie in the order in which documents came
        assert out.read_bytes() == (tmp_path / "own.safetensors").read_bytes()


def test_states_of_another_model_in_one_shard_are_seen_by_its_self_check(
    tmp_path: Path, target: Path, documents: Callable[..., list[Captured]]
) -> None:
    from tests.builders.shards import open_target

    other, _ = open_target(save_model(tmp_path / "other", "llama", initializer_range=0.2))
    made = [captured(other, n, *chat(n)) for n in range(3)]
    path = tmp_path / "tokens" / "shard-00000.safetensors"
    shard_of(path, made)
    job = Numbered(CaptureJob(settings("fp32"), path, target))
    files = files_of("specforge", tmp_path / "peer", made)
    with pytest.raises(UserError, match="differ from a plain forward pass of the target"):
        import_shard(job, files, tmp_path / "x.safetensors", placement(self_check=True), CPU)


def test_a_file_that_changes_between_the_two_jobs_is_seen(
    tmp_path: Path, target: Path, documents: Callable[..., list[Captured]]
) -> None:
    made = documents(3)
    path = tmp_path / "tokens" / "shard-00000.safetensors"
    shard_of(path, made)
    job = Numbered(CaptureJob(settings("fp32"), path, target))
    files = files_of("specforge", tmp_path / "peer", made)
    write_specforge(tmp_path / "peer", replace(made[1], ids=made[1].ids + 1))
    with pytest.raises(UserError, match="document row-1 has other tokens than when they"):
        import_shard(job, files, tmp_path / "x.safetensors", placement(), CPU)
    write_specforge(tmp_path / "peer", made[1]).write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"document 1: file that cannot be read whole .* was not"):
        import_shard(job, files, tmp_path / "x.safetensors", placement(), CPU)


def test_the_index_deals_documents_to_shards_in_order(tmp_path: Path) -> None:
    from eagle3.files.artifact import Manifest

    folder = tmp_path / "peer" / "rows_0-2000"
    folder.mkdir(parents=True)
    for number in range(9):
        (folder / f"data_{number}.ckpt").touch()
    listing = list_files("specforge", tmp_path / "peer")
    order = np.array([4, 2, 8, 0, 1, 3, 5, 6, 7])
    held_out = np.array([0, 1, 0, 0, 0, 1, 0, 0, 0], dtype=bool)
    made = stage_settings("dataset")
    path = tmp_path / "import.index.safetensors"
    write_index(path, listing, order, held_out, Manifest.of("dataset", made))
    index: ImportIndex = read_index(path, made.digest)
    assert list(index.of_shard("train", 0, 3)) == [4, 8, 0]
    assert list(index.of_shard("train", 2, 3)) == [7]
    assert index.of_shard("eval", 0, 9) == {
        2: "rows_0-2000/data_2.ckpt",
        3: "rows_0-2000/data_3.ckpt",
    }
    with pytest.raises(UserError, match="was made under other settings"):
        read_index(path, "other")
