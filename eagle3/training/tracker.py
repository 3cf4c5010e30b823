"""Curves of a running training for TensorBoard or Weights & Biases, in addition to the metrics.

Both are optional packages. Keys of an account come from the environment (WANDB_API_KEY) or from
where the package itself keeps them, never from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eagle3.errors import UserError

Track = Callable[[Mapping[str, Any]], None]
PROJECT = "eagle3"


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of the metrics file by name; of a list one for each TTT step, from
    0."""
    flat: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, list):
            flat |= {f"{name}/{number}": float(item) for number, item in enumerate(value)}
        elif name != "step" and not isinstance(value, str):
            flat[name] = float(value)
    return flat


@contextmanager
def tracking(name: str, folder: Path) -> Iterator[Track | None]:
    """What takes the record of each step: `name` is none, tensorboard or wandb.

    `folder` (results/<run>/tracking) gets the files; its parent names the run. Raises UserError if
    the package is missing or refuses.
    """
    if name == "none":
        yield None
        return
    factory = {"tensorboard": _tensorboard, "wandb": _wandb}[name]
    try:
        context = factory(folder)
    except ImportError:
        raise UserError(
            f"resources.train.tracker is {name!r}, which is not installed: "
            f"`pip install {name}`, or set it to none"
        ) from None
    with context as track:
        yield track


def _tensorboard(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    @contextmanager
    def opened() -> Iterator[Track]:
        writers: list[SummaryWriter] = []

        def track(record: Mapping[str, Any]) -> None:
            step = int(record["step"])
            if not writers:  # what a killed job wrote from here on is hidden
                writers.append(SummaryWriter(str(folder / "tensorboard"), purge_step=step))
            for name, value in scalars(record).items():
                writers[0].add_scalar(name, value, step)

        try:
            yield track
        finally:
            for writer in writers:
                writer.close()

    return opened()


def _wandb(folder: Path) -> Any:
    import wandb

    @contextmanager
    def opened() -> Iterator[Track]:
        folder.mkdir(parents=True, exist_ok=True)
        name = folder.parent.name
        try:  # one run for all stages, which also goes on after a kill
            run = wandb.init(
                project=PROJECT, name=name, id=_identity(folder), dir=str(folder), resume="allow"
            )
        except wandb.Error as fault:
            raise UserError(
                f"resources.train.tracker is 'wandb', which refuses: {fault}; set WANDB_API_KEY, "
                "or WANDB_MODE=offline"
            ) from None
        try:
            yield lambda record: run.log(scalars(record), step=int(record["step"]))
        finally:
            run.finish()

    return opened()


def _identity(folder: Path) -> str:
    """A name for this folder's run that no other has, the same at every call."""
    path = folder / "wandb-run"
    if not path.exists():
        from uuid import uuid4

        path.write_text(uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8")
