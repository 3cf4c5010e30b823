"""The profile of clusters, as far as it can be seen without one (tests/slurm has one)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.rules.workflow import ROOT, snakemake


@pytest.mark.dag
def test_the_slurm_profile_plans_the_same_work_on_a_machine_without_slurm(finished: Path) -> None:
    change = {"train": {"learning_rate": 2.0e-3}}
    here = snakemake(finished, "-n", change=change)
    there = snakemake(finished, "-n", "--profile", str(ROOT / "slurm"), change=change)
    assert there.code == 0, there.text[-3000:]
    assert here.jobs == there.jobs
    assert "set-resources" not in here.text  # what the jobs ask for: tests/slurm
    assert snakemake(finished, "-n", "--profile", str(ROOT / "slurm")).idle


def test_names_of_a_cluster_are_in_its_profile_alone() -> None:
    names = ("slurm", "gres", "partition")
    for path in [*(ROOT / "rules").glob("*.smk"), ROOT / "Snakefile", ROOT / "config.yaml"]:
        assert not any(name in path.read_text() for name in names), path.name
    everywhere = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    for_slurm = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    # the default profile would override the other one key by key
    assert not everywhere.keys() & for_slurm.keys()


def test_every_rule_that_takes_gpus_goes_to_their_partition() -> None:
    rule = re.compile(r"^ *(?:use )?rule (\w+)(?: as (\w+) with)?:\n((?:^ +.*\n|^\n)*)", re.M)
    takes: set[str] = set()
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for name, other, text in rule.findall(path.read_text()):
            if "gpu=gpus(" in text or name in takes:
                takes.add(other or name)
    assert {"hidden_states", "held_out_states", "import_held_out", "train_stage"} <= takes
    asked = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["set-resources"]
    # answers of a server need none: the profile has the lines for the other engine as a comment
    for name in takes - {"regenerate"}:
        assert asked.get(name, {}).get("slurm_partition") == "gpu", name
