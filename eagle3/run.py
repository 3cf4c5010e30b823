"""One configured run: its configuration, external files, settings and paths.

The rules build a `Run` from the configuration before any job starts. Jobs load the same object from
a file, so nothing about a run is stated twice:

    config.yaml -> Config -> Run -> rules     which files exist and what they depend on
                              |
                              +-> .snakemake/eagle3/<digest>.json -> jobs
                              +-> results/<run>/run.json          -> people, `load_run`
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from eagle3.config.configuration import Config
from eagle3.data.sources import Source
from eagle3.errors import UserError
from eagle3.files.artifact import NOT_OURS, Settings, canonical, digest, write_text
from eagle3.paths import Paths
from eagle3.tokens.stages import Stages

VARIABLE = "EAGLE3_RUN"  # environment variable with the file of a job's run


@dataclass(frozen=True)
class StatesFrom:
    """Existing states, of another project or of another run."""

    kind: str  # as in hidden_states.source
    place: str
    dataset: str | None = None  # folder of token ids and masks, of kind speculators
    digest: str = ""  # of the files of another project
    shards: tuple[str, ...] = ()  # of another run, such as train/shard-00003

    @property
    def name(self) -> str:
        """The folder's name."""
        return Path(self.place).name


@dataclass(frozen=True)
class External:
    """External files, and digests of their contents (a hub source is identified by its name)."""

    sources: tuple[Source, ...]
    source_digest: str
    embedded_source: str
    embedded_digest: str
    target: str | None  # None: a rule trains it
    tokenizer_digest: str
    weights_digest: str
    prompts: tuple[tuple[str, str], ...] = ()  # names and files of evaluation.prompts
    prompts_digest: str = ""
    warm_start: str | None = None  # folder of a draft to start from
    warm_start_digest: str = ""
    draft_config: Mapping[str, Any] = field(default_factory=dict)  # values of its file
    adapter: str | None = None  # folder of a LoRA adapter, which weights_digest includes
    tied: bool | None = None  # whether the output head is the input embedding; None: unknown yet
    states: StatesFrom | None = None  # None: they are captured
    target_dtype: str | None = None  # the type for target.dtype auto; None: config.json's

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> External:
        """The inverse of `asdict`."""
        sources = tuple(Source(**source) for source in values["sources"])
        prompts = tuple((name, place) for name, place in values["prompts"])
        states = values.get("states")
        if states:
            states = StatesFrom(**{**states, "shards": tuple(states.get("shards", ()))})
        return cls(**{**values, "sources": sources, "prompts": prompts, "states": states})


@dataclass(frozen=True)
class Run:
    """A run, as its rules and jobs see it.

    `settings`: values that affect the output of each stage. `code`: digests of the sources of the
    stages that resume unfinished work, by script.
    """

    config: Config
    external: External
    settings: Mapping[str, Settings]
    code: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def paths(self) -> Paths:
        return Paths(self.config.run, self.rolling)

    @property
    def rolling(self) -> bool:
        """Whether at most two windows of hidden states are on the disk at a time."""
        return not self.config.hidden_states.keep

    @property
    def target(self) -> str:
        """Folder of the target, or hub:<owner>/<name>."""
        return self.external.target or self.paths.embedded_target

    @property
    def target_files(self) -> list[str]:
        """Files of a target that a rule trains; empty for an external one, which has a digest."""
        return [] if self.external.target else self.paths.embedded_target_files

    @property
    def regenerates(self) -> bool:
        """Whether the target writes the answers itself."""
        return self.config.dataset.regenerate.backend != "none"

    @property
    def imports(self) -> bool:
        """Whether tokens and states come from files of another project."""
        return self.config.hidden_states.source.imports

    def shared_shards(self, split: str) -> list[str]:
        """Numbers, as in file names, of the shards whose states another run has."""
        source = self.external.states
        names = source.shards if source and source.kind == "run" else ()
        return [name.rpartition("-")[2] for name in names if name.startswith(f"{split}/")]

    @property
    def states_from(self) -> StatesFrom:
        """The source of states that are not captured. Raises UserError if they are captured."""
        if self.external.states is None:
            raise UserError("hidden_states.source.kind is 'capture', so there is nothing to import")
        return self.external.states

    @cached_property
    def shards(self) -> range:
        """Numbers of the training shards."""
        dataset = self.config.dataset
        return range(math.ceil(dataset.num_samples / dataset.shard_size))

    @cached_property
    def held_out(self) -> range:
        """Numbers of the held-out shards whose states are captured."""
        held_out = self.config.evaluation.held_out_samples
        return range(math.ceil(held_out / self.config.dataset.rows_of_shard("eval")))

    @cached_property
    def stages(self) -> Stages:
        train, shards = self.config.train, len(self.shards)
        window = self.config.hidden_states.window_shards or shards
        return Stages(shards, window, train.epochs, train.epochs_per_stage)

    @property
    def captures(self) -> range:
        """Stages whose windows are captured: all in rolling mode, else those of one round."""
        return self.stages.numbers if self.rolling else range(1, self.stages.windows + 1)

    def token_shards(self) -> list[str]:
        """Token shards of training, in order."""
        return [self.paths.tokens("train", shard) for shard in self.shards]

    def held_out_tokens(self) -> list[str]:
        return [self.paths.tokens("eval", shard) for shard in self.held_out]

    def held_out_states(self) -> list[str]:
        return [self.stored(self.paths.states("eval", shard)) for shard in self.held_out]

    def window_tokens(self, stage: int) -> list[str]:
        """Token shards of a stage's window, in order."""
        return [self.paths.tokens("train", shard) for shard in self.stages.shards_of(stage)]

    def window_states(self, stage: int) -> list[str]:
        """Hidden states of a stage's window, in order."""
        shards = self.stages.shards_of(stage)
        return [self.stored(self.paths.states("train", shard, stage)) for shard in shards]

    def capture_checks(self) -> list[str]:
        """Results of the self-check of each captured training shard, in order."""
        return [
            self.paths.states_check("train", shard, stage)
            for stage in self.captures
            for shard in self.stages.shards_of(stage)
        ]

    def stage_metrics(self) -> list[str]:
        return [self.paths.metrics(stage) for stage in self.stages.numbers]

    def stage_scores(self) -> list[str]:
        return [self.paths.score(stage) for stage in self.stages.numbers]

    def scores_before(self, stage: int) -> list[str]:
        """With early stop: the scores of earlier stages, which decide whether to continue."""
        if self.config.train.early_stop_patience is None:
            return []
        return [self.paths.score(earlier) for earlier in range(1, stage)]

    @property
    def scores_inside(self) -> bool:
        """Whether training scores the draft inside a stage, on held-out states."""
        return self.config.train.score_every_steps is not None

    def stored(self, path: str) -> str:
        """The location of a large file: the path itself, or its address in object storage."""
        prefix = self.config.resources.storage_prefix
        return f"{prefix}/{path}" if prefix else path

    def to_text(self) -> str:
        return canonical(
            {
                "config": self.config.to_dict(),
                "external": asdict(self.external),
                "settings": {stage: asdict(settings) for stage, settings in self.settings.items()},
                "code": dict(self.code),
            }
        )

    def save(self, folder: Path) -> Path:
        """Write the run to a file of `folder` named by its content, and return its path.

        Jobs that wait in a queue keep the file that they were planned with.
        """
        text = self.to_text()
        path = folder / f"{self.config.run}-{digest(text)}.json"
        if not path.is_file():
            write_text(path, text)
        return path


def load_run(place: Path | str) -> Run:
    """The run of a results folder or of a file that `Run.save` wrote.

    The paths of a renamed folder follow its new name. Raises UserError if there is no run.
    """
    path = Path(place)
    name: str | None = None
    if path.is_dir():  # by its own name, also where it is a link
        name = (path.resolve() if ".." in path.parts else path.absolute()).name
        path = path / "run.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config = Config.of(values["config"])
        return Run(
            config.model_copy(update={"run": name}) if name else config,
            External.from_dict(values["external"]),
            {stage: Settings(**settings) for stage, settings in values["settings"].items()},
            values["code"],
        )
    except OSError as fault:
        raise UserError(f"{path}: no run can be read ({fault.strerror})") from None
    except NOT_OURS as fault:
        raise UserError(f"{path}: is not the file of a run ({fault})") from None
