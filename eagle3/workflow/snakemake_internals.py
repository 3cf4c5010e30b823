"""The undocumented parts of Snakemake that this project uses, in one place.

Each is an attribute of the object `workflow` of a Snakefile, or of an object in it. A test reads
all of them from the installed Snakemake, so a version that changes one fails there, by name.
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
        """Configuration files, from --configfile or the Snakefile."""
        return list(map(str, self._workflow.configfiles))

    @property
    def deployment_methods(self) -> list[str]:
        """Methods of --sdm, in lower case."""
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
        """Remove the benchmark of a rule."""
        self._workflow.get_rule(rule)._benchmark = None

    def asks_for(self, path: str) -> bool:
        """Whether a job of the DAG, run or not, outputs the file; call it once the DAG is built."""
        return any(path in job.output for job in self._workflow.dag.jobs)

    def images(self) -> Collection[str]:
        """Container images of the DAG; call it once the DAG is built."""
        images: Collection[str] = self._workflow.dag.container_imgs
        return images

    def most_requested(self, resource: str) -> int:
        """The largest request of a job that is about to run; call it once the DAG is built."""
        jobs = self._workflow.dag.needrun_jobs()
        return max((job.resources.get(resource, 0) for job in jobs), default=0)

    def runs_on_this_machine(self) -> bool:
        """Whether jobs run on this machine. The executor is unknown when the Snakefile is read, but
        Snakemake sets a number of nodes for every executor except the local one."""
        return self.plans and self._workflow.resource_settings.nodes is None

    def has_limit(self, resource: str) -> bool:
        """Whether the resource has a limit already, such as the user's."""
        return resource in self._workflow.global_resources

    def limit(self, resource: str, available: int) -> None:
        """Limit a resource for all jobs together. Call it while the Snakefile is read: the
        scheduler copies the limits, and amounts taken from a later one would never be released."""
        self._workflow.register_resource(resource, available)
