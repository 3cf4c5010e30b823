"""Which job of which run a command line names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eagle3.errors import UserError
from eagle3.files.artifact import Settings
from eagle3.run import VARIABLE, load_run
from tests.builders.run_file import PATHS, save_run
from workflow_scripts import entry

SETTINGS = Settings("tokens", {"tokens": {"max_length": 64}}, {"dataset": "abc"})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a run; its folder is the working directory."""
    monkeypatch.chdir(tmp_path)
    return save_run(tmp_path / "runs", [SETTINGS], "models/any", dataset={"num_samples": 7})


def test_a_job_is_read_back_as_it_was_planned(run: Path) -> None:
    job = entry.read_job(None, ["--run-file", str(run), "--split", "eval", "--shard", "3"])
    assert (job.split, job.shard, job.stage, job.threads) == ("eval", 3, 0, 1)
    assert job.settings("tokens") == SETTINGS
    assert job.run.config.dataset.num_samples == 7 and job.run.target == "models/any"


def test_snakemake_names_the_run_by_a_variable(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(run))
    assert entry.read_job(None, ["--stage", "2"]).stage == 2
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(SystemExit):
        entry.read_job(None, ["--stage", "2"])


def test_a_job_leaves_its_run_beside_the_results(run: Path) -> None:
    job = entry.read_job(None, ["--run-file", str(run)])
    assert load_run(PATHS.out) == job.run == load_run(PATHS.snapshot)
    other = save_run(run.parent, [SETTINGS], "models/other")
    assert entry.read_job(None, ["--run-file", str(other)]).run == load_run(PATHS.out) != job.run


def test_what_is_no_run_is_named(run: Path) -> None:
    with pytest.raises(UserError, match=r"results/none/run\.json|results/none: no run can be read"):
        load_run("results/none")
    values = json.loads(run.read_text())
    for damage in ({"config": {}}, {"external": {}}, {"settings": {"tokens": {}}}):
        run.write_text(json.dumps(values | damage))
        with pytest.raises(UserError):
            load_run(run)
