"""Files of speculators: one safetensors file for each row of its prepared dataset.

    token_ids              int64 [L]
    hidden_states          [L, C + 1, H]   outputs of layers, then the last one before the norm
    hidden_states_scales   [L, 1, 1]       with its float8 connector

Masks are in the dataset that `speculators prepare-data` saved: `input_ids` and `loss_mask`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eagle3.data.faults import BadRow
from eagle3.errors import Foreign, UserError
from eagle3.files.tensor_file import open_tensors
from eagle3.imports.document import REMEDY, PeerDocument
from eagle3.imports.specforge import UNREADABLE

STATES, SCALES, IDS = "hidden_states", "hidden_states_scales", "token_ids"
MASK_KEY = "hidden_states.source.dataset"


class SpeculatorsFiles:
    """Documents in a folder of hs_*.safetensors, with the dataset that they belong to."""

    normed = False

    def __init__(self, folder: Path, names: Mapping[int, str], dataset: Path) -> None:
        """`names`: the file of each document, relative to `folder`.

        Raises UserError if the dataset cannot be read.
        """
        self.folder, self.names = folder, names
        self.rows = read_dataset(dataset)

    def read(self, number: int) -> PeerDocument:
        """Raises BadRow for a damaged file, or one of other tokens than its row."""
        path = self.folder / self.names[number]
        if number >= len(self.rows):
            raise BadRow("file without a row in the dataset", f"row {number}", REMEDY)
        row = self.rows[number]
        try:
            with open_tensors(path, "pt") as file, Foreign(str(path)):
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except UserError as fault:
            raise BadRow(UNREADABLE, str(fault), REMEDY) from None
        if not {STATES, IDS} <= tensors.keys() or tensors[STATES].dim() != 3:
            raise BadRow("file without states of layers", f"it has {sorted(tensors)}", REMEDY)
        ids, states = tensors[IDS].long().numpy(), tensors[STATES]
        if not np.array_equal(ids, row["input_ids"]):
            raise BadRow("tokens other than those of its row in the dataset", "", REMEDY)
        if SCALES in tensors:  # one per token, from its float8 connector
            states = states.to(torch.bfloat16) * tensors[SCALES].to(torch.bfloat16)
        mask = np.asarray(row["loss_mask"]).astype(np.int64)
        return PeerDocument(ids, mask, states[:, :-1].flatten(1), states[:, -1])


def read_dataset(folder: Path) -> Any:
    """A prepared dataset, with rows as NumPy arrays. Raises UserError if it is not one."""
    import datasets

    with Foreign(f"{MASK_KEY}: cannot read {folder}"):
        table = datasets.load_from_disk(str(folder), keep_in_memory=False)
    if not isinstance(table, datasets.Dataset) or not {"input_ids", "loss_mask"} <= set(
        table.column_names
    ):
        raise UserError(
            f"{MASK_KEY}: {folder} has no input_ids and loss_mask, so it is no dataset of "
            "`speculators prepare-data`"
        )
    return table.select_columns(["input_ids", "loss_mask"]).with_format("numpy")
