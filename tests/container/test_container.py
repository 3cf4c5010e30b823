"""The pipeline in a real Apptainer: the same result, from the image's packages alone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rules.workflow import ROOT, snakemake

RESULTS = (
    "target/model.safetensors",
    "hidden_states/train/shard-00000.safetensors",
    "hidden_states/train/shard-00001.safetensors",
    "checkpoints/stage-0002/model.safetensors",
    "draft/sglang/model.safetensors",
)
IN_CONTAINER = ("--sdm", "apptainer")
SHARD = "results/small/hidden_states/train/shard-00000.safetensors"


def test_the_image_holds_exactly_the_listed_versions(image: Path) -> None:
    command = ["apptainer", "exec", "--no-home", str(image), "python", "-m", "pip", "list"]
    done = subprocess.run(
        [*command, "--format", "freeze"], capture_output=True, text=True, check=True
    )
    result = {line.split("+")[0].lower().replace("_", "-") for line in done.stdout.split()}
    listed = (ROOT / "envs" / "eagle3.txt").read_text().splitlines()
    wanted = {line.lower() for line in listed if "==" in line}
    assert {line for line in result if not line.startswith("pip==")} == wanted


def payload(path: Path) -> bytes:
    """The tensors of a safetensors file; its header names the Python that wrote it."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_a_run_in_containers_gives_the_same_tensors_bit_for_bit(local: Path, inside: Path) -> None:
    for name in RESULTS:
        here, there = (folder / "results" / "small" / name for folder in (local, inside))
        assert payload(here) == payload(there), name


def test_jobs_take_their_packages_from_the_image(inside: Path, project: Path) -> None:
    outcome = snakemake(inside, *IN_CONTAINER, root=project, target="witness")
    assert outcome.code == 0, outcome.text[-3000:]
    prefix, torch, transformers, eagle3 = (inside / "witness.txt").read_text().splitlines()
    packages = "/opt/eagle3/lib/python3.11/site-packages"
    assert prefix == "/opt/eagle3"
    assert torch == f"{packages}/torch/__init__.py"
    assert transformers == f"{packages}/transformers/__init__.py"
    assert eagle3 == str(project / "eagle3" / "__init__.py")


def test_a_second_call_does_nothing(inside: Path, project: Path) -> None:
    outcome = snakemake(inside, *IN_CONTAINER, root=project)
    assert outcome.code == 0 and outcome.idle, outcome.text[-3000:]


@pytest.fixture
def changed(project: Path) -> Iterator[None]:
    """The definition with one more line."""
    definition = project / "envs" / "eagle3.def"
    before = definition.read_text()
    definition.write_text(before + "# changed\n")
    yield
    definition.write_text(before)


def test_a_missing_image_is_said_before_any_job(area: Path, project: Path, changed: None) -> None:
    folder = area / "unbuilt"
    folder.mkdir()
    outcome = snakemake(folder, *IN_CONTAINER, root=project)
    assert outcome.code == 1
    assert "is missing: build it with `make image`" in outcome.text
    assert "Traceback" not in outcome.text
    assert not outcome.jobs
    assert not (folder / "results").exists()


def test_a_run_moves_into_containers_and_out_of_them_without_a_job(
    local: Path, inside: Path, project: Path
) -> None:
    assert snakemake(local, *IN_CONTAINER, "--dry-run", root=project).idle
    assert snakemake(inside, "--dry-run", root=project).idle


def test_what_lies_elsewhere_is_visible(inside: Path, project: Path, area: Path) -> None:
    elsewhere = area / "elsewhere"
    shutil.copytree(inside / "results" / "small" / "target", elsewhere / "model")
    shutil.copy2(ROOT / "data" / "demo_chat.jsonl", elsewhere / "chats.jsonl")
    # as in the hub's cache: the folder holds links
    (elsewhere / "blobs").mkdir()
    weights = elsewhere / "model" / "model.safetensors"
    shutil.move(weights, elsewhere / "blobs" / "abc")
    weights.symlink_to("../blobs/abc")
    folder = area / "foreign"
    folder.mkdir()
    (elsewhere / "results").mkdir()
    (folder / "results").symlink_to(elsewhere / "results")
    change = {
        "target": {"model": str(elsewhere / "model")},
        "dataset": {"source": str(elsewhere / "chats.jsonl")},
    }
    outcome = snakemake(folder, *IN_CONTAINER, root=project, change=change, target=SHARD)
    assert outcome.code == 0, outcome.text[-6000:]
    assert (elsewhere / "results" / "small" / "hidden_states" / "train").is_dir()
