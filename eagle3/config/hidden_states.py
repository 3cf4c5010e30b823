"""Sections `hidden_states`, `resources.capture` and `resources.containers`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from eagle3.config.section import Section, Text, distinct

MOST_LAYERS = 16  # that a draft reads; published EAGLE-3 drafts read three, other kinds five
IMPORTED = ("specforge", "speculators")  # kinds of sources that bring tokens and masks


def ascending(values: list[int]) -> list[int]:
    """A validator of lists whose entries must be ascending."""
    if values != sorted(values):
        raise PydanticCustomError("ascending", "must be ascending")
    return values


Layers = Annotated[
    list[Annotated[int, Field(ge=0)]],
    Field(min_length=1, max_length=MOST_LAYERS),
    AfterValidator(distinct),
    AfterValidator(ascending),
]


class StatesSource(Section):
    """Where the states come from: captured, or taken from files that exist (docs/import.md)."""

    kind: Literal["capture", "specforge", "speculators", "run"] = Field(
        default="capture",
        description="`capture`: the target runs. `specforge`: the folder that SpecForge's "
        "prepare_hidden_states.py wrote. `speculators`: the files of its offline data generation. "
        "`run`: the folder of another run with the same data, target, layers and codec.",
    )
    path: str | None = Field(
        default=None, min_length=1, description="The folder; needed for every kind but `capture`."
    )
    dataset: str | None = Field(
        default=None,
        min_length=1,
        description="Kind `speculators` only: the folder of the prepared dataset, with token ids "
        "and masks; null is `path` or the folder above it.",
    )
    check_template: bool = Field(
        default=True,
        description="Kinds `specforge` and `speculators`: refuse masks whose answers do not begin "
        "and end as the target's chat template has them.",
    )

    @property
    def imports(self) -> bool:
        """Whether tokens and masks come with the states."""
        return self.kind in IMPORTED


class HiddenStates(Section):
    """What is captured from the target, and how it is stored."""

    source: StatesSource = Field(default_factory=StatesSource)
    aux_layers: Layers | None = Field(
        default=None,
        description="Layers whose outputs the draft reads, one to 16, ascending and 0-based; null "
        "is `[1, n/2 - 1, n - 4]` for a target of n layers. Which engine takes another number than "
        "three: docs/serving.md.",
    )
    backend: Literal["hf", "sglang", "vllm"] = Field(
        default="hf",
        description="What runs the target (docs/engines.md): `hf` (transformers, any causal "
        "language model), `sglang` (SGLang 0.5.23 or newer) or `vllm` (vLLM 0.32 or newer), the "
        "latter two in an environment of their own.",
    )
    codec: Literal["bf16", "bf16_zstd", "fp8_e4m3", "fp8_e4m3_zstd", "int8", "nf4", "fp32"] = Field(
        default="bf16",
        description="Storage format of the states (docs/storage.md). bf16_zstd is lossless for "
        "bf16. fp8_e4m3 and int8 take half the space, nf4 a quarter. fp8_e4m3_zstd is fp8_e4m3, "
        "compressed.",
    )
    window_shards: int | None = Field(
        default=None,
        ge=1,
        description="Shards that one stage of training reads (docs/rolling.md); null reads all of "
        "them. A stage makes epochs_per_stage passes over its window, and the next stage reads the "
        "next window.",
    )
    keep: bool = Field(
        default=True,
        description="`false` is rolling mode: the states of a window are removed as soon as its "
        "stage is trained, and captured again when a later stage needs them. At most two windows "
        "are on the disk at a time.",
    )


class CaptureResources(Section):
    """The jobs that run the target."""

    threads: int = Field(default=1, ge=1, description="CPU threads of a capture job.")
    batch_tokens: int = Field(default=16384, ge=1, description="Maximum tokens of a forward pass.")
    tensor_parallel: int = Field(
        default=1,
        ge=1,
        description="Ranks that share one target; with device `cuda`, one GPU each.",
    )
    self_check: bool = Field(
        default=True,
        description="Capture one document of each shard again by a plain forward pass of "
        "transformers, and compare. With backend `sglang` or `vllm`, this loads the target twice.",
    )
    sglang_python: Text = Field(
        default="python",
        description="Python interpreter that has SGLang, a path or a name. Only used with backend "
        "`sglang` and without --sdm, which brings its own.",
    )
    sglang_arguments: dict[str, Any] = Field(
        default={},
        description="Further arguments of SGLang's Engine by their Python names, such as "
        "`{mem_fraction_static: 0.7}`. Arguments that would change the states are refused.",
    )
    vllm_python: Text = Field(
        default="python",
        description="Python interpreter that has vLLM, a path or a name. Only used with backend "
        "`vllm` and without --sdm, which brings its own.",
    )
    vllm_arguments: dict[str, Any] = Field(
        default={},
        description="Further arguments of vLLM's LLM by their Python names, such as "
        "`{gpu_memory_utilization: 0.7}`. Arguments that would change the states are refused.",
    )


class Containers(Section):
    """Images in which jobs run with --sdm apptainer (docs/containers.md): the path of an image
    file, or an address with its digest (`docker://…@sha256:…`). Null is the project's own
    definition, built by `make image`."""

    eagle3: str | None = Field(
        default=None,
        min_length=1,
        description="Image of every job except captures with SGLang or vLLM.",
    )
    sglang: str | None = Field(
        default=None,
        min_length=1,
        description="Image of captures with hidden_states.backend `sglang`.",
    )
    vllm: str | None = Field(
        default=None,
        min_length=1,
        description="Image of captures with hidden_states.backend `vllm`.",
    )
