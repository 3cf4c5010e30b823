"""Sections `dataset` and `resources.regenerate`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
)

from eagle3.config.section import Name, Section, Text, matching

HELD_OUT_SHARD = 256  # maximum conversations of a held-out shard
TAGS = {str: "<string>", list: "<array>", dict: "<object>"}  # of an error's location, to pydantic


def tag_of(value: Any) -> str | None:
    """Tag of the union's type that a value is validated as."""
    return next((tag for kind, tag in TAGS.items() if isinstance(value, kind)), None)


class SourceEntry(Section):
    """One of several sources. Keys that it omits are those of section `dataset`."""

    source: Text = Field(description="As in the section.")
    subset: str | None = Field(default=None, description="Replaces that of the section.")
    split: str | None = Field(default=None, description="Replaces that of the section.")
    revision: str | None = Field(default=None, description="Replaces that of the section.")
    weight: float = Field(default=1.0, gt=0, description="Twice the weight takes twice the rows.")
    name: Name | None = Field(
        default=None,
        description="What the ids of its rows begin with; null is the name of the file or dataset.",
    )

    @model_serializer(mode="wrap")
    def _as_written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in serialize(self).items() if k in self.model_fields_set}


OneSource = Annotated[
    Annotated[Text, Tag(TAGS[str])] | Annotated[SourceEntry, Tag(TAGS[dict])], Discriminator(tag_of)
]
Address = Annotated[
    str,
    AfterValidator(
        matching(
            r"https?://[^,@\s]+",
            "must be an address without user or password, which every list of processes would show",
        )
    ),
]
Sources = Annotated[list[OneSource], Field(min_length=1)]


class Regenerate(Section):
    """Have the target write the answers itself, so that the draft learns from the text that it will
    predict (docs/datasets.md)."""

    backend: Literal["none", "server", "hf"] = Field(
        default="none",
        description="`none`: keep the answers of the dataset; `server`: send requests to "
        "servers that speak OpenAI's protocol (SGLang, vLLM), listed in "
        "resources.regenerate.servers; `hf`: run transformers in the job, for small targets.",
    )
    model: str | None = Field(
        default=None,
        description="Name of the model on the servers; null if they serve only one.",
    )
    temperature: float = Field(
        default=0.0, ge=0, le=2, description="Sampling temperature; 0 is greedy."
    )
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus sampling.")
    top_k: int | None = Field(
        default=None, ge=1, description="Sample from this many tokens; null samples from all."
    )
    max_tokens: int = Field(
        default=1024,
        ge=1,
        description="Maximum tokens of an answer. A conversation ends with an answer that is cut "
        "off there, and is trained up to the cut.",
    )
    seed: int = Field(
        default=0, ge=0, description="The seed of every answer is derived from this one."
    )


class Dataset(Section):
    """Where conversations come from, and how many are used."""

    source: Annotated[
        Annotated[Text, Tag(TAGS[str])] | Annotated[Sources, Tag(TAGS[list])], Discriminator(tag_of)
    ] = Field(
        default="data/demo_chat.jsonl",
        description="A local file or a folder of files (docs/datasets.md), `hub:<owner>/<name>` "
        "for a Hugging Face dataset, or a name of docs/datasets.md; or a list of these, whose "
        "entries may be mappings of `source`, `subset`, `split`, `revision`, `weight` and `name`.",
    )
    subset: str | None = Field(
        default=None,
        description="Hub datasets only: name of the subset. Datasets known by name also accept "
        "`all`.",
    )
    split: str | None = Field(
        default=None,
        description="Hub datasets only: the split to read. Null is `train`, or the one in "
        "docs/datasets.md.",
    )
    revision: str | None = Field(
        default=None,
        description="Hub datasets only: a commit, tag or branch. Null is the one in "
        "docs/datasets.md, or the latest for other datasets; pin it to make the run reproducible.",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the row order and of the split into train and eval."
    )
    num_samples: int = Field(
        default=512,
        ge=1,
        description="Training conversations to use, rounded up to whole shards. A higher number "
        "only adds shards.",
    )
    shard_size: int = Field(
        default=128,
        ge=1,
        description="Conversations per shard. A capture job loads the target for one shard, so "
        "large shards save time (docs/capture.md). Held-out shards have at most 256.",
    )
    eval_fraction: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Share of the rows to hold out from training, chosen by a hash of the id.",
    )
    deduplicate: bool = Field(
        default=False,
        description="Drop conversations that are equal to an earlier one, whatever their id.",
    )
    regenerate: Regenerate = Field(default_factory=Regenerate)
    max_bad_fraction: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="The dataset and token jobs fail if a larger share of the rows is unusable. "
        "This changes no output, so a new value re-runs nothing.",
    )

    def rows_of_shard(self, split: str) -> int:
        """Conversations of a shard of `split`. Held-out shards stay small, however large the
        training shards are, because whole shards are captured."""
        return self.shard_size if split == "train" else min(self.shard_size, HELD_OUT_SHARD)


class RegenerateResources(Section):
    """The jobs in which the target writes answers."""

    servers: list[Address] = Field(
        default=[],
        description="Base URLs, such as http://gpu-3:30000/v1. If they need a key, it is read "
        "from OPENAI_API_KEY.",
    )
    concurrency: int = Field(default=32, ge=1, description="Concurrent requests to each server.")
    batch: int = Field(default=16, ge=1, description="Conversations per batch with backend `hf`.")
    threads: int = Field(default=2, ge=1, description="CPU threads of a job.")
