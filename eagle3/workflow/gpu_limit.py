"""Limits the GPUs that Snakemake hands out on one machine to those that exist."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from eagle3.errors import UserError
from eagle3.parallel.gpus import visible_gpus
from eagle3.workflow.snakemake_internals import SnakemakeInternals


def limit_local_gpus(
    snakemake: SnakemakeInternals, wanted: Mapping[str, int], environment: Mapping[str, str]
) -> None:
    """Limit the resource `gpu` of a local run to the visible devices; call it at parse time.

    `wanted`: GPUs of the largest jobs by the key that sets them. If one exceeds the visible
    devices, a warning is printed and no limit is set, because Snakemake would silently trim the job
    to the limit: `check_local_gpus` refuses such a job before any starts. A limit set by the user
    stays.
    """
    largest = max(wanted.values())
    if largest == 0 or not _is_unlimited(snakemake):
        return
    available = len(visible_gpus(environment))
    if available >= largest:
        snakemake.limit("gpu", available)
    else:
        print(f"warning: {_sentence(wanted, available)}", file=sys.stderr)


def check_local_gpus(
    snakemake: SnakemakeInternals, wanted: Mapping[str, int], environment: Mapping[str, str]
) -> None:
    """Raise UserError if a job that is about to run wants more GPUs than this machine has."""
    if not _is_unlimited(snakemake):
        return
    largest = snakemake.most_requested("gpu")
    if largest and largest > (available := len(visible_gpus(environment))):
        raise UserError(_sentence(wanted, available))


def _is_unlimited(snakemake: SnakemakeInternals) -> bool:
    """Whether jobs run on this machine and the user has set no limit."""
    return snakemake.runs_on_this_machine() and not snakemake.has_limit("gpu")


def _sentence(wanted: Mapping[str, int], available: int) -> str:
    if not available:
        return (
            "resources.device is cuda, but no GPU was found here (nvidia-smi, "
            "CUDA_VISIBLE_DEVICES): everything up to the plan works without one; then use a "
            "machine with GPUs or a cluster (docs/cluster.md), or set resources.device to cpu"
        )
    large = ", ".join(f"{key} is {count}" for key, count in wanted.items() if count > available)
    return (
        f"{large}, but this machine has {available} GPU{'s' * (available > 1)} "
        "(nvidia-smi, CUDA_VISIBLE_DEVICES): lower it, set resources.device to cpu, or run on a "
        "cluster (docs/cluster.md)"
    )
