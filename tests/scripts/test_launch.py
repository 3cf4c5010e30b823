"""How jobs start: alone, under torchrun, and on the nodes of a Slurm allocation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eagle3.errors import UserError
from workflow_scripts.launch import check_processes, cluster_command, local_command

ROOT = Path(__file__).resolve().parents[2]
RANKS_SEEN = "tests.builders.ranks_seen"
TORCHRUN = [sys.executable, "-m", "workflow_scripts.torchrun"]
STALE = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "gone",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "old",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


def launch(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    inherited |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "workflow_scripts.launch", *words]
    return subprocess.run(
        command,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_one_process_is_python_and_several_are_torchruns():
    job = ["package.module", "--settings", '{"a": "b c"}', "--", "-x"]
    assert local_command(job, 1) == [sys.executable, "-m", *job]
    assert local_command(job, 3) == [
        *TORCHRUN,
        *("--standalone", "--nproc-per-node", "3", "-m"),
        *job,
    ]


def test_nodes_are_those_of_the_slurm_job_and_meet_at_a_port_of_their_own():
    command = cluster_command(["module", "--out", "o"], 4, 2, "15007", "node1")
    assert command == [
        *("srun", "--nodes", "2", "--ntasks", "2"),
        *("--cpu-bind=none", "--kill-on-bad-exit=1"),
        *TORCHRUN,
        *("--nnodes", "2", "--nproc-per-node", "4"),
        *("--rdzv-backend", "c10d", "--rdzv-id", "15007", "--rdzv-endpoint", "node1:15007"),
        *("-m", "module", "--out", "o"),
    ]
    last = cluster_command(["module"], 1, 2, "14999", "node1")
    assert "node1:29999" in last


@pytest.mark.parametrize("processes", [1, 2])
def test_ranks_left_over_in_the_environment_mislead_no_job(tmp_path, processes):
    words = [
        "--gpus",
        "0",
        "--processes",
        str(processes),
        "--",
        "tests.builders.ranks_seen",
        str(tmp_path),
    ]
    done = launch(*words, "--", "a b", **STALE)
    assert done.returncode == 0, done.stderr
    result = sorted(path.read_text() for path in tmp_path.iterdir())
    assert result == [f"{rank} {processes} ['--', 'a b']" for rank in range(processes)]


def test_a_failing_job_fails_the_launch():
    done = launch("--gpus", "0", "--processes", "1", "--", "no_such_module")
    assert done.returncode == 1
    assert "No module named no_such_module" in done.stderr


def test_several_nodes_outside_slurm_are_one_sentence():
    done = launch(
        "--gpus", "0", "--processes", "1", "--nodes", "2", "--", "tests.builders.ranks_seen"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --nodes is 2, and several nodes need a Slurm allocation")
    assert done.stderr.count("\n") == 1


def test_in_an_allocation_srun_gets_the_host_name_of_its_first_node(tmp_path):
    """As it is in a job step of Snakemake, where SLURM_JOB_ID is all that is left of the job."""
    programs = {
        "scontrol": 'case "$3 $4" in\n'
        '"job 42") echo "JobId=42 ReqNodeList=(null) NodeList=n[3-4] NumNodes=2" ;;\n'
        '"node n[3-4]") echo "NodeName=n3 NodeAddr=10.0.0.3 NodeHostName=host3 Version=1"\n'
        '  echo "NodeName=n4 NodeAddr=10.0.0.4 NodeHostName=host4 Version=1" ;;\n'
        "*) exit 1 ;;\n"
        "esac",
        "srun": 'echo "$@"; echo "rank ${RANK-unset}"',
    }
    for name, body in programs.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    words = ["--gpus", "8", "--processes", "4", "--nodes", "2", "--", "module", "x"]
    done = launch(*words, PATH=path, SLURM_JOB_ID="42", **STALE)
    assert done.returncode == 0, done.stderr
    expected = cluster_command(["module", "x"], 4, 2, "42", "host3")
    assert done.stdout.splitlines() == [" ".join(expected[1:]), "rank unset"]
    done = launch(*words, PATH=path, SLURM_JOB_ID="43")
    assert done.returncode == 1
    assert done.stderr.startswith("error: `scontrol --oneliner show job 43` failed: ")


def test_a_process_without_a_gpu_of_its_own_is_refused():
    check_processes(2, 2)
    check_processes(1, 4)  # SGLang starts its ranks itself
    with pytest.raises(UserError, match="4 processes need a GPU each and the job has 2"):
        check_processes(4, 2)
