"""Curves of a running training for TensorBoard, Weights & Biases or MLflow, in addition to the
metrics.

All are optional packages. Keys and addresses come from the environment (WANDB_API_KEY,
MLFLOW_TRACKING_URI) or from where the package itself keeps them, never from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from eagle3.errors import UserError, first_line

Track = Callable[[Mapping[str, Any]], None]
PROJECT = "eagle3"


def missing(name: str) -> UserError:
    """The fault of a tracker that is not installed."""
    return UserError(
        f"resources.train.tracker is {name!r}, which is not installed: `pip install {name}`, or "
        "set it to none"
    )


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
    """What takes the record of each step. `name`: none, tensorboard, wandb or mlflow.

    `folder` (results/<run>/tracking) gets the files; its parent names the run. Raises UserError if
    the package is missing or refuses.
    """
    with ExitStack() as stack:
        track = None
        if name != "none":
            opened = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[name]
            try:
                track = stack.enter_context(opened(folder))
            except ImportError:
                raise missing(name) from None
        yield track


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Track]:
    from torch.utils.tensorboard import SummaryWriter

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


@contextmanager
def _wandb(folder: Path) -> Iterator[Track]:
    import wandb

    identity = _identity(folder, "wandb-run") or _new_identity(folder, "wandb-run", uuid4().hex)
    try:  # one run for all stages, which also goes on after a kill
        run = wandb.init(
            project=PROJECT, name=folder.parent.name, id=identity, dir=str(folder), resume="allow"
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


@contextmanager
def _mlflow(folder: Path) -> Iterator[Track]:
    import mlflow

    try:
        if known := _identity(folder, "mlflow-run"):  # of the stage before, or before a kill
            mlflow.start_run(run_id=known)
        else:
            mlflow.set_experiment(PROJECT)
            run = mlflow.start_run(run_name=folder.parent.name)
            _new_identity(folder, "mlflow-run", run.info.run_id)
    except mlflow.exceptions.MlflowException as fault:
        raise UserError(
            f"resources.train.tracker is 'mlflow', which refuses: {first_line(fault)}; set "
            "MLFLOW_TRACKING_URI"
        ) from None
    try:
        yield lambda record: mlflow.log_metrics(scalars(record), step=int(record["step"]))
    finally:
        mlflow.end_run()


def _identity(folder: Path, name: str) -> str | None:
    """Which run of a tracker this folder's is; None if it has none yet."""
    path = folder / name
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _new_identity(folder: Path, name: str, identity: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(identity, encoding="utf-8")
    return identity
