"""Curves of a running training for TensorBoard, Weights & Biases or MLflow, in addition to the
metrics.

All are optional packages. Keys and addresses come from the environment (WANDB_API_KEY,
MLFLOW_TRACKING_URI) or from where the package itself keeps them, never from the configuration.
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
def tracking(name: str, folder: Path, training: str) -> Iterator[Track | None]:
    """What takes the record of each step. `name`: none, tensorboard, wandb or mlflow.

    `folder` (results/<run>/tracking) gets the files; its parent names the run. `training`: digest
    of the settings, by which a training that goes on is told from one that begins anew. Raises
    UserError if the package is missing or refuses at the start; later faults end no training.
    """
    with ExitStack() as stack:
        track = None
        if name != "none":
            opened = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[name]
            try:
                track = stack.enter_context(opened(folder, training))
            except ImportError:
                raise missing(name) from None
        yield track


@contextmanager
def _tensorboard(folder: Path, training: str) -> Iterator[Track]:
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
def _wandb(folder: Path, training: str) -> Iterator[Track]:
    import wandb

    identity = _known(folder / "wandb-run", training)
    identity = identity or _kept(folder / "wandb-run", training, uuid4().hex)
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
def _mlflow(folder: Path, training: str) -> Iterator[Track]:
    import mlflow

    refusal, path = mlflow.exceptions.MlflowException, folder / "mlflow-run"
    known = _known(path, training)  # of the stage before, or before a kill
    try:
        if known is None or not _goes_on(mlflow, known):
            mlflow.set_experiment(PROJECT)
            run = mlflow.start_run(run_name=folder.parent.name)
            _kept(path, training, run.info.run_id)
    except refusal as fault:
        raise UserError(
            f"resources.train.tracker is 'mlflow', which refuses: {first_line(fault)}; set "
            "MLFLOW_TRACKING_URI"
        ) from None

    def track(record: Mapping[str, Any]) -> None:
        # not waited for: a server that is away must not stop a training
        mlflow.log_metrics(scalars(record), step=int(record["step"]), synchronous=False)

    try:
        yield track
    finally:
        try:
            mlflow.end_run()
        except refusal as fault:
            log.warning("mlflow did not take the last figures: %s", first_line(fault))


def _goes_on(mlflow: Any, known: str) -> bool:
    """Continue a run of MLflow, unless it was removed or is another server's."""
    try:
        mlflow.start_run(run_id=known)
    except mlflow.exceptions.MlflowException:
        return False
    return True


def _known(path: Path, training: str) -> str | None:
    """The tracker's name for the run of this training; None if it has none yet."""
    whose, _, identity = path.read_text("utf-8").partition(" ") if path.is_file() else ("", "", "")
    return identity if whose == training else None


def _kept(path: Path, training: str, identity: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{training} {identity}", encoding="utf-8")
    return identity
