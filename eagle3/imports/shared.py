"""A shard of another run, linked instead of captured again."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from eagle3.files.artifact import Settings, read_json, write_text
from eagle3.run import Run
from eagle3.store.layout import CHECK_KIND
from eagle3.store.reader import FeatureShard
from eagle3.tokens.shards import read_token_shard


def shared_file(run: Run, path: Path) -> Path:
    """The other run's file that corresponds to this run's `path`."""
    return Path(run.states_from.place) / path.relative_to(run.paths.out)


def share(run: Run, settings: Settings, split: str, shard: int) -> None:
    """Link a shard of the other run, and copy the result of its self-check.

    Raises UserError if it is damaged, or not of these tokens and settings.
    """
    tokens, states = Path(run.paths.tokens(split, shard)), Path(run.paths.states(split, shard))
    check = Path(run.paths.states_check(split, shard))
    source = shared_file(run, states)
    FeatureShard(source, read_token_shard(tokens, settings.upstream["tokens"]), settings.digest)
    read_json(shared_file(run, check), CHECK_KIND, settings.digest)
    write_text(check, shared_file(run, check).read_text(encoding="utf-8"))
    # a symbolic link: a hard link would share its date with the other run
    temporary = states.with_name(f".{states.name}.{uuid4().hex[:8]}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.symlink_to(source.resolve())
    temporary.replace(states)
