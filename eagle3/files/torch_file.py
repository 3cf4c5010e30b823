"""Tensors of a file that `torch.save` wrote: the only place that reads one.

Such a file is a zip archive of the tensors' bytes and of instructions to assemble them. With
`weights_only`, torch follows only those that make tensors and plain containers, so no code in the
file is run.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from eagle3.errors import Foreign, UserError


def read_torch_save(source: Path | BinaryIO, mmap: bool = False) -> Any:
    """The content of such a file, tensors on the CPU. Raises what torch does, also for a file with
    more than tensors and plain containers, before any of that is called."""
    return torch.load(source, map_location="cpu", mmap=mmap, weights_only=True)


def load_torch_file(path: Path) -> dict[str, torch.Tensor]:
    """Its tensors by name, on the CPU.

    Raises UserError if it is not a whole file of tensors alone, or claims to hold more bytes than
    it has.
    """
    with Foreign(f"{path}: is not a file of torch.save (a zip archive)"):
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        # torch stores bytes uncompressed; a packed part could be of any size
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise UserError(f"{path}: has packed parts, which torch.save does not write")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise UserError(f"{path}: claims to hold more bytes than it has")
    try:
        with Foreign(""):  # its text explains how to run whatever is in the file
            loaded = read_torch_save(path)
    except UserError:
        raise UserError(
            f"{path}: is damaged, or holds more than tensors, which is never run: save its weights "
            "as safetensors"
        ) from None
    if not isinstance(loaded, Mapping) or not loaded:
        raise UserError(f"{path}: holds no tensors by name")
    for name, value in loaded.items():
        if not isinstance(name, str) or type(value) is not torch.Tensor or value.is_sparse:
            raise UserError(
                f"{path}: {name!s:.80} is {type(value).__name__}; every entry must be a tensor: "
                "save the weights alone"
            )
    return dict(loaded)
