"""The hosted CI and the hooks before a commit run what the Makefile runs, in its versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ci.test_legs import ROOT, legs, targets_of

WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())
HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())[
    "repos"
][0]["hooks"]
PINNED = dict(
    line.lower().split("==")
    for line in (ROOT / "envs" / "constraints.txt").read_text().splitlines()
    if "==" in line
)


def scripts(job: str) -> list[str]:
    return [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


@pytest.mark.parametrize("target", ["check", "test"])
def test_a_job_runs_the_target_of_its_name(target: str) -> None:
    assert scripts(target) == [f"make {target}"]
    assert targets_of(target)


@pytest.mark.skipif(not shutil.which("jq"), reason="hosted runners have jq")
@pytest.mark.parametrize(("everything", "due"), [("true", set(legs.LEGS)), ("false", None)])
def test_the_matrix_is_the_legs_that_are_due(
    tmp_path: Path, everything: str, due: set[str] | None
) -> None:
    """The step itself, run as the runner would: GITHUB_OUTPUT is then one line of JSON."""
    (script,) = scripts("due")
    output = tmp_path / "output"
    base = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = os.environ | {"ALL": everything, "BASE": base, "GITHUB_OUTPUT": str(output)}
    script = script.replace("legs.txt", str(tmp_path / "legs.txt"))
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, check=True, env=environment
    )
    (line,) = output.read_text().splitlines()
    result = json.loads(line.removeprefix("legs="))
    assert set(result) == due if due else result and set(result) <= set(legs.LEGS)


def test_no_secret_is_used() -> None:
    text = (ROOT / ".github/workflows/ci.yaml").read_text()
    assert "secrets." not in text
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_hooks_have_the_pinned_versions() -> None:
    for hook in HOOKS:
        for requirement in hook.get("additional_dependencies", []):
            name, version = requirement.split("==")
            assert PINNED[name] == version, name


def test_hooks_run_the_commands_of_make_check() -> None:
    """All of them but `snakemake --lint`, which needs the whole environment."""
    commands = re.findall(
        r"snakefmt --check|mypy|ruff check|ruff format --check", targets_of("check")
    )
    for command in commands:
        words = set(command.split())
        assert any(
            words <= {Path(word).name for word in hook["entry"].split()} for hook in HOOKS
        ), command
    assert len(HOOKS) == len(commands) == 4
