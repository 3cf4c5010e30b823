"""How many GPUs Snakemake hands out on one machine: those that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3.gpus import visible_gpus


def limit_local_gpus(workflow: Any, most: int, environment: Mapping[str, str]) -> None:
    """Limit the resource `gpu` of a local run to the visible devices; call it at parse time.

    `most` is what the largest job asks for, 0 on a CPU. Snakemake trims a job's resources to the
    limit without a word, so there is none below `most`: such a job fails in the launcher, with a
    sentence. A limit of the user's own stays.
    """
    # the executor is not known yet, but Snakemake gives every one but its own a number of nodes
    local = workflow.is_main_process and workflow.resource_settings.nodes is None
    if most == 0 or not local or "gpu" in workflow.global_resources:
        return
    found = len(visible_gpus(environment))
    if found >= most:
        # before the scheduler exists, which copies the limits: later they would never be given back
        workflow.register_resource("gpu", found)
