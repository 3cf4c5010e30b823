"""Curves of a running training for TensorBoard, Weights & Biases or MLflow, in addition to the
metrics.

All are optional packages. Keys and addresses come from the environment (WANDB_API_KEY,
MLFLOW_TRACKING_URI) or the package's own settings, never from the configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from eagle3.errors import UserError, first_line

log = logging.getLogger(__name__)
Track = Callable[[Mapping[str, Any]], None]
PROJECT = "eagle3"


def missing(name: str) -> UserError:
    """The error for a tracker that is not installed."""
    return UserError(
        f"resources.train.tracker is {name!r}, which is not installed: `pip install {name}`, or "
        "set it to none"
    )


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a metrics record by name; those of a list by TTT step, from 0."""
    flat: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, list):
            flat |= {f"{name}/{number}": float(item) for number, item in enumerate(value)}
        elif name != "step" and not isinstance(value, str):
            flat[name] = float(value)
    return flat


@contextmanager
def tracking(name: str, folder: Path, training: str) -> Iterator[Track | None]:
    """A function that takes the record of each step. `name`: none, tensorboard, wandb or mlflow.

    `folder` (results/<run>/tracking) gets the files; its parent names the run. `training`: digest
    of the settings, which tells a resumed training from a new one. Raises UserError if the package
    is missing or refuses at the start; later errors do not stop training.
    """
    with ExitStack() as stack:
        track = None
        if name != "none":
            open_tracker = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[name]
            try:
                track = stack.enter_context(open_tracker(folder, training))
            except ImportError:
                raise missing(name) from None
        yield track


@contextmanager
def _tensorboard(folder: Path, training: str) -> Iterator[Track]:
    from torch.utils.tensorboard import SummaryWriter

    writers: list[SummaryWriter] = []

    def track(record: Mapping[str, Any]) -> None:
        step = int(record["step"])
        if not writers:  # hides what a killed job wrote from this step on
            writers.append(SummaryWriter(str(folder / "tensorboard"), purge_step=step))
        for name, value in scalars(record).items():
            writers[0].add_scalar(name, value, step)

    try:
        yield track
    finally:
        for writer in writers:
            writer.close()


@contextmanager
def _wandb(folder: Path, training: str) -> Iterator[Track]:
    import wandb

    identity = _read_identity(folder / "wandb-run", training)
    identity = identity or _write_identity(folder / "wandb-run", training, uuid4().hex)
    try:  # one run for all stages, resumed after a kill
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
def _mlflow(folder: Path, training: str) -> Iterator[Track]:
    import mlflow

    refusal, path = mlflow.exceptions.MlflowException, folder / "mlflow-run"
    identity = _read_identity(path, training)  # of an earlier stage, or before a kill
    try:
        if identity is None or not _resumes(mlflow, identity):
            mlflow.set_experiment(PROJECT)
            run = mlflow.start_run(run_name=folder.parent.name)
            _write_identity(path, training, run.info.run_id)
    except refusal as fault:
        raise UserError(
            f"resources.train.tracker is 'mlflow', which refuses: {first_line(fault)}; set "
            "MLFLOW_TRACKING_URI"
        ) from None

    def track(record: Mapping[str, Any]) -> None:
        # asynchronous: an unreachable server must not stop training
        mlflow.log_metrics(scalars(record), step=int(record["step"]), synchronous=False)

    try:
        yield track
    finally:
        try:
            mlflow.end_run()
        except refusal as fault:
            log.warning("mlflow did not take the last figures: %s", first_line(fault))


def _resumes(mlflow: Any, identity: str) -> bool:
    """Try to resume a run of MLflow; False if it was removed or belongs to another server."""
    try:
        mlflow.start_run(run_id=identity)
    except mlflow.exceptions.MlflowException:
        return False
    return True


def _read_identity(path: Path, training: str) -> str | None:
    """The tracker's id of the run of this training; None if there is none yet."""
    digest, _, identity = path.read_text("utf-8").partition(" ") if path.is_file() else ("", "", "")
    return identity if digest == training else None


def _write_identity(path: Path, training: str, identity: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{training} {identity}", encoding="utf-8")
    return identity
