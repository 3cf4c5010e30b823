"""A draft on disk in an engine's format, and a reader stricter than any engine.

Engines silently skip unknown tensors, leave missing ones uninitialised and use defaults for missing
keys. So a format is written from one description, and read only if every tensor and every key of
config.json equals what would be written again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # teaches NumPy bfloat16, for reading too
import numpy as np

from eagle3.draft.config import DraftConfig
from eagle3.draft.shapes import LAYER, parameter_shapes
from eagle3.errors import Foreign, UserError
from eagle3.export.capabilities import check_aux_layers, check_formats, check_rope
from eagle3.files.artifact import Manifest, Settings, write_text
from eagle3.files.tensor_file import load_tensors, save_tensors
from eagle3.tokens.vocab import VocabMapping

FURTHER_NORM = "input_layernorm"
EMBEDDING = "embed_tokens.weight"
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@dataclass(frozen=True)
class Verifier:
    """The target as a format names it, and the number of tokens to draft."""

    name: str  # a hub name or a path
    architectures: tuple[str, ...]
    num_speculative_tokens: int


@dataclass(frozen=True)
class Description:
    """The content of a config.json, independent of the format."""

    config: DraftConfig
    dtype: str
    verifier: Verifier | None = None  # only in formats that name the target


@dataclass(frozen=True)
class DraftFormat:
    """The format of a draft for one engine."""

    name: str
    write: Callable[[Description], dict[str, Any]]
    read: Callable[[Mapping[str, Any]], Description]  # may raise KeyError, TypeError
    layer: str = LAYER  # prefix of the first decoder layer's tensors
    further_norm: str = FURTHER_NORM  # name of the norm before attention in later layers
    embedding: bool = True  # whether the engine would read one
    whole_mapping: bool = True  # whether d2t and t2d are written for the target's whole vocabulary

    @property
    def kind(self) -> str:
        """Kind of the manifest."""
        return f"draft-{self.name}"

    def maps(self, config: DraftConfig) -> bool:
        """Whether the draft comes with d2t and t2d."""
        return self.whole_mapping or config.draft_vocab_size < config.vocab_size


def expected_shapes(config: DraftConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of an export and its shape, without the embedding."""
    vocabularies = {"d2t": (config.draft_vocab_size,), "t2d": (config.vocab_size,)}
    return parameter_shapes(config) | vocabularies


def write_draft(
    fmt: DraftFormat,
    folder: Path,
    description: Description,
    weights: Mapping[str, np.ndarray],
    mapping: VocabMapping,
    settings: Settings,
    inputs: dict[str, str],
    embedding: np.ndarray | None = None,  # [V, H] of the target
) -> None:
    """Write `config.json` and `model.safetensors`, then read them back strictly.

    Raises UserError if a tensor is missing, unknown or of the wrong shape, or if the format cannot
    carry the draft.
    """
    config = description.config
    check_formats([fmt.name], config.to_dict())
    check_rope([fmt.name], config.rope)
    check_aux_layers([fmt.name], config.aux_layers)
    dtype = DTYPES[description.dtype]
    with np.errstate(over="ignore"):  # `_check` reports values out of range
        tensors = {name: array.astype(dtype) for name, array in weights.items()}
        if embedding is not None and fmt.embedding:
            tensors[EMBEDDING] = embedding.astype(dtype)
    if fmt.maps(config):
        tensors |= {"d2t": mapping.d2t, "t2d": mapping.t2d}
    _check(folder, fmt, config, tensors)
    stored = {_name_in(fmt, name): tensor for name, tensor in tensors.items()}
    save_tensors(folder / "model.safetensors", stored, Manifest.of(fmt.kind, settings, inputs))
    write_text(folder / "config.json", json.dumps(fmt.write(description), indent=2) + "\n")
    loaded, _, loaded_mapping = read_arrays(fmt, folder)
    if loaded.config != config or (loaded_mapping.d2t != mapping.d2t).any():
        raise UserError(f"{folder}: the export does not read back as it was written")


def read_arrays(
    fmt: DraftFormat, folder: Path, settings_digest: str | None = None
) -> tuple[Description, dict[str, np.ndarray], VocabMapping]:
    """The description in config.json, the stored tensors without an embedding, and the vocabulary
    mapping.

    Raises UserError on anything that an engine would load silently wrong.
    """
    path = folder / "model.safetensors"
    stored, _ = load_tensors(path, fmt.kind, settings_digest)
    description = _read_config(fmt, folder / "config.json")
    config = description.config
    check_formats([fmt.name], config.to_dict())
    with Foreign(f"{folder}: config.json does not describe the draft in the same folder"):
        own_names = {_name_in(fmt, name): name for name in expected_shapes(config)}
        tensors = {own_names.get(name, name): array for name, array in stored.items()}
        _check(folder, fmt, config, tensors)
    dtype = np.dtype(DTYPES[description.dtype])
    for name, array in tensors.items():
        if name not in ("d2t", "t2d") and array.dtype != dtype:
            raise UserError(f"{path}: {name} is {array.dtype}, config.json differs")
    tensors.pop(EMBEDDING, None)  # the target's own
    if fmt.maps(config):
        mapping = VocabMapping(tensors.pop("d2t"), tensors.pop("t2d"))
    else:
        size = config.vocab_size
        mapping = VocabMapping(np.zeros(size, dtype=np.int64), np.ones(size, dtype=bool))
    return description, tensors, mapping


def _name_in(fmt: DraftFormat, name: str) -> str:
    """The name of a tensor in a format."""
    if name.startswith(LAYER):
        return fmt.layer + name.removeprefix(LAYER)
    if name.startswith("layers."):
        return name.replace(FURTHER_NORM, fmt.further_norm)
    return name


def _read_config(fmt: DraftFormat, path: Path) -> Description:
    """The description in a config.json, if the format would write exactly that file again."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        description = fmt.read(saved)
        expected = json.loads(json.dumps(fmt.write(description)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except KeyError as fault:
        raise UserError(f"{path}: {fault.args[0]} missing; export the draft again") from None
    except (TypeError, AttributeError, OverflowError) as fault:
        raise UserError(f"{path}: cannot be a draft's ({fault!s:.200}); export it again") from None
    except (ValueError, RecursionError) as fault:
        raise UserError(f"{path}: is not JSON ({fault})") from None
    for name in {**expected, **saved}:
        if name not in saved:
            raise UserError(f"{path}: {name} missing; export the draft again")
        if name not in expected:
            raise UserError(f"{path}: {name:.200} does not belong there; export the draft again")
        if saved[name] != expected[name]:
            raise UserError(
                f"{path}: {name} is {saved[name]!r:.200}, expected {expected[name]!r:.200}; export "
                "the draft again"
            )
    if description.dtype not in list(DTYPES):  # it may not be text
        raise UserError(f"{path}: torch_dtype is {description.dtype!r:.90}; export the draft again")
    return description


def _check(
    folder: Path, fmt: DraftFormat, config: DraftConfig, tensors: Mapping[str, np.ndarray]
) -> None:
    """Raise UserError for wrong names or shapes, or an inconsistent mapping."""
    expected = expected_shapes(config) if fmt.maps(config) else parameter_shapes(config)
    if fmt.embedding and EMBEDDING in tensors:
        expected[EMBEDDING] = (config.vocab_size, config.hidden_size)
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise UserError(f"{folder}: tensors missing: {missing}, unknown: {unknown}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(f"{folder}: {name} is {tuple(tensors[name].shape)}, expected {shape}")
        if not np.isfinite(tensors[name]).all():
            raise UserError(
                f"{folder}: {name} is not finite in {tensors[name].dtype}; use export.dtype "
                "bfloat16 or float32"
            )
    if not fmt.maps(config):
        return
    ids = tensors["d2t"] + np.arange(config.draft_vocab_size)
    if not np.array_equal(ids, np.flatnonzero(tensors["t2d"])):
        raise UserError(f"{folder}: d2t (offsets) and t2d (membership) do not name the same tokens")
