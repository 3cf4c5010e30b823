"""Another workflow loads this one as a module, beside rules of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from eagle3.run import load_run
from tests.rules.workflow import ROOT, Outcome, merged, summary_in, write_overlay

OUTER = f"""
configfile: "outer.yaml"

module draft:
    snakefile: "{ROOT}/Snakefile"
    config: config["draft"]

use rule * from draft as draft_*

rule count:
    default_target: True
    input: rules.draft_schedule.output
    output: "steps.txt"
    shell: "grep -c first_step {{input}} > {{output}}"
"""


AFTER = f"""
module draft:
    snakefile: "{ROOT}/Snakefile"
    config: config

use rule * from draft as draft_*

onsuccess:
    draft.print_summary()

rule count:
    input: rules.draft_report.output
    output: "pages.txt"
    shell: "ls {{input[0]}} | wc -l > {{output}}"
"""


@pytest.mark.dag
def test_another_workflow_can_say_what_came_of_the_run(copy: Path) -> None:
    (copy / "Snakefile").write_text(AFTER)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "overlay.yaml"]
    done = subprocess.run(
        [*command, "--", "count"],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    outcome = Outcome(done.returncode, done.stdout + done.stderr)
    assert outcome.code == 0, outcome.text[-4000:]
    assert not outcome.jobs  # what was finished stays so: the rule `count` has no message
    assert (copy / "pages.txt").read_text() == "1\n"
    assert len(summary_in(outcome)) == 5


@pytest.mark.dag
def test_rules_of_another_workflow_use_what_this_one_makes(tmp_path: Path) -> None:
    overlay = write_overlay(tmp_path)
    config = merged(yaml.safe_load(overlay.read_text()), {"run": "inner"})
    (tmp_path / "outer.yaml").write_text(yaml.safe_dump({"draft": config}))
    (tmp_path / "Snakefile").write_text(OUTER)
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    outcome = Outcome(done.returncode, done.stdout + done.stderr)
    assert outcome.code == 0, outcome.text[-4000:]
    assert dict(outcome.jobs) == {"embedded_target": 1, "dataset": 1, "tokens": 2, "schedule": 1}
    assert (tmp_path / "steps.txt").read_text() == "2\n"  # stages of the small configuration
    assert load_run(tmp_path / "results" / "inner").config.run == "inner"
