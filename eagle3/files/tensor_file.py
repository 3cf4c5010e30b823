"""Safetensors files with a manifest: written atomically, refused if not the expected ones.

Works on NumPy arrays and torch tensors alike, and imports torch only for torch tensors: stages that
tokenise or plan start in a tenth of the time without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from eagle3.errors import Foreign, UserError
from eagle3.files.artifact import MANIFEST_KEY, NOT_OURS, REMAKE, Manifest, atomic_path, canonical


def save_tensors(path: Path, tensors: Mapping[str, Any], manifest: Manifest) -> Manifest:
    """Write `tensors` (all NumPy or all torch) to `path` and return the manifest with checksum."""
    if all(isinstance(value, np.ndarray) for value in tensors.values()):
        from safetensors.numpy import save_file

        # not ascontiguousarray, which turns a scalar into a row of one
        arrays: dict[str, Any] = {k: np.asarray(v, order="C") for k, v in tensors.items()}
    else:
        from safetensors.torch import save_file  # type: ignore[assignment]

        arrays = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    manifest = replace(manifest, content_sha256=content_sha256(arrays))
    # "format": transformers refuses a model file without it
    metadata = {"format": "pt", MANIFEST_KEY: canonical(asdict(manifest))}
    with atomic_path(path) as temporary:
        try:
            save_file(arrays, str(temporary), metadata=metadata)
        except SafetensorError as fault:  # as on a full disk
            raise OSError(str(fault)) from None
        _order_header(temporary)
    return manifest


def _order_header(path: Path) -> None:
    """Sort the file's header: the library writes metadata in random order, and equal content has to
    give equal bytes."""
    with open(path, "r+b") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = canonical(json.loads(handle.read(size))).encode()
        if len(header) <= size:  # always so: the library's own header is no shorter
            handle.seek(8)
            handle.write(header.ljust(size))


def content_sha256(tensors: Mapping[str, Any]) -> str:
    """Checksum over names, types, shapes and bytes, in name order."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        if isinstance(value, np.ndarray):
            kind, data = str(value.dtype), value.reshape(-1).view(np.uint8)
        else:
            import torch

            kind = str(value.dtype).removeprefix("torch.")
            data = value.reshape(-1).view(torch.uint8).numpy()
        total.update(f"{name} {kind} {tuple(value.shape)}\n".encode())
        total.update(data.data)  # no copy
    return total.hexdigest()


def open_tensors(path: Path, framework: str = "np") -> Any:
    """`safe_open`, with its faults as UserErrors of one sentence."""
    try:
        return safe_open(str(path), framework=framework)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError, MemoryError) as fault:
        raise UserError(f"{path}: is not a whole safetensors file ({fault}): {REMAKE}") from None


def read_manifest(path: Path, kind: str, settings_digest: str | None = None) -> Manifest:
    """The manifest of a tensor file, checked (see `Manifest.require`)."""
    with open_tensors(path) as handle:
        metadata = handle.metadata() or {}
    return checked_manifest(path, metadata, kind, settings_digest)


def checked_manifest(
    path: Path | str, metadata: Mapping[str, str], kind: str, settings_digest: str | None = None
) -> Manifest:
    """The manifest in a tensor file's metadata, checked (see `Manifest.require`)."""
    try:
        manifest = Manifest.parse(json.loads(metadata.get(MANIFEST_KEY, "")))
    except NOT_OURS as fault:
        raise UserError(f"{path}: carries no manifest of this project ({fault})") from None
    return manifest.require(path, kind, settings_digest)


def load_tensors(
    path: Path, kind: str, settings_digest: str | None = None, framework: str = "np"
) -> tuple[dict[str, Any], Manifest]:
    """Every tensor of a file, with its checksum verified: for files that fit in memory.

    Raises UserError if the file is damaged or not what is expected.
    """
    manifest = read_manifest(path, kind, settings_digest)
    unknown = Foreign(f"{path}: holds a tensor of no known type")
    with open_tensors(path, framework) as handle, unknown:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    if content_sha256(tensors) != manifest.content_sha256:
        raise UserError(f"{path}: content does not match its checksum: {REMAKE}")
    return tensors, manifest
