"""snakedeploy and Snakemake take this workflow out of a repository of GitHub.

Both are the real ones; git is told to find the repository on this machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rules.workflow import ROOT, Outcome, write_overlay

URL = "https://github.com/owner/drafts"
DEPLOY = (
    "import sys; from pathlib import Path; from snakedeploy.deploy import deploy; "
    "deploy(sys.argv[1], None, 'v1', None, Path(sys.argv[2]))"
)


@pytest.fixture
def deployed(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder as snakedeploy makes it from the tracked files, and the environment for it."""
    settings = tmp_path / "gitconfig"
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": str(settings),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }

    def git(*words: str, folder: Path = ROOT) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    repository = tmp_path / "repository"
    for name in git("ls-files", "-z").split("\0")[:-1]:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (repository / name).write_bytes((ROOT / name).read_bytes())
    for key, value in {
        "user.name": "somebody",
        "user.email": "somebody@example.org",
        f"url.file://{repository}.insteadOf": URL,
    }.items():
        git("config", "--file", str(settings), key, value)
    git("init", "--quiet", folder=repository)
    git("add", "--all", folder=repository)
    git("commit", "--quiet", "--message", "All", folder=repository)
    git("tag", "v1", folder=repository)
    folder = tmp_path / "user"
    subprocess.run(
        [sys.executable, "-c", DEPLOY, URL, str(folder)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert (
        'github("owner/drafts", path="Snakefile", tag="v1")'
        in (folder / "workflow" / "Snakefile").read_text()
    )
    overlay = write_overlay(folder)
    (folder / "config" / "config.yaml").write_bytes(overlay.read_bytes())
    return folder, environment


def snakemake(folder: Path, environment: dict[str, str], *words: str) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Outcome(done.returncode, done.stdout + done.stderr)


@pytest.mark.dag
@pytest.mark.long
def test_a_deployed_workflow_runs_with_the_installed_package(
    deployed: tuple[Path, dict[str, str]],
) -> None:
    folder, environment = deployed
    outcome = snakemake(folder, environment, "--until", "schedule")
    assert outcome.code == 0, outcome.text[-4000:]
    assert dict(outcome.jobs) == {
        "embedded_target": 1,
        "dataset": 1,
        "tokens": 2,
        "schedule": 1,
    }
    assert list(folder.glob("results/*/schedule.json"))
    assert snakemake(folder, environment, "-n", "train").code == 0


@pytest.mark.dag
def test_another_version_of_the_package_is_refused(
    deployed: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, environment = deployed
    words = ["git", "-C", str(tmp_path / "repository")]
    versions = tmp_path / "repository" / "rules" / "stage_versions.yaml"
    versions.write_text(versions.read_text() + "# newer\n")
    for more in (["commit", "--quiet", "--all", "--message", "Newer"], ["tag", "v2"]):
        subprocess.run([*words, *more], env=environment, check=True)
    snakefile = folder / "workflow" / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace("v1", "v2"))
    outcome = snakemake(folder, environment, "-n")
    assert outcome.code == 1
    assert "error: this workflow and the installed package eagle3" in outcome.text
    assert "Traceback" not in outcome.text
