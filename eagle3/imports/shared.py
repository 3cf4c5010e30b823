"""A shard of another run, referred to instead of captured again."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from eagle3.files.artifact import Settings, read_json, write_text
from eagle3.run import Run
from eagle3.store.layout import CHECK_KIND
from eagle3.store.reader import FeatureShard
from eagle3.tokens.shards import read_token_shard


def shared_file(run: Run, path: Path) -> Path:
    """Where the other run has the file that this one has at `path`."""
    return Path(run.states_from.place) / path.relative_to(run.paths.out)


def share(run: Run, settings: Settings, split: str, shard: int) -> None:
    """Refer to a shard of the other run, and take over what its self-check found.

    Raises UserError if it is damaged, or not of these tokens and settings.
    """
    tokens, states = Path(run.paths.tokens(split, shard)), Path(run.paths.states(split, shard))
    check = Path(run.paths.states_check(split, shard))
    source = shared_file(run, states)
    FeatureShard(source, read_token_shard(tokens, settings.upstream["tokens"]), settings.digest)
    read_json(shared_file(run, check), CHECK_KIND, settings.digest)
    write_text(check, shared_file(run, check).read_text(encoding="utf-8"))
    # a link by name: the date of a second name for the same file would be that of both runs
    beside = states.with_name(f".{states.name}.{uuid4().hex[:8]}.tmp")
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.symlink_to(source.resolve())
    beside.replace(states)
