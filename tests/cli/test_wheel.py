"""A wheel brings the workflow: it runs in an empty folder, far from any checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from eagle3.workflow.project import import_folders, package_of, project_root
from eagle3.workflow.provenance import code_digest, sources
from tests.rules.workflow import ROOT, SMALL, merged

BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
# what of the project a run reads; tests, benchmarks, makers of images and docs stay behind
NEEDED = ("Snakefile", "config.yaml", "data/", "docs/captions/", "envs/", "presets/", "profiles/")
NEEDED += ("rules/", "workflow_scripts/")
MAKERS = ("envs/build_image.sh", "envs/lock.py", "envs/sbom.py", "rules/record_stage_versions.py")


def tracked() -> list[str]:
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def python(*words: str, **options) -> None:
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, since a build leaves files in its folder."""
    folder = tmp_path_factory.mktemp("copy")
    for name in tracked():
        if not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def site(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the wheel, and nothing else."""
    out = tmp_path_factory.mktemp("wheel")
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    python(*pip, "wheel", "--no-build-isolation", *offline, "--wheel-dir", str(out), str(copy))
    [wheel] = out.glob("*.whl")
    python(*pip, "install", *offline, "--target", str(out / "site"), str(wheel))
    return out / "site"


def needed() -> set[str]:
    return {name for name in tracked() if name.startswith(NEEDED) and name not in MAKERS}


def test_the_wheel_holds_what_a_run_reads(site: Path) -> None:
    project = site / "eagle3" / "project"
    shipped = {str(p.relative_to(project)) for p in project.rglob("*") if p.is_file()}
    assert {name for name in shipped if "__pycache__" not in name} == needed()
    assert (site / "eagle3" / "py.typed").is_file() and (site / "eagle3" / "__init__.pyi").is_file()


def test_the_source_archive_holds_it_too(copy: Path, tmp_path: Path) -> None:
    python("-c", BUILD, str(tmp_path), cwd=copy)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    library = {name for name in tracked() if name.startswith("eagle3/")}
    assert {*needed(), *library, "setup.py", "MANIFEST.in"} - names == set()


@pytest.mark.dag
def test_an_installed_eagle3_runs_jobs_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    whole = yaml.safe_load((ROOT / "config.yaml").read_text())
    # embedded data of the wheel; the small run of the DAG's tests otherwise
    change = merged(SMALL, {"embedded_target": {"source": "data/demo_chat.jsonl"}})
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(merged(whole, change)))
    environment = os.environ | {"PYTHONPATH": str(site)}

    def eagle3(*words: str) -> str:
        command = [str(site / "bin" / "eagle3"), *words]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    planned = eagle3("plan", "-c", "small.yaml", "--dry-run")
    assert "dataset: conversations" in planned and "plan: disk" in planned
    assert not (tmp_path / "results").exists()
    eagle3("train", "-c", "small.yaml", "--", "--until", "dataset")
    counted = json.loads((tmp_path / "results/small/dataset/rows.report.json").read_text())
    assert counted["valid"] > 1000
    # jobs see the library alone, and their code has the digest that it has in a checkout
    link = tmp_path / ".snakemake" / "eagle3" / "library" / "eagle3"
    assert link.is_symlink() and link.resolve() == (site / "eagle3").resolve()
    run = json.loads((tmp_path / "results/small/run.json").read_text())
    script = ROOT / "workflow_scripts" / "train_stage.py"
    assert run["code"] == {"train_stage.py": code_digest(script, ROOT)}
    said = eagle3("status", "small")
    assert "done  dataset" in said and "next  embedded_target" in said


def test_a_checkout_uses_itself(tmp_path: Path) -> None:
    assert project_root() == ROOT
    assert package_of(ROOT) == ROOT / "eagle3"
    assert import_folders(ROOT, tmp_path / "library") == [str(ROOT)]
    assert not (tmp_path / "library").exists()


def test_a_link_to_another_library_is_replaced(tmp_path: Path) -> None:
    folder, project = tmp_path / "library", tmp_path / "project"
    folder.mkdir()
    project.mkdir()
    (folder / "eagle3").symlink_to(tmp_path)
    assert import_folders(project, folder) == [str(project), str(folder)]
    assert (folder / "eagle3").resolve() == ROOT / "eagle3"


def test_sources_of_an_installed_script_are_those_of_a_checkout(tmp_path: Path) -> None:
    """Digests would be of the script alone if the library were looked for beside it."""
    for name in ("workflow_scripts", "envs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    here = sources(ROOT / "workflow_scripts" / "make_plan.py", ROOT)
    there = sources(tmp_path / "workflow_scripts" / "make_plan.py", tmp_path)
    assert len(there) == len(here) > 20
