"""Snakemake's cache between workflows: going back to an old value captures nothing again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.rules.workflow import snakemake

pytestmark = [pytest.mark.dag, pytest.mark.long]


def states(folder: Path, run: str = "small") -> dict[str, bytes]:
    result = (folder / "results" / run / "hidden_states" / "train").glob("*.safetensors")
    return {path.name: path.read_bytes() for path in sorted(result)}


def test_going_back_to_an_old_codec_and_another_run_capture_nothing_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also shows that the cache tells shards apart, which it does not by itself."""
    store = tmp_path / "cache"
    store.mkdir()
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(store))
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    shutil.rmtree(folder / "results" / "small" / "hidden_states")
    shutil.rmtree(folder / "results" / "small" / "tokens")
    wanted = [f"results/small/hidden_states/train/shard-0000{i}.safetensors" for i in (0, 1)]
    first = snakemake(folder, "--cache", target=wanted)
    assert first.code == 0, first.text[-4000:]
    assert dict(first.jobs) == {"tokens": 2, "hidden_states": 2}
    made = states(folder)
    assert made == states(finished)
    assert made["shard-00000.safetensors"] != made["shard-00001.safetensors"]

    other = {"hidden_states": {"codec": "int8"}}
    changed = snakemake(folder, "--cache", change=other, target=wanted)
    assert changed.code == 0 and dict(changed.jobs) == {"hidden_states": 2}
    assert states(folder) != made

    size = sum(path.stat().st_size for path in store.iterdir())
    back = snakemake(folder, "--cache", target=wanted)
    assert back.code == 0, back.text[-4000:]
    assert states(folder) == made
    assert back.text.count("symlinked") == 4 or "cache" in back.text

    named = [path.replace("small", "second") for path in wanted]
    second = snakemake(folder, "--cache", change={"run": "second"}, target=named)
    assert second.code == 0, second.text[-4000:]
    assert states(folder, "second") == made
    assert sum(path.stat().st_size for path in store.iterdir()) == size
