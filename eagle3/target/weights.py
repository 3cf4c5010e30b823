"""Single tensors of a target, read from its safetensors files without loading the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3.errors import Foreign, UserError
from eagle3.target.files import INDEX, indexed_files
from eagle3.tensorfile import open_tensors

SINGLE = "model.safetensors"


class TargetWeights:
    """Named tensors of a Hugging Face directory, single-file or sharded."""

    def __init__(self, directory: Path) -> None:
        """Raises UserError if the directory has no safetensors weights, or an index that points
        out of it."""
        self.directory = directory
        if (directory / INDEX).is_file():
            self.file_of: dict[str, str] = indexed_files(directory / INDEX)
        elif (directory / SINGLE).is_file():
            with open_tensors(directory / SINGLE) as handle:
                self.file_of = dict.fromkeys(handle.keys(), SINGLE)
        else:
            raise UserError(
                f"target.model: {directory} has neither {SINGLE} nor {INDEX}; only safetensors "
                "weights are read"
            )

    def __contains__(self, name: str) -> bool:
        return name in self.file_of

    def read(self, name: str, setting: str, framework: str = "pt") -> Any:
        """One tensor, of torch (pt) or NumPy (np).

        Raises UserError that names the configuration key `setting`.
        """
        if name not in self.file_of:
            last = name.rsplit(".", 2)[-2:]
            close = [n for n in self.file_of if n.split(".")[-2:] == last][:3]
            raise UserError(
                f"target.{setting} is {name!r}, which {self.directory} does not hold"
                + (f"; did you mean {' or '.join(close)}?" if close else "")
            )
        path = self.directory / self.file_of[name]
        with open_tensors(path, framework) as handle, Foreign(f"target.model: {path} lacks {name}"):
            return handle.get_tensor(name)
