"""Start a job that needs several processes or GPUs; the launcher becomes the job.

    python -m workflow_scripts.launch --gpus G [--processes P] [--nodes N] -- MODULE ARGUMENTS

One process runs as `python -m MODULE`, several under torchrun. Several nodes are those of the
current Slurm allocation, with P processes on each. Outside a scheduler's allocation G devices are
leased first (eagle3/parallel/gpu_leases.py).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, MutableMapping, Sequence

from eagle3.errors import UserError
from eagle3.parallel.gpu_leases import lease
from eagle3.parallel.gpus import VISIBLE, visible_gpus
from eagle3.parallel.launcher import LAUNCHER
from workflow_scripts import ending

# set by torchrun for its processes: left over from another job, they would mislead this one
RANKS = re.compile(
    "(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*"
)
ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
TORCHRUN = [sys.executable, "-m", "workflow_scripts.torchrun"]


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--gpus", type=int, required=True, help="GPUs of this job; 0: none is leased"
    )
    parser.add_argument("--processes", type=int, default=1, help="processes on each node")
    parser.add_argument("--nodes", type=int, default=1)
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    args, job = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    if not job:
        parser.error("no MODULE after --")
    environment = {k: v for k, v in os.environ.items() if not RANKS.fullmatch(k)}
    # seconds between torchrun's SIGTERM and SIGKILL: saving a large draft takes some, but ranks
    # that wait for a dead one never answer, and the job should end within a minute
    environment.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "50")
    if args.nodes > 1:
        job_id, host = allocation(args.nodes, environment)
        command = cluster_command(job, args.processes, args.nodes, job_id, host)
    else:
        command = local_command(job, args.processes)
        environment[LAUNCHER] = str(os.getpid())  # it becomes torchrun
        if args.gpus > 0:
            check_processes(args.processes, args.gpus)
            lease_gpus(environment, args.gpus, job[0])
    os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is wanted


def local_command(job: Sequence[str], processes: int) -> list[str]:
    """`job` (module and arguments) on this machine; torchrun costs seconds, so only if needed."""
    if processes == 1:
        return [sys.executable, "-m", *job]
    return [*TORCHRUN, "--standalone", "--nproc-per-node", str(processes), "-m", *job]


def cluster_command(
    job: Sequence[str], processes: int, nodes: int, job_id: str, host: str
) -> list[str]:
    """`job` on every node of a Slurm allocation, `processes` on each; `host`: rendezvous."""
    # below Linux's ephemeral ports, and different for the next job
    port = 15000 + int(job_id) % 15000
    srun = ["srun", "--nodes", str(nodes), "--ntasks", str(nodes)]
    # torchrun's children use all cores of the job; one dead node ends the others
    srun += ["--cpu-bind=none", "--kill-on-bad-exit=1"]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-id", job_id]
    rendezvous += ["--rdzv-endpoint", f"{host}:{port}"]
    ranks = ["--nnodes", str(nodes), "--nproc-per-node", str(processes)]
    return [*srun, *TORCHRUN, *ranks, *rendezvous, "-m", *job]


def allocation(nodes: int, environment: Mapping[str, str]) -> tuple[str, str]:
    """Id of the current Slurm job, and the host name of its first node."""
    job_id = environment.get("SLURM_JOB_ID")
    if job_id is None:
        raise UserError(
            f"--nodes is {nodes}, and several nodes need a Slurm allocation (SLURM_JOB_ID is not "
            "set): use Snakemake's slurm executor, or one node"
        )
    # queried, not read from SLURM_JOB_NODELIST, which Snakemake's job steps do not have; and
    # a node's name in Slurm may differ from the one that torchrun compares with its own
    node_list = _scontrol("NodeList", "job", job_id)
    return job_id, _scontrol("NodeHostName", "node", node_list)


def _scontrol(field: str, kind: str, name: str) -> str:
    """A field of Slurm's description of a job, or of the first of some nodes."""
    command = ["scontrol", "--oneliner", "show", kind, name]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        match = re.search(rf"\b{field}=(\S+)", result.stdout)
    except (OSError, subprocess.CalledProcessError) as fault:
        raise UserError(f"`{' '.join(command)}` failed: {fault}") from None
    if match is None:
        raise UserError(f"`{' '.join(command)}` does not report {field}")
    return match[1]


def check_processes(processes: int, gpus: int) -> None:
    """Raise UserError for more processes than GPUs."""
    if processes > gpus:
        raise UserError(
            f"{processes} processes need a GPU each and the job has {gpus}: raise Snakemake's "
            f"--resources gpu={gpus}, which trims jobs to it, or lower "
            "resources.capture.tensor_parallel or resources.train.processes"
        )


def lease_gpus(environment: MutableMapping[str, str], count: int, name: str) -> None:
    """Lease devices and hide all others from the job, unless a scheduler has allocated them."""
    gpus = visible_gpus(environment)
    if len(gpus) <= count and any(variable in environment for variable in ALLOCATIONS):
        return
    leased = lease(gpus, count, name, environment)
    environment[VISIBLE] = ",".join(gpu.name for gpu in leased)
    environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # numbers are nvidia-smi's


if __name__ == "__main__":
    ending.run(main)
