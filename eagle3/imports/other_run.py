"""The states of another run: which of its shards this run can use unchanged.

Settings contain the digests of everything upstream, so equal digests mean equal tokens, target,
layers and codec: this run would capture the same states.
"""

from __future__ import annotations

from pathlib import Path

from eagle3.errors import UserError
from eagle3.imports.listing import KEY
from eagle3.run import Run, load_run

# in the order in which to explain a difference
STAGES = ("source", "tokenizer", "weights", "dataset", "regenerate", "tokens", "hidden_states")


def check_same_states(run: Run) -> None:
    """Raise UserError unless the other run has states under the settings of this one."""
    place = run.states_from.place
    other = load_run(place)
    if run.config.resources.storage_prefix or other.config.resources.storage_prefix:
        raise UserError(f"{KEY}: states of another run are shared on a disk, not in object storage")
    if other.settings["hidden_states"].digest == run.settings["hidden_states"].digest:
        return
    for stage in STAGES:
        lines, other_lines = run.settings[stage].lines, other.settings[stage].lines
        differing = sorted({*lines, *other_lines} - ({*lines} & {*other_lines}))
        if differing:
            here = next((line for line in lines if line in differing), "nothing of the kind")
            there = next((line for line in other_lines if line in differing), "nothing of the kind")
            raise UserError(
                f"{KEY}: the states of {place} are not those of this configuration; {stage}: "
                f"there {there}, here {here}"
            )


def shards_of(place: Path) -> tuple[str, ...]:
    """Names of a run's shards of states, such as `train/shard-00003`.

    Raises UserError if there are none.
    """
    folder = place / "hidden_states"
    paths = sorted(folder.glob("train/shard-*.safetensors"))
    paths += sorted(folder.glob("eval/shard-*.safetensors"))
    if not paths:
        raise UserError(f"config: {KEY} is {str(place)!r}, which holds no states of a run")
    return tuple(f"{path.parent.name}/{path.stem}" for path in paths)
