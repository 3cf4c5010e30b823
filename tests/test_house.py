"""The structure of the code, kept by tests: rooms, their order, their size, and what is banned."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
# in the order data flows: a room may import from itself and from those before it
ROOMS = (
    "errors",
    "progress",
    "parallel",
    "files",
    "kernels",
    "config",
    "paths",
    "data",
    "tokens",
    "run",
    "target_model",
    "store",
    "engines",
    "capture",
    "imports",
    "draft",
    "objective",
    "training",
    "export",
    "evaluation",
    "report",
    "checks",
    "workflow",
    "api",
    "cli",
)
SOURCES = sorted((ROOT / "eagle3").rglob("*.py"))
CODE = [*SOURCES, *(ROOT / "workflow_scripts").glob("*.py"), *(ROOT / "rules").glob("*")]


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "eagle3").with_suffix("").parts
    return parts[0]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    if path.parent == ROOT / "eagle3" and path.stem in ("__init__", "__main__"):
        return
    assert room(path) in ROOMS
    for name in imported(path):
        assert not name.startswith(("snakemake", "rules", "workflow_scripts")), name
        if name.startswith("eagle3."):
            assert ROOMS.index(name.split(".")[1]) <= ROOMS.index(room(path)), name


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_and_hold_nothing_dangerous(path: Path) -> None:
    if path.is_dir():
        return
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    banned = r"\bpickle\b|shell=True|trust_remote_code=True|except:|except Exception"
    assert not re.search(banned, text)
    loads = re.findall(r"torch\.load\(.*", text)  # in one file, which says why, and runs nothing
    assert len(loads) == (path.name == "torch_file.py")
    assert all("weights_only=True)" in call for call in loads)


def test_no_drawers() -> None:
    rooms = ("eagle3", "workflow_scripts", "rules", "tests", "data")
    names = {path.stem for name in rooms for path in (ROOT / name).rglob("*.py")}
    assert not names & {"util", "utils", "helper", "helpers", "misc", "common"}


def test_the_conda_environment_has_the_versions_of_the_constraints() -> None:
    pinned = dict(
        line.lower().split("==")
        for line in (ROOT / "envs" / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    environment = yaml.safe_load((ROOT / "envs" / "eagle3.yaml").read_text())
    (listed,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    for requirement in listed:
        name, version = requirement.split("==")
        assert pinned[name] == version, name


def test_every_rule_says_what_it_does_and_what_it_depends_on() -> None:
    for path in (ROOT / "rules").glob("*.smk"):
        for rule in re.split(r"\n\s*rule ", "\n" + path.read_text())[1:]:
            name = rule.split(":", 1)[0]
            own = re.split(r"\n\s*use rule ", rule)[0]
            for part in ("log", "benchmark", "message", "shell"):
                assert re.search(rf"\n\s+{part}:", own), (name, part)
            assert re.match(r'\w+:\n\s+"""', rule), name
            assert re.search(rf'message:\n\s+f?"{name}: ', own), name  # tests count jobs by it
            params = re.findall(r"params:\n((?:\s+[*\w].*,\n)+)", own)
            assert params and re.fullmatch(
                r"\s+\*(export_)?settings\(.*\),\n\s+(code|version|version_of_shard)\(.*\),\n",
                params[0],
            ), (name, params)


def test_no_rule_uses_ancient() -> None:
    """On a file that a rule makes it would hide needed work (Snakemake issue 4166)."""
    for path in (ROOT / "rules").glob("*.smk"):
        assert "ancient(" not in path.read_text(), path.name


def test_the_objective_meets_ranks_and_buckets_in_one_file() -> None:
    """`dispatch` plugs both in; a pack only carries its shards."""
    room = ROOT / "eagle3" / "objective"
    users = {}
    for plug in ("sequence_parallel", "bucketing"):
        users[plug] = {
            path.name
            for path in (*room.glob("*.py"), *room.glob("attention/*.py"))
            if any(name.startswith(f"eagle3.objective.{plug}") for name in imported(path))
        }
    assert users == {"sequence_parallel": {"dispatch.py", "pack.py"}, "bucketing": {"dispatch.py"}}
