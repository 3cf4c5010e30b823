"""The file of a run, for jobs that tests start by themselves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eagle3.config.configuration import Config
from eagle3.data.sources import Source
from eagle3.files.artifact import Settings
from eagle3.paths import Paths
from eagle3.run import External, Run

NAME = "job"
PATHS = Paths(NAME)


def save_run(
    folder: Path,
    settings: Iterable[Settings],
    target: Path | str | None = None,
    sources: Iterable[Source] = (),
    **config: Any,
) -> Path:
    """A run of these settings for jobs whose working directory is `folder`; `config`: sections of
    the configuration."""
    external = External(
        tuple(sources),
        source_digest="",
        embedded_source="",
        embedded_digest="",
        target=str(target) if target else None,
        tokenizer_digest="",
        weights_digest="",
    )
    by_stage = {one.stage: one for one in settings}
    run = Run(Config.of({"run": NAME, **config}), external, by_stage, {"train_stage.py": "abc"})
    return run.save(folder)
