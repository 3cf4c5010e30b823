"""A real image, and a copy of the project in a place that no container sees by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rules.workflow import ROOT, snakemake

VARIABLE = "EAGLE3_CONTAINER_BASE"
# a rule of the test's own: where the packages of a job come from
WITNESS = """
rule witness:
    output:
        "witness.txt",
    container:
        IMAGE
    shell:
        "python -c 'import sys, torch, transformers, eagle3;"
        " print(sys.prefix, torch.__file__, transformers.__file__, eagle3.__file__, sep=chr(10))'"
        " > {output:q}"
"""


@pytest.fixture(scope="session")
def image() -> Path:
    """The project's image, built as a person would; every test here is skipped without a base."""
    base = os.environ.get(VARIABLE)
    if not base:
        pytest.skip(f"{VARIABLE} names no base image: run `make test-container`")
    done = subprocess.run(
        [str(ROOT / "envs" / "build_image.sh"), "eagle3"],
        env=os.environ | {"BASE": base, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1].removesuffix(" is there already"))


@pytest.fixture(scope="session")
def area(image: Path) -> Iterator[Path]:
    """A folder outside /tmp and the home directory, both of which Apptainer shows unasked."""
    folder = Path(tempfile.mkdtemp(prefix="eagle3-container-", dir="/srv"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def project(area: Path, image: Path) -> Path:
    """A copy of the project with the witness rule and the image."""
    folder = area / "project"
    folder.mkdir()
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(ROOT / name, folder)
    skipped = shutil.ignore_patterns("__pycache__", "images")
    for name in ("data", "docs", "eagle3", "envs", "profiles", "rules", "workflow_scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    (folder / "envs" / "images").mkdir()
    (folder / "envs" / "images" / image.name).symlink_to(image)
    with open(folder / "Snakefile", "a") as file:
        file.write(WITNESS)
    return folder


@pytest.fixture(scope="session")
def hostile(area: Path) -> Iterator[None]:
    """A host whose python, torchrun, torch and transformers would fail any job that found them."""
    folder = area / "hostile"
    folder.mkdir()
    for name in ("python", "python3", "torchrun"):
        program = folder / name
        program.write_text("#!/bin/sh\necho this is the host >&2\nexit 9\n")
        program.chmod(0o755)
    for name in ("torch", "transformers"):
        (folder / f"{name}.py").write_text("raise ImportError('this is the host')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(folder))
        yield


@pytest.fixture(scope="session")
def local(area: Path, project: Path) -> Path:
    """A folder with a run of the environment that runs the tests."""
    folder = area / "local"
    folder.mkdir()
    outcome = snakemake(folder, root=project)
    assert outcome.code == 0, outcome.text[-6000:]
    return folder


@pytest.fixture(scope="session")
def inside(area: Path, project: Path, local: Path, hostile: None) -> Path:
    """A folder with a run in containers."""
    folder = area / "inside"
    folder.mkdir()
    outcome = snakemake(folder, "--sdm", "apptainer", root=project)
    assert outcome.code == 0, outcome.text[-6000:]
    return folder
