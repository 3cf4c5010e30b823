"""A draft read from an export in any format, ready to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from eagle3.draft.model import Eagle3Draft
from eagle3.errors import Foreign
from eagle3.export.exported import read_arrays
from eagle3.export.formats import format_of
from eagle3.tokens.vocab import VocabMapping


def load_draft(
    folder: Path, settings_digest: str | None = None
) -> tuple[Eagle3Draft, VocabMapping]:
    """The draft of an export, in float32, and its vocabulary mapping.

    Raises UserError on anything that an engine would load silently wrong.
    """
    description, arrays, mapping = read_arrays(format_of(folder), folder, settings_digest)
    with Foreign(f"{folder}: config.json does not describe the draft in the same folder"):
        draft = Eagle3Draft(description.config)
        float_arrays = {name: torch.from_numpy(a.astype(np.float32)) for name, a in arrays.items()}
        draft.load_state_dict(float_arrays)
    return draft.eval(), mapping
