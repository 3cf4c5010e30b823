"""Every form by its name, and which one a folder is in."""

from __future__ import annotations

import json
from pathlib import Path

from eagle3.artifact import MANIFEST_KEY
from eagle3.serving.exports.exported import Form
from eagle3.serving.exports.huggingface import HF
from eagle3.serving.exports.sglang import SGLANG
from eagle3.serving.exports.speculators import SPECULATORS
from eagle3.serving.exports.vllm import VLLM
from eagle3.tensorfile import open_tensors

FORMS = {form.name: form for form in (SGLANG, VLLM, SPECULATORS, HF)}


def form_of(folder: Path) -> Form:
    """The form of an export, by its manifest."""
    with open_tensors(folder / "model.safetensors") as handle:
        manifest = (handle.metadata() or {}).get(MANIFEST_KEY, "{}")
    kinds = {form.kind: form for form in FORMS.values()}
    # of another kind or none: the reader says what is wrong
    return kinds.get(json.loads(manifest).get("kind"), SGLANG)
