"""What tensors a hidden-state shard has, and where in them each document's rows lie.

The one definition, for writer, reader and plan. A shard of T rows of aux and R rows of last holds,
in addition to what its codec adds (`codecs`):

    aux             [T, C H]       C layers side by side, the lowest first
    last            [R, H]         post-norm state, at the positions whose teacher is used
    teacher_argmax  int32 [R]      from the target's own logits
    teacher_lse     float32 [R]    log-sum-exp over the full vocabulary, of the state as stored
    checksum        uint64 [D]     XXH3 of each document's bytes, checked whenever they are read

With a compressing codec `aux` and `last` are not separate tensors: `frames` holds them document
by document, and `frame_index` int64 [D, 3] where (first byte, bytes of aux, bytes of last).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eagle3.files.tensor_stream import Declared
from eagle3.store.columns import STORED, Column
from eagle3.tokens.needed_states import NeededStates

LAST_CHUNKS = 1  # of a row of last; a row of aux has one for each layer
CHECK_KIND = "capture_check"  # manifest kind of a shard's self-check
FRAMES, INDEX, CHECKSUM = "frames", "frame_index", "checksum"


@dataclass(frozen=True)
class Part:
    """One tensor with a row for each row of aux, or of last."""

    name: str
    column: Column
    of_aux: bool
    framed: bool  # stored in the document's frame


class Layout:
    """Layout of one shard."""

    def __init__(self, needed: NeededStates, codec: str, hidden: int, layers: int) -> None:
        """`layers`: number of target layers in aux. Raises UserError if the codec cannot hold
        states of width `hidden`."""
        self.needed, self.codec, self.hidden, self.layers = needed, codec, hidden, layers
        self.stored = STORED[codec]
        self.framed = self.stored.compressed_planes > 0
        self.parts = [
            *self._parts("aux", self.stored.columns(layers, hidden)),
            *self._parts("last", self.stored.columns(LAST_CHUNKS, hidden)),
            Part("teacher_argmax", Column("I32", 1), False, False),
            Part("teacher_lse", Column("F32", 1), False, False),
        ]

    def _parts(self, name: str, columns: dict[str, Column]) -> Iterator[Part]:
        for suffix, column in columns.items():
            yield Part(name + suffix, column, name == "aux", self.framed and suffix == "")

    @property
    def documents(self) -> int:
        return len(self.needed.kept)

    @property
    def aux_rows(self) -> int:
        return int(self.needed.aux_offsets[-1])

    @property
    def last_rows(self) -> int:
        return int(self.needed.last_offsets[-1])

    def rows(self, part: Part, document: int) -> tuple[int, int]:
        """First row of a document in a part, and the one after its last."""
        offsets = self.needed.aux_offsets if part.of_aux else self.needed.last_offsets
        return int(offsets[document]), int(offsets[document + 1])

    def declared(self) -> dict[str, Declared]:
        """The tensors of the file except `frames`."""
        tensors = {CHECKSUM: Declared("U64", (self.documents,))}
        if self.framed:
            tensors[INDEX] = Declared("I64", (self.documents, 3))
        for part in self.parts:
            if not part.framed:
                shape: tuple[int, ...] = (self.aux_rows if part.of_aux else self.last_rows,)
                if not part.name.startswith("teacher"):
                    shape += (part.column.width,)
                tensors[part.name] = Declared(part.column.kind, shape)
        return tensors

    def expected_bytes(self) -> int:
        """Bytes of the tensors, exact unless rows are compressed."""
        fixed = sum(tensor.nbytes for tensor in self.declared().values())
        rows = {True: self.aux_rows, False: self.last_rows}
        framed = sum(rows[p.of_aux] * p.column.row_bytes for p in self.parts if p.framed)
        return fixed + int(framed * self.stored.typical_ratio)
