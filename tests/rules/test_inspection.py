"""What people look at: pictures, summaries, Snakemake's report, and the catalogue's entry."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from jinja2 import StrictUndefined, Template

from tests.rules.workflow import ROOT, snakemake

pytestmark = pytest.mark.dag


def edges(names: dict[str, str], pairs: list[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(names[a], names[b]) for a, b in pairs}


def test_the_picture_of_the_rules_is_the_present_one(finished: Path) -> None:
    """docs/rulegraph.svg, made by `make rulegraph`."""
    dot = snakemake(finished, "--rulegraph", "dot").text
    names = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)"', dot, flags=re.MULTILINE))
    pairs = re.findall(r"^\s*(\d+) -> (\d+)$", dot, flags=re.MULTILINE)
    picture = (ROOT / "docs" / "rulegraph.svg").read_text()
    drawn = dict(re.findall(r"<title>(\d+)</title>.*?<text[^>]*>(\w+)</text>", picture, flags=re.S))
    arrows = re.findall(r"<title>(\d+)&#45;&gt;(\d+)</title>", picture)
    assert len(pairs) > 20
    assert edges(drawn, arrows) == edges(names, pairs), "make rulegraph"


@pytest.mark.long
def test_no_command_of_two_thousand_shards_is_too_long_for_the_system(tmp_path: Path) -> None:
    many = {"dataset": {"num_samples": 2000, "shard_size": 1}, "train": {"epochs": 1}}
    for more in ({}, {"hidden_states": {"window_shards": 20, "keep": False}}):
        planned = snakemake(tmp_path, "-n", "--printshellcmds", change=many | more)
        assert planned.code == 0, planned.text[-3000:]
        assert planned.jobs["hidden_states"] == 2000
        commands = [line for line in planned.text.splitlines() if "workflow_scripts" in line]
        assert len(commands) > 4000
        assert max(map(len, commands)) < 2**17 - 1000


@pytest.mark.long
def test_graphs_and_summaries_work(finished: Path) -> None:
    assert "flowchart TB" in snakemake(finished, "--rulegraph", "mermaid-js").text
    assert "digraph" in snakemake(finished, "--dag", "dot").text
    assert "train_stage" in snakemake(finished, "--summary").text
    assert "hidden_states" in snakemake(finished, "--list-rules").text


def test_snakemakes_report_has_captions_and_categories(copy: Path) -> None:
    made = snakemake(copy, "--report", "snakemake-report.html")
    assert made.code == 0, made.text[-3000:]
    page = (copy / "snakemake-report.html").read_text()
    for word in ("Evaluation", "Report", "Plan", "before any hidden state was captured"):
        assert word in page


@pytest.mark.parametrize("config", [{"run": "mine"}, {"draft": {"run": "mine"}}])
def test_captions_need_no_key_that_a_configuration_may_leave_out(config: dict[str, Any]) -> None:
    """Snakemake gives them what the user wrote, without defaults; of a module, all of it."""
    for path in sorted((ROOT / "docs" / "captions").glob("*.rst")):
        caption = Template(path.read_text(), undefined=StrictUndefined)
        said = caption.render(snakemake=SimpleNamespace(config=config))
        assert ("run ``mine``" in said) == ("run" in config and path.stem == "workflow"), path.name


def test_the_catalogue_names_what_the_workflow_supports() -> None:
    entry = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    stack = entry["usage"]["software-stack-deployment"]
    assert stack == {"conda": True, "apptainer": True, "apptainer+conda": False}
    assert json.dumps(entry["usage"]["report"]) == "true"
