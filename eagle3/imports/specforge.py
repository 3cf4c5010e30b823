"""SpecForge's files: one `torch.save` for each document, gzipped or not.

    input_ids          int64 [L]         padded with zeros to the longest of its batch
    loss_mask          int64 [L]         1 on answers, 0 on padding
    aux_hidden_state   [1, L, C * H]     outputs of layers, side by side
    hidden_state       [1, L, H]         after the final norm

Such a file could run any code when it is loaded. It is read with `weights_only`, which builds
tensors and refuses to call anything else.
"""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from eagle3.data.faults import BadRow
from eagle3.errors import Foreign, UserError
from eagle3.files.torch_file import read_torch_save
from eagle3.imports.document import REMEDY, PeerDocument, flat

FIELDS = ("input_ids", "loss_mask", "aux_hidden_state", "hidden_state")
UNREADABLE = "file that cannot be read whole"
# in the error of `weights_only` for a file with more than tensors
FOREIGN_CODE = re.compile(r"\bGLOBAL ([\w.]+)")


class SpecForgeFiles:
    """Documents in a folder of rows_*/data_*.ckpt[.gz]."""

    normed = True

    def __init__(self, folder: Path, names: Mapping[int, str]) -> None:
        """`names`: the file of each document, relative to `folder`."""
        self.folder, self.names = folder, names

    def read(self, number: int) -> PeerDocument:
        """Raises BadRow for a damaged file, UserError for one with code in it."""
        path = self.folder / self.names[number]
        content = _load(path)
        if not isinstance(content, dict) or not all(
            isinstance(content.get(name), torch.Tensor) for name in FIELDS
        ):
            has = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise BadRow("file of another strategy than eagle3", f"it has {has}", REMEDY)
        return PeerDocument(
            flat(content["input_ids"], 1).long().numpy(),
            flat(content["loss_mask"], 1).long().numpy(),
            flat(content["aux_hidden_state"], 2),
            flat(content["hidden_state"], 2),
        )


def _load(path: Path) -> Any:
    """The content of a file. Raises BadRow or UserError as `SpecForgeFiles.read` does."""
    try:
        with Foreign(str(path)):
            if path.suffix == ".gz":
                with gzip.open(path) as packed:  # the archive's index is at its end
                    buffer = io.BytesIO(packed.read())
                return read_torch_save(buffer)
            return read_torch_save(path, mmap=True)
    except UserError as fault:
        match = FOREIGN_CODE.search(str(fault.__context__))  # torch's own error
        if match is not None:
            raise UserError(
                f"{path} asks to run {match[1]}, which no file of states does; nothing of it was "
                "run. Find out who wrote it before you use this folder"
            ) from None
        raise BadRow(UNREADABLE, str(fault).removeprefix(f"{path}: "), REMEDY) from None
