"""Every form by its name, and a draft read from whichever it is in."""

from __future__ import annotations

import json
from pathlib import Path

from eagle3.artifact import MANIFEST_KEY
from eagle3.draft.model import Eagle3Draft
from eagle3.serving.exports.exported import Form, read_draft
from eagle3.serving.exports.huggingface import HF
from eagle3.serving.exports.sglang import SGLANG
from eagle3.serving.exports.speculators import SPECULATORS
from eagle3.serving.exports.vllm import VLLM
from eagle3.tensorfile import open_tensors
from eagle3.tokens.vocab import VocabMapping

FORMS = {form.name: form for form in (SGLANG, VLLM, SPECULATORS, HF)}


def form_of(folder: Path) -> Form:
    """The form of an export, by its manifest."""
    with open_tensors(folder / "model.safetensors") as handle:
        manifest = (handle.metadata() or {}).get(MANIFEST_KEY, "{}")
    kinds = {form.kind: form for form in FORMS.values()}
    # of another kind or none: the reader says what is wrong
    return kinds.get(json.loads(manifest).get("kind"), SGLANG)


def load_draft(
    folder: Path, settings_digest: str | None = None
) -> tuple[Eagle3Draft, VocabMapping]:
    """The draft of an export in any form, in float32, and its vocabulary mapping.

    Raises UserError on anything that an engine would load silently wrong.
    """
    return read_draft(form_of(folder), folder, settings_digest)
