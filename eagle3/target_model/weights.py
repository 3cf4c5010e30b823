"""Single tensors of a target, read from its safetensors files without loading the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3.errors import Foreign, UserError
from eagle3.files.tensor_file import open_tensors
from eagle3.target_model.files import INDEX, indexed_files

SINGLE = "model.safetensors"
EMBEDDING = "embed_tokens.weight"


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

    def name_of(self, name: str) -> str | None:
        """The name under which the files hold a tensor, None if they do not.

        Wrappers of multimodal models add prefixes to the names of the text model, so a name that no
        file has means the one with the same ending; if several have it (vision towers have norms
        too), the one next to the only embedding.
        """
        if name in self.file_of:
            return name
        ending = name.removeprefix("model.")
        alike = [candidate for candidate in self.file_of if candidate.endswith(f".{ending}")]
        if len(alike) > 1:
            embeddings = [
                candidate for candidate in self.file_of if candidate.endswith(f".{EMBEDDING}")
            ]
            siblings = [candidate.removesuffix(EMBEDDING) + ending for candidate in embeddings]
            alike = siblings if len(siblings) == 1 and siblings[0] in alike else []
        return alike[0] if alike else None

    def check(self, name: str, setting: str) -> str:
        """`name_of`, or UserError that names the configuration key `setting`."""
        full_name = self.name_of(name)
        if full_name is None:
            last = name.rsplit(".", 2)[-2:]
            close = [n for n in self.file_of if n.split(".")[-2:] == last][:3]
            raise UserError(
                f"target.{setting} is {name!r}, which {self.directory} does not hold"
                + (f"; did you mean {' or '.join(close)}?" if close else "")
            )
        return full_name

    def check_files(self) -> None:
        """Raise UserError if a file that the index names is missing."""
        missing = sorted({n for n in self.file_of.values() if not (self.directory / n).is_file()})
        if missing:
            raise UserError(
                f"target.model: {self.directory} lacks {', '.join(missing[:3])}"
                f"{' and others' if len(missing) > 3 else ''}, which {INDEX} names; download the "
                "model again"
            )

    def read(self, name: str, setting: str, framework: str = "pt") -> Any:
        """One tensor, of torch (pt) or NumPy (np).

        Raises UserError that names the configuration key `setting`.
        """
        name = self.check(name, setting)
        path = self.directory / self.file_of[name]
        with open_tensors(path, framework) as handle, Foreign(f"target.model: {path} lacks {name}"):
            return handle.get_tensor(name)
