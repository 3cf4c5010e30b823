"""The formats of an export, and what the engine of each can represent. Imports no torch: used
before any job starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eagle3.errors import UserError

FORMATS = ("sglang", "vllm", "speculators", "hf")
# switches of the draft that a form cannot carry, and why: an engine would drop them without a word
LACKING = {
    ("sglang", "qk_norm"): "SGLang's draft class (0.5.23) has no q/k norm and drops such tensors",
}


def check_formats(formats: Sequence[str], draft: Mapping[str, Any]) -> None:
    """Raise UserError if a form cannot carry a switch that is on in `draft`."""
    for (fmt, switch), reason in LACKING.items():
        if fmt in formats and draft.get(switch):
            others = [name for name in FORMATS if (name, switch) not in LACKING]
            raise UserError(
                f"config: export.formats is {list(formats)} but draft.{switch} is true: {reason} "
                f"without a word; use formats of {others}, or set draft.{switch} to false"
            )
