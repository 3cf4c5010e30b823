"""Sections `resources` and `hardware`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from eagle3.config.dataset import RegenerateResources
from eagle3.config.evaluation import EvaluateResources
from eagle3.config.hidden_states import CaptureResources, Containers
from eagle3.config.section import Section, matching
from eagle3.config.train import TrainResources

Prefix = Annotated[
    str,
    AfterValidator(
        matching(
            r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/(?!\.)[A-Za-z0-9_.=-]+)*",
            "must be s3://<bucket> or s3://<bucket>/<folder>, without a slash at the end",
        )
    ),
]


class Resources(Section):
    """Speed and placement only. No change here re-runs a job, except another image with --sdm
    apptainer."""

    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Device on which models run.")
    disk_budget_gb: float | None = Field(
        default=None,
        gt=0,
        description="Maximum disk space for hidden states, in GB (10^9 bytes); null is all free "
        "space.",
    )
    containers: Containers = Field(default_factory=Containers)
    storage_prefix: Prefix | None = Field(
        default=None,
        description="`s3://<bucket>/<folder>` for hidden states and checkpoints, instead of the "
        "disk (docs/storage.md). Endpoint and credentials come from the environment only. "
        "disk_budget_gb then has no effect.",
    )
    capture: CaptureResources = Field(default_factory=CaptureResources)
    regenerate: RegenerateResources = Field(default_factory=RegenerateResources)
    train: TrainResources = Field(default_factory=TrainResources)
    evaluate: EvaluateResources = Field(default_factory=EvaluateResources)


class Hardware(Section):
    """Figures for the plan's estimates; nothing else reads them."""

    tflops: float | None = Field(
        default=None,
        gt=0,
        description="Sustained TFLOP/s of one device. Null: a CPU is measured, in a second; of a "
        "GPU it is 40 % of the published peak.",
    )
    gpu: str | None = Field(
        default=None,
        min_length=1,
        description="Name of the GPU to plan for, such as `H100`; null is that of this machine.",
    )
    devices: int = Field(default=1, ge=1, description="Devices that work in parallel.")
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="Memory of one GPU, in GB (10^9 bytes), with which the plan compares what "
        "capture, a training step and evaluation need; null compares nothing.",
    )
