"""Single tensors of a target, read from its safetensors files without loading the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3.errors import Foreign, UserError
from eagle3.files.tensor_file import open_tensors
from eagle3.target_model.files import INDEX, indexed_files

SINGLE = "model.safetensors"
# Names in other models of the modules that are read. Llama's are the defaults of section `target`.
OTHER_NAMES = {
    "model.embed_tokens.weight": (
        *("wte", "word_embeddings", "tok_embeddings", "tokens_embed", "embed_in", "embeddings"),
        *("embed", "input_embedding", "w"),
    ),
    "lm_head.weight": ("embed_out", "output_projection", "head", "output", "decoder"),
    "model.norm.weight": (
        *("final_layernorm", "final_layer_norm", "final_norm", "ln_f", "norm_f", "embedding_norm"),
        *("ln_out", "out_norm", "output_layernorm", "layer_norm", "layernorm"),
    ),
}


NORM_HINT = "; if the target has no norm before its head, set train.norm_init to ones"


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

        Multimodal models add prefixes to the names of the text model, so a name that no file has
        stands for the one with the same ending; if there are several (vision towers have norms
        too), for the one next to the only embedding. Llama's names also stand for those of other
        models for the same module.
        """
        if name in self.file_of:
            return name
        aliases = OTHER_NAMES.get(name, ())
        for ending in (name.removeprefix("model."), *(f"{alias}.weight" for alias in aliases)):
            candidates = self._ending_with(ending)
            if len(candidates) > 1:
                siblings = [prefix + ending for prefix in self._embedding_prefixes()]
                candidates = siblings if len(siblings) == 1 and siblings[0] in candidates else []
            if candidates:
                return candidates[0]
        return None

    def _ending_with(self, ending: str) -> list[str]:
        """Names that end in `ending` and are in no numbered layer."""
        return [
            name
            for name in self.file_of
            if f".{name}".endswith(f".{ending}")
            and not any(part.isdigit() for part in name.split("."))
        ]

    def _embedding_prefixes(self) -> list[str]:
        """Prefixes of the modules that hold an input embedding."""
        default = "model.embed_tokens.weight"
        for ending in ("embed_tokens", *OTHER_NAMES[default]):
            names = self._ending_with(f"{ending}.weight")
            if names:
                return [name.removesuffix(f"{ending}.weight") for name in names]
        return []

    def check(self, name: str, setting: str) -> str:
        """`name_of`, or UserError that names the configuration key `setting`."""
        full_name = self.name_of(name)
        if full_name is None:
            ending = name.rsplit(".", 2)[-2:]
            close = [n for n in self.file_of if n.split(".")[-2:] == ending][:3]
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


def check_norm(weights: TargetWeights, name: str) -> None:
    """Raise UserError, with what helps, if the files hold no final norm of that name."""
    try:
        weights.check(name, "final_norm_key")
    except UserError as fault:
        raise UserError(f"{fault}{NORM_HINT}") from None
