"""Which image a rule runs in, what its name says, and what it sees of the host."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from eagle3.errors import UserError
from eagle3.workflow import containers
from tests.rules.workflow import snakemake

ROOT = Path(__file__).resolve().parents[2]
PINNED = "docker://registry.example/eagle3@sha256:" + "0" * 64


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if "==" in line and line[0] != "#")
    return {plain(name): version for name, version in (line.split("==") for line in lines)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a copy of envs/."""
    shutil.copytree(ROOT / "envs", tmp_path / "envs", ignore=shutil.ignore_patterns("images"))
    return tmp_path


def test_the_image_holds_the_versions_of_the_constraints() -> None:
    pinned = pins(ROOT / "envs" / "constraints.txt")
    for name, version in pins(ROOT / "envs" / "eagle3.txt").items():
        assert pinned[name] == version, name


def test_the_image_holds_all_that_the_environment_needs_and_no_more() -> None:
    environment = yaml.safe_load((ROOT / "envs" / "eagle3.yaml").read_text())
    (listed,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    needed: set[str] = set()
    queue = [plain(Requirement(line).name) for line in listed]
    while queue:
        name = queue.pop()
        if name in needed:
            continue
        needed.add(name)
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                queue.append(plain(requirement.name))
    held = set(pins(ROOT / "envs" / "eagle3.txt"))
    # a CUDA build of torch brings packages of its own, which torch itself pins
    assert {name for name in needed if not re.match(r"nvidia-|cuda-|triton", name)} == held


@pytest.mark.parametrize("name", ["eagle3", "sglang", "vllm"])
def test_what_an_image_is_made_of_decides_its_path(project: Path, name: str) -> None:
    definition = project / "envs" / f"{name}.def"
    files = containers.definition_files(definition)
    assert len(files) > 1
    before = containers.own_image(name, project)
    assert re.fullmatch(rf"{name}-[0-9a-f]{{12}}\.sif", before.name)
    for path in files:
        path.touch()
        assert containers.own_image(name, project) == before
        path.write_text(path.read_text() + "# changed\n")
        after = containers.own_image(name, project)
        assert after != before
        before = after


def test_the_script_that_builds_an_image_asks_for_its_path() -> None:
    command = [sys.executable, "-m", "eagle3.workflow.containers", "eagle3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(containers.own_image("eagle3", ROOT))


def test_a_change_of_other_tools_leaves_the_image_alone(project: Path) -> None:
    before = containers.own_image("eagle3", project)
    constraints = project / "envs" / "constraints.txt"
    constraints.write_text(constraints.read_text() + "another==1.0\n")
    assert containers.own_image("eagle3", project) == before


def test_a_copied_file_that_is_missing_is_named(project: Path) -> None:
    (project / "envs" / "eagle3.txt").unlink()
    with pytest.raises(UserError, match=r"eagle3\.def copies .*eagle3\.txt, which does not exist"):
        containers.own_image("eagle3", project)


@pytest.mark.parametrize("address", ["docker://python:3.11", "oras://host/image:1"])
def test_an_address_without_a_digest_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"resources\.containers\.eagle3 is .*add its digest"):
        containers.image("eagle3", address, ROOT)


def test_an_address_with_a_digest_is_taken_as_it_is() -> None:
    assert containers.image("eagle3", PINNED, ROOT) == PINNED
    containers.check_there("eagle3", PINNED, own=False)


def test_a_project_that_moves_keeps_the_path_of_its_image(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    inside = containers.image("eagle3", None, project)
    assert inside.startswith("envs/images/eagle3-")
    monkeypatch.chdir("/")
    assert containers.image("eagle3", None, project) == str(project / inside)[1:]


def test_an_image_may_be_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/any")
    assert containers.image("sglang", "~/sglang.sif", Path("/x")) == "/home/any/sglang.sif"


def test_a_missing_image_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.sif is missing: build it with `make image-sglang`"):
        containers.check_there("sglang", str(tmp_path / "x.sif"), own=True)
    with pytest.raises(UserError, match=r"resources\.containers\.eagle3 is .*does not exist"):
        containers.check_there("eagle3", str(tmp_path / "x.sif"), own=False)


def test_a_container_sees_what_links_lead_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, cache, blobs = (tmp_path / name for name in ("work", "cache", "blobs"))
    for folder in (work, cache, blobs):
        folder.mkdir()
    (blobs / "abc").touch()
    (cache / "model.safetensors").symlink_to("../blobs/abc")
    (work / "model").symlink_to(cache)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    (work / "own" / "data").mkdir(parents=True)
    (work / "own" / "data" / "train.parquet").symlink_to(elsewhere)
    monkeypatch.chdir(work)
    seen = containers.visible(["model", "own", "results", cache / "config.json"])
    assert seen == [str(blobs / "abc"), str(cache), str(elsewhere)]


def test_a_path_that_cannot_be_shown_is_named(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    with pytest.raises(UserError, match=r"a,b: Apptainer cannot bind"):
        containers.visible([tmp_path / "a,b"])


def test_gpus_the_hub_and_binds_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("APPTAINER_BIND", "/scratch")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "data").mkdir()
    made = containers.environment([tmp_path / "data"], hub=True, cuda=True)
    bound = f"/scratch,{tmp_path / 'data'},{tmp_path / 'hub'}"
    assert made == {
        "APPTAINER_BIND": bound,
        "APPTAINER_NV": "1",
        "HF_HOME": str(tmp_path / "hub"),
    }
    monkeypatch.setenv("APPTAINER_BIND", bound)
    again = containers.environment([tmp_path / "data"], hub=True, cuda=False)
    assert again["APPTAINER_BIND"] == bound
    assert "APPTAINER_NV" not in again


@pytest.mark.parametrize(
    ("variable", "value"),
    [("XDG_CACHE_HOME", "{}"), ("HF_HOME", "~/huggingface"), ("HF_HOME", "$HOME/huggingface")],
)
def test_a_container_reads_the_cache_that_the_hub_reads_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    for name in ("APPTAINER_BIND", "SINGULARITY_BIND", "XDG_CACHE_HOME", *containers.HUB_FOLDERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    home = tmp_path / ("other" if variable == "XDG_CACHE_HOME" else "")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv(variable, value.format(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", "~/models")
    (home / "models").mkdir(parents=True)
    made = containers.environment([], hub=True, cuda=False)
    assert made["HF_HOME"] == str(tmp_path / "huggingface")
    assert made["HF_HUB_CACHE"] == str(home / "models")
    assert set(made["APPTAINER_BIND"].split(",")) == {made["HF_HOME"], made["HF_HUB_CACHE"]}


@pytest.mark.dag
@pytest.mark.parametrize(
    ("arguments", "change", "sentence"),
    [
        ((), {"eagle3": "docker://python:3.11"}, "resources.containers.eagle3 is 'docker://python"),
        (("--sdm", "conda", "apptainer"), {}, "--sdm: give conda or apptainer, not both"),
    ],
)
def test_snakemake_says_it_before_work_starts(
    tmp_path: Path, arguments: tuple[str, ...], change: dict[str, str], sentence: str
) -> None:
    outcome = snakemake(tmp_path, *arguments, change={"resources": {"containers": change}})
    assert outcome.code == 1
    assert sentence in outcome.text
    assert not outcome.jobs
