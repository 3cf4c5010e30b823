"""Checkpoints: float32 master weights, optimiser state and the cursor, each a plain file.

A finished stage writes three files that are outputs of the workflow. Inside a stage, saves go to a
folder that is not an output (the workflow would delete it when the job fails): one folder per save,
written under another name and renamed, only the newest kept, read only by a job with equal
settings.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from eagle3.errors import UserError
from eagle3.files.artifact import Manifest, Settings, read_json, write_json
from eagle3.files.lock import hold
from eagle3.files.tensor_file import load_tensors, read_manifest, save_tensors

if TYPE_CHECKING:  # moving or exporting a checkpoint needs no torch
    import torch

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass
class Checkpoint:
    """All that training continues from. `state["global_step"]` is the cursor into the data."""

    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    state: dict[str, Any]


def write_checkpoint(
    folder: Path, checkpoint: Checkpoint, settings: Settings, inputs: dict[str, str]
) -> None:
    """Write the three files into `folder`, state last."""
    counts = {"global_step": checkpoint.state["global_step"]}
    model = Manifest.of("checkpoint", settings, inputs, counts)
    written = save_tensors(folder / MODEL, checkpoint.model, model)
    optimizer = Manifest.of("optimizer", settings, {"model": written.content_sha256}, counts)
    save_tensors(folder / OPTIMIZER, checkpoint.optimizer, optimizer)
    write_json(
        folder / STATE,
        checkpoint.state,
        Manifest.of("state", settings, {"model": written.content_sha256}, counts),
    )


def read_model(
    folder: Path, settings_digest: str | None = None, framework: str = "pt"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and state of a checkpoint. `framework`: pt for torch tensors, np for NumPy arrays.

    Raises UserError if a file is damaged or belongs to other settings or another save.
    """
    model, manifest = load_tensors(folder / MODEL, "checkpoint", settings_digest, framework)
    state, state_manifest = read_json(folder / STATE, "state", settings_digest)
    _check_same_save(folder, manifest, state_manifest)
    return model, state


def read_checkpoint(folder: Path, settings_digest: str | None = None) -> Checkpoint:
    """All that training continues from. Raises UserError as `read_model` does."""
    model, state = read_model(folder, settings_digest)
    optimizer, optimizer_manifest = load_tensors(
        folder / OPTIMIZER, "optimizer", settings_digest, "pt"
    )
    _check_same_save(folder, read_manifest(folder / MODEL, "checkpoint"), optimizer_manifest)
    return Checkpoint(model, optimizer, state)


def _check_same_save(folder: Path, model: Manifest, other: Manifest) -> None:
    if other.inputs.get("model") != model.content_sha256:
        raise UserError(f"{folder}: its files are of different saves; delete them")


class ResumeFolder:
    """Saves inside a stage."""

    def __init__(self, folder: Path, settings: Settings, inputs: dict[str, str]) -> None:
        self.folder, self.settings, self.inputs = folder, settings, inputs

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. Raises UserError if another process trains this stage."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as handle:
            hold(
                handle,
                f"{self.folder}: another process is training this stage; wait for it or stop it",
            )
            yield

    def save(self, checkpoint: Checkpoint) -> None:
        """Add a save and drop the older ones."""
        final = self.folder / f"step-{checkpoint.state['global_step']:08d}"
        temporary = self.folder / f".{final.name}.{uuid4().hex[:8]}.tmp"
        write_checkpoint(temporary, checkpoint, self.settings, self.inputs)
        older = self._saves()
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        for folder in older:
            if folder != final:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def saving(self) -> Iterator[Callable[[Checkpoint], None]]:
        """`save` in the background: a call returns at once unless the previous save is still being
        written. On exit, the last one is awaited. Raises what saving raised."""
        with ThreadPoolExecutor(1) as writer:
            pending: list[Future[None]] = []

            def save(checkpoint: Checkpoint) -> None:
                if pending:
                    pending.pop().result()
                pending.append(writer.submit(self.save, checkpoint))

            yield save
            if pending:
                pending.pop().result()

    def newest(self) -> Checkpoint | None:
        """The newest complete save of these settings and inputs, or None."""
        for folder in reversed(self._saves()):
            try:
                checkpoint = read_checkpoint(folder, self.settings.digest)
                if checkpoint.state["inputs"] == self.inputs:
                    return checkpoint
            except UserError:
                continue  # of other settings, or damaged
        return None

    def clear(self) -> None:
        """Remove every save, finished or not."""
        for folder in [*self._saves(), *self.folder.glob(".step-*.tmp")]:
            shutil.rmtree(folder, ignore_errors=True)

    def _saves(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))
