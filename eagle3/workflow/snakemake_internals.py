"""What this project uses of Snakemake that its documentation does not promise, in one place.

Each name here is an attribute of the object `workflow` of a Snakefile, or of what it holds. A test
reads all of them from the installed Snakemake, so a version that changes one fails there, by name.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


class SnakemakeInternals:
    """The run of Snakemake that reads this workflow."""

    def __init__(self, workflow: Any) -> None:
        self._workflow = workflow

    @property
    def plans(self) -> bool:
        """Whether this process plans jobs; others read the Snakefile again to run one."""
        return bool(self._workflow.is_main_process)

    @property
    def configfiles(self) -> list[str]:
        """Files of the configuration, of --configfile or of the Snakefile."""
        return list(map(str, self._workflow.configfiles))

    @property
    def deployment_methods(self) -> list[str]:
        """Those of --sdm."""
        methods = self._workflow.deployment_settings.deployment_method
        return sorted(method.name.lower() for method in methods)

    @property
    def caches_between_workflows(self) -> bool:
        """Whether --cache is given."""
        return bool(self._workflow.enable_cache)

    @property
    def s3_settings(self) -> Any:
        """Settings of the storage plugin for S3; None if there are none."""
        return self._workflow.storage_provider_settings.get("s3")

    def drop_benchmark(self, rule: str) -> None:
        """Have a rule measure nothing."""
        self._workflow.get_rule(rule)._benchmark = None

    def asks_for(self, path: str) -> bool:
        """Whether a job of the plan, run or not, makes the file; call it when the plan is made."""
        return any(path in job.output for job in self._workflow.dag.jobs)

    def images(self) -> Collection[str]:
        """Images of the plan's containers; call it when the plan is made."""
        found: Collection[str] = self._workflow.dag.container_imgs
        return found

    def most_requested(self, resource: str) -> int:
        """The largest request of a job that is about to run; call it when the plan is made."""
        jobs = self._workflow.dag.needrun_jobs()
        return max((job.resources.get(resource, 0) for job in jobs), default=0)

    def runs_on_this_machine(self) -> bool:
        """Whether jobs do. The executor is not known when the Snakefile is read, but Snakemake
        gives every one but its own a number of nodes."""
        return self.plans and self._workflow.resource_settings.nodes is None

    def has_limit(self, resource: str) -> bool:
        """Whether there is one already, such as the user's."""
        return resource in self._workflow.global_resources

    def limit(self, resource: str, available: int) -> None:
        """Limit a resource for all jobs together. Call it while the Snakefile is read: the
        scheduler copies the limits, and what is taken of a later one would never be given back."""
        self._workflow.register_resource(resource, available)
