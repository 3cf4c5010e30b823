"""Every format by its name, and the format of a folder."""

from __future__ import annotations

import json
from pathlib import Path

from eagle3.export.exported import DraftFormat
from eagle3.export.huggingface import HF
from eagle3.export.sglang import SGLANG
from eagle3.export.speculators import SPECULATORS
from eagle3.export.vllm import VLLM
from eagle3.files.artifact import MANIFEST_KEY
from eagle3.files.tensor_file import open_tensors

DRAFT_FORMATS = {fmt.name: fmt for fmt in (SGLANG, VLLM, SPECULATORS, HF)}


def format_of(folder: Path) -> DraftFormat:
    """The format of an export, from its manifest."""
    with open_tensors(folder / "model.safetensors") as handle:
        manifest = (handle.metadata() or {}).get(MANIFEST_KEY, "{}")
    kinds = {fmt.kind: fmt for fmt in DRAFT_FORMATS.values()}
    # another kind or none: the reader reports it
    return kinds.get(json.loads(manifest).get("kind"), SGLANG)
