"""The form of each codec's rows on disk: types and widths. The codecs themselves: `codecs`.

Imports no torch, so that a run is planned without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eagle3.errors import UserError
from eagle3.files.tensor_stream import ITEM_BYTES

GROUP = 32  # numbers that share a scale in nf4


@dataclass(frozen=True)
class Column:
    """One tensor of a codec: its safetensors type, and the items of a row."""

    kind: str
    width: int

    @property
    def row_bytes(self) -> int:
        return ITEM_BYTES[self.kind] * self.width


@dataclass(frozen=True)
class Stored:
    """The form of a codec's rows.

    `columns`: from the chunks of a row and the numbers of a chunk to the tensors by suffix; raises
    UserError if the codec cannot hold rows of that width. A row of numbers consists of `planes`
    equal parts, of which `compressed_planes` are compressed. `typical_ratio`: stored to raw bytes
    of the numbers, for plans made before capture.
    """

    columns: Callable[[int, int], dict[str, Column]]
    planes: int = 1
    compressed_planes: int = 0
    typical_ratio: float = 1.0


def _plain(kind: str, items: int = 1) -> Callable[[int, int], dict[str, Column]]:
    return lambda chunks, hidden: {"": Column(kind, items * chunks * hidden)}


def _scaled(kind: str) -> Callable[[int, int], dict[str, Column]]:
    """One item per number, and a scale for each chunk."""
    return lambda chunks, hidden: {
        "": Column(kind, chunks * hidden),
        "_scale": Column("BF16", chunks),
    }


def _nf4(chunks: int, hidden: int) -> dict[str, Column]:
    if hidden % GROUP:
        raise UserError(
            f"hidden_states.codec is nf4, which needs a hidden size that {GROUP} divides; the "
            f"target's is {hidden}: use int8"
        )
    return {
        "": Column("U8", chunks * hidden // 2),
        "_scale": Column("BF16", chunks),
        "_group_scale": Column("F8_E4M3", chunks * hidden // GROUP),
    }


STORED = {
    "fp32": Stored(_plain("F32")),
    "bf16": Stored(_plain("BF16")),
    "bf16_zstd": Stored(_plain("U8", items=2), planes=2, compressed_planes=1, typical_ratio=0.68),
    "fp8_e4m3": Stored(_scaled("F8_E4M3")),
    "fp8_e4m3_zstd": Stored(_scaled("F8_E4M3"), compressed_planes=1, typical_ratio=0.83),
    "int8": Stored(_scaled("I8")),
    "nf4": Stored(_nf4),
}
