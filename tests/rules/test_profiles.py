"""The profile of clusters, as far as it can be seen without one (tests/slurm has one)."""

from __future__ import annotations

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
