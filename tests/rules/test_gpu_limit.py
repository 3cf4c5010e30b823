"""Local runs use as many GPUs at a time as there are, in real Snakemake calls on false devices."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from eagle3.workflow.gpu_limit import limit_local_gpus
from eagle3.workflow.snakemake_internals import SnakemakeInternals
from tests.builders.models import save_model, save_tokenizer
from tests.rules.workflow import ROOT, snakemake

SNAKEFILE = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from eagle3.workflow.gpu_limit import limit_local_gpus
from eagle3.workflow.snakemake_internals import SnakemakeInternals

limit_local_gpus(SnakemakeInternals(workflow), {{"most": config["most"]}}, os.environ)

rule all:
    input: expand("{{number}}.done", number=range(3))

rule job:
    output: "{{number}}.done"
    resources: gpu=config["most"]
    shell: "echo +1 >> events; sleep 1; echo -1 >> events; touch {{output}}"
"""


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """So many devices, by an nvidia-smi that comes first in PATH."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    lines = (f"echo 'GPU {number}: F (UUID: GPU-{number:02d})'" for number in range(count))
    program.write_text("\n".join(["#!/bin/sh", *lines]))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two of them."""
    pretend(tmp_path, monkeypatch, 2)
    return tmp_path


def at_once(folder: Path, most: int, *arguments: str) -> tuple[int, str]:
    """How many jobs ran at the same time at most, and what Snakemake printed."""
    (folder / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "--cores", "8", *arguments]
    command += ["--config", f"most={most}"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    running, peak = 0, 0
    for line in (folder / "events").read_text().splitlines():
        running += int(line)
        peak = max(peak, running)
    return peak, done.stderr


@pytest.mark.dag
@pytest.mark.parametrize(("given", "limit"), [((), 2), (("--resources", "gpu=1"), 1)])
def test_one_gpu_jobs_run_at_most_as_many_as_devices_or_as_the_user_says(
    devices: Path, given: tuple[str, ...], limit: int
) -> None:
    peak, text = at_once(devices, 1, *given)
    assert peak <= limit
    assert f'Provided resources: gpu=Resource("gpu", {limit})' in text


@pytest.mark.dag
def test_jobs_that_need_all_devices_run_one_at_a_time(devices: Path) -> None:
    assert at_once(devices, 2)[0] == 1


@pytest.mark.dag
@pytest.mark.parametrize(("device", "limit"), [("cuda", True), ("cpu", False)])
def test_the_workflow_limits_itself_if_it_uses_gpus(
    devices: Path, device: str, limit: bool
) -> None:
    outcome = snakemake(devices, change={"resources": {"device": device}}, target="dataset")
    assert outcome.code == 0, outcome.text
    assert ('Provided resources: gpu=Resource("gpu", 2)' in outcome.text) == limit


@pytest.mark.dag
def test_more_gpus_than_there_are_is_a_warning_in_a_plan_and_an_error_before_the_first_job(
    devices: Path,
) -> None:
    change = {
        "resources": {"device": "cuda", "train": {"processes": 3}},
        "train": {"packs_per_batch": 3},
    }
    sentence = "resources.train.processes is 3, but this machine has 2 GPUs"
    planned = snakemake(devices, "-n", "--quiet", "rules", change=change)
    assert planned.code == 0 and f"warning: {sentence}" in planned.text
    # what needs no GPU runs: the plan is made on any machine
    some = snakemake(devices, change=change, target="results/small/dataset/rows.jsonl")
    assert some.code == 0, some.text
    refused = snakemake(devices, change=change)
    assert refused.code == 1 and not refused.jobs.total()
    assert f"\nerror: {sentence}" in refused.text and "WorkflowError" not in refused.text


@pytest.mark.dag
def test_readmes_example_plans_one_gpu_for_each_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied as it is, to a machine with one GPU: nothing of the demo is in it."""
    pretend(tmp_path, monkeypatch, 1)
    (block,) = re.findall(r"```yaml\n(# my\.yaml\n.*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "my.yaml").write_text(block)
    config = yaml.safe_load(block)
    (tmp_path / config["dataset"]["source"]).write_text('{"conversations": []}\n')
    model = tmp_path / config["target"]["model"]
    save_model(model, "llama", vocab_size=32000, max_position_embeddings=4096)
    save_tokenizer(model)
    planned = snakemake(tmp_path, "-n", "--quiet", "rules", overlay=tmp_path / "my.yaml")
    assert planned.code == 0 and "warning" not in planned.text, planned.text
    outcome = snakemake(tmp_path, "-n", "--printshellcmds", overlay=tmp_path / "my.yaml")
    gpus = {int(count) for count in re.findall(r"--gpus (\d+)", outcome.text)}
    assert gpus == {1}


def limited(most: int, visible: str, **changes: object) -> dict[str, int]:
    """The limits of a workflow of which Snakemake knows what `changes` say."""
    resources: dict[str, int] = {}
    known = {
        "is_main_process": True,
        "resource_settings": SimpleNamespace(nodes=None),
        "global_resources": resources,
        "register_resource": resources.__setitem__,
    }
    snakemake = SnakemakeInternals(SimpleNamespace(**(known | changes)))
    limit_local_gpus(snakemake, {"any": most}, {"CUDA_VISIBLE_DEVICES": visible, "PATH": ""})
    return resources


def test_no_limit_is_set_where_it_would_be_wrong() -> None:
    assert limited(1, "0,1,2") == {"gpu": 3}
    assert limited(0, "0,1,2") == {}  # on a CPU
    assert limited(4, "0,1,2") == {}  # a job of 4 would become one of 3
    assert limited(1, "") == {}
    assert limited(1, "0,1,2", resource_settings=SimpleNamespace(nodes=100)) == {}  # a cluster
    assert limited(1, "0,1,2", is_main_process=False) == {}  # a job's own Snakemake
