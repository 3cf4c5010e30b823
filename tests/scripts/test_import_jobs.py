"""The three jobs of an import, called as the rules call them: what they write, and what they refuse
before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eagle3.config.configuration import Config
from eagle3.errors import UserError
from eagle3.files.artifact import read_json
from eagle3.imports.index import read_index
from eagle3.imports.listing import list_files
from eagle3.run import External, Run, StatesFrom
from eagle3.store.layout import CHECK_KIND
from eagle3.store.reader import FeatureShard
from eagle3.tokens.shards import read_token_shard
from eagle3.workflow.settings import all_settings
from tests.builders.models import save_model, save_tokenizer
from tests.builders.peers import Captured, captured, write_specforge, write_speculators
from tests.builders.shards import open_target
from tests.imports.conftest import chat
from workflow_scripts import import_source, import_states, import_tokens
from workflow_scripts.entry import Job

COUNT = 40


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_model(tmp_path_factory.mktemp("jobs") / "target", "llama")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def documents(target: Path) -> list[Captured]:
    engine, _ = open_target(target)
    return [captured(engine, n, *chat(n), padding=n % 4) for n in range(COUNT)]


def write(kind: str, folder: Path, documents: list[Captured]) -> None:
    if kind == "specforge":
        for document in documents:
            write_specforge(folder, document, compress=document.number % 3 == 0)
    else:
        write_speculators(folder, documents)


@pytest.fixture
def planned(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Plans a run in a folder of its own, on the files in `peer`."""
    monkeypatch.chdir(tmp_path)

    def plan(kind: str = "specforge", **changes: Any) -> Run:
        source = {"kind": kind, "path": "peer"}
        sections: dict[str, Any] = {
            "dataset": {"num_samples": 8, "shard_size": 4, "eval_fraction": 0.25},
            "tokens": {"max_length": 128},
            "hidden_states": {"source": source, "codec": "fp32", **changes},
        }
        config = Config.of({"run": "x", **sections})
        digest = list_files(kind, Path("peer")).digest
        states = StatesFrom(kind, "peer", "peer" if kind == "speculators" else None, digest)
        external = External((), "", "", "", str(target), "t", "w", tied=False, states=states)
        return Run(config, external, all_settings(config.to_dict(), external))

    return plan


def written() -> list[str]:
    return sorted(str(path) for path in Path("results").rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["specforge", "speculators"])
def test_the_jobs_give_shards_that_training_reads(
    planned: Callable[..., Run], documents: list[Captured], kind: str
) -> None:
    write(kind, Path("peer"), documents)
    run = planned(kind)
    import_source.main(Job(run))
    digest = run.settings["dataset"].digest
    report, manifest = read_json(Path(run.paths.rows_report), "dataset", digest)
    assert report["rows_read"] == COUNT and report["sample"]["documents"] == 16
    assert report["sample"]["masks"]["begun"] == 32 and not report["rejected"]
    index = read_index(Path(run.paths.import_index), digest)
    assert sorted(index.numbers.tolist()) == list(range(COUNT))
    for split, shard in (("train", 0), ("train", 1), ("eval", 0)):
        import_tokens.main(Job(run, split, shard))
        import_states.main(Job(run, split, shard))
        tokens = read_token_shard(
            Path(run.paths.tokens(split, shard)), run.settings["tokens"].digest
        )
        assert tokens.row_ids == list(map(str, index.of_shard(split, shard, 4)))
        assert tokens.manifest.inputs["dataset"] == manifest.inputs["rows"]
        path = Path(run.paths.states(split, shard))
        states = FeatureShard(path, tokens, run.settings["hidden_states"].digest)
        for place, name in enumerate(tokens.row_ids):
            made, read = documents[int(name)], states.read(place)
            assert torch.equal(read["aux"], made.aux[: len(read["aux"])])
            at = states.layout.needed
            rows = at.last_positions[slice(*at.last_offsets[[place, place + 1]])]
            torch.testing.assert_close(read["last"], made.last[torch.from_numpy(rows)])
        check, _ = read_json(
            Path(run.paths.states_check(split, shard)),
            CHECK_KIND,
            run.settings["hidden_states"].digest,
        )
        assert min(check["cosines"].values()) > 0.9999


def test_a_damaged_file_is_counted_and_listed(
    planned: Callable[..., Run], documents: list[Captured]
) -> None:
    write("specforge", Path("peer"), documents)
    run = planned()
    import_source.main(Job(run))
    index = read_index(Path(run.paths.import_index))
    first = next(iter(index.of_shard("train", 0, 4).items()))
    path = Path("peer") / first[1]
    path.write_bytes(path.read_bytes()[:-9])
    import_tokens.main(Job(run))
    counts = read_token_shard(Path(run.paths.tokens("train", 0))).manifest.counts
    assert (counts["rows"], counts["documents"]) == (4, 3)
    assert counts["dropped"] == {"file that cannot be read whole": 1}
    assert counts["first_dropped"][0]["id"] == str(first[0])


class Payload:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


def test_code_in_a_file_ends_the_job_and_nothing_is_written(
    planned: Callable[..., Run], documents: list[Captured]
) -> None:
    write("specforge", Path("peer"), documents)
    run = planned()
    import_source.main(Job(run))
    before = written()
    index = read_index(Path(run.paths.import_index))
    names = index.of_shard("train", 0, 4).values()
    plain = next(name for name in names if name.endswith(".ckpt"))
    torch.save({"input_ids": Payload()}, Path("peer") / plain)
    with pytest.raises(UserError, match=r"asks to run posix\.mkdir"):
        import_tokens.main(Job(run))
    assert written() == before and not Path("was-run").exists()


def other_model(documents: list[Captured]) -> list[Captured]:
    return [replace(d, aux=d.aux.flip(1)) for d in documents]


REFUSED: dict[str, tuple[Callable[[list[Captured]], list[Captured]], dict[str, Any], str]] = {
    "another model": (other_model, {}, "of another model, or of other weights"),
    "other layers": (list, {"aux_layers": [1, 2, 4]}, "output of layer 2 is the output of layer 3"),
    "half a folder": (lambda d: d[::2], {}, "has files of 20 of 39 documents"),
    "another template": (
        lambda d: [replace(one, mask=one.mask[::-1].copy()) for one in d],
        {},
        "so the masks are of another template",
    ),
    "another size": (
        lambda d: [replace(one, last=one.last[:, 1:]) for one in d],
        {},
        "none of 16 documents that were read can be used",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_targets_is_one_sentence_and_nothing_is_written(
    planned: Callable[..., Run], documents: list[Captured], name: str
) -> None:
    change, section, words = REFUSED[name]
    write("specforge", Path("peer"), change(documents))
    with pytest.raises(UserError) as fault:
        import_source.main(Job(planned(**section)))
    assert words in str(fault.value) and len(str(fault.value).splitlines()) == 1
    assert written() == []


def test_a_folder_that_grew_since_the_plan_is_seen(
    planned: Callable[..., Run], documents: list[Captured]
) -> None:
    write("specforge", Path("peer"), documents[:-1])
    run = planned()
    write_specforge(Path("peer"), documents[-1])
    with pytest.raises(UserError, match="have changed since the run was planned"):
        import_source.main(Job(run))
