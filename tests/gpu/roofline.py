"""How long a training step would take on a GPU if every kernel ran at the card's best rates.

    python -m tests.gpu.roofline                    # needs g++ and no GPU
    python -m tests.gpu.roofline --documents 8x1024 --lines 20      # and the longest lines

The step of `benchmarks.gpu` runs on the pretended GPU with tensors that have shapes and no numbers.
Each kernel takes the longer of its arithmetic and its memory traffic, and a launch at least; a
compiled function is one kernel that reads each operand and writes each result once. So these are
bounds of the code as it is written, not measurements: what a card adds is not in them (gaps
between kernels, small products below their best rate, repeated reads that no cache serves).
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.gpu import guard

if __name__ == "__main__":  # before torch
    with TemporaryDirectory() as folder:
        guard.load(guard.build(Path(folder)))

import torch

from tests.gpu.pretended import GPU, ROOT, PretendedGpu, install

if __name__ == "__main__":  # before the project
    install()

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.step import LLAMA_8B, SPECFORGE, Trial
from benchmarks.synthetic import Shape
from benchmarks.tables import parser, show
from eagle3.objective.dispatch import dispatch, teachers_in_draft_vocab
from eagle3.objective.flops import Work
from eagle3.objective.pack import Pack
from eagle3.objective.settings import Objective, TargetParts

PACKS = [(8, 1024), (4, 2048), (8, 2048), (8, 4096)]
KINDS = ("products", "attention", "compiled", "other operators")
PRODUCTS = {"mm", "addmm", "bmm", "addmm_"}
GATHERS = {"index", "index_select", "gather", "embedding"}
SCATTERS = {"index_add_", "index_add"}
IN_PLACE_ROWS = {"index_copy_", "index_put_", "index_copy"}


@dataclass(frozen=True)
class Card:
    """What kernels reach at best, per second."""

    peak: float = 989e12  # dense bfloat16, of the data sheet of an H100 or H200
    product: float = 650e12  # FLOP of bfloat16 products
    attention: float = 350e12  # FLOP of flash attention
    single: float = 45e12  # FLOP of float32 products
    memory: float = 2.8e12  # bytes
    launch: float = 4e-6  # seconds of the smallest kernel


class Roofline:
    """Seconds of all kernels, by kind and by line."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.by_kind: Counter[str] = Counter()
        self.by_line: Counter[str] = Counter()

    def kernel(self, func: Any, read: list[torch.Tensor], written: list[torch.Tensor]) -> None:
        name = func._schema.name.split("::")[1]
        if name in PRODUCTS:
            a, b = read[1:3] if name.startswith("addmm") else read[:2]
            flops = 2.0 * a.numel() * b.shape[-1]
            rate = self.card.product if a.dtype.itemsize == 2 else self.card.single
            self._add("products", name, size_of(read, written), flops / rate)
        elif "flash_attention" in name:
            flops = attention_flops(read, "backward" in name)
            self._add("attention", name, size_of(read, written), flops / self.card.attention)
        else:
            self._add("other operators", name, traffic(name, read, written))

    def compiled(
        self,
        function: Any,
        read: list[torch.Tensor],
        looked_up: list[torch.Tensor],
        written: list[torch.Tensor],
    ) -> None:
        self._add("compiled", function.__name__, size_of(read, written) + size_of(looked_up))

    def _add(self, kind: str, name: str, size: int, arithmetic: float = 0.0) -> None:
        seconds = max(size / self.card.memory, arithmetic, self.card.launch)
        self.by_kind[kind] += seconds
        self.by_line[f"{name} {project_line()}"] += seconds


def size_of(*groups: list[torch.Tensor]) -> int:
    """Bytes of tensors, each once; an expanded dimension has one element."""
    own = {id(x): x for group in groups for x in group}
    return sum(
        x.element_size()
        * int(torch.Size(n if s else 1 for n, s in zip(x.shape, x.stride(), strict=True)).numel())
        for x in own.values()
    )


def traffic(name: str, read: list[torch.Tensor], written: list[torch.Tensor]) -> int:
    """Bytes that an operator without products moves."""
    if name in GATHERS:
        return 2 * size_of(written)
    if name in SCATTERS:  # reads the rows, reads and writes what they are added to
        return 3 * size_of([read[-1]])
    if name in IN_PLACE_ROWS:
        return 2 * size_of([read[-1]])
    return size_of(read, written)


def attention_flops(read: list[torch.Tensor], backward: bool) -> float:
    """Of causal attention inside documents."""
    bounds = next(x for x in read if x.dtype == torch.int32)
    lengths = bounds.diff().double()
    q = read[1] if backward else read[0]
    pairs = float((lengths * lengths).sum()) / 2
    return 4 * pairs * q.shape[1] * q.shape[2] * (2.5 if backward else 1.0)


def project_line() -> str:
    """The line of the project that is being carried out; in the backward pass `autograd` may be."""
    frame = sys._getframe(1)
    while frame:
        file = frame.f_code.co_filename
        if file.startswith(str(ROOT / "eagle3")):
            return f"{file[len(str(ROOT)) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "autograd"


def needed(trial: Trial) -> float:
    """FLOP that the result of a step needs, whose counts follow from masks and tokens."""
    there, target = trial.pack.columns, trial.runner.target
    on_host = Pack(
        **vars(there),
        aux=torch.empty(len(there.row_tokens), 0),
        last=torch.empty(len(there.teacher_argmax), 0),
        last_tokens=torch.empty(len(there.teacher_argmax), dtype=torch.int64),
        teacher_lse=torch.empty(len(there.teacher_argmax)),
    )
    parts = TargetParts(torch.empty(0), target.head, target.host_draft_ids)
    index, _ = dispatch(on_host, parts, Objective(), trial.config)
    pairs, _, _ = index.pairs(teachers_in_draft_vocab(on_host, parts, index))
    return Work(
        rows=len(there.row_tokens),
        active=[int(n) for n in index.totals.active.tolist()],
        scored=len(pairs.step),
        teacher_rows=len(pairs.teacher.unique()),
        attended=int(index.totals.attended.sum()),
    ).flops(trial.config)


def step(
    card: Card, shape: Shape, lengths: list[int], supervised: float, recompute: bool
) -> tuple[Row, Roofline]:
    """Figures of an optimiser step of one pack, and what its kernels take."""
    with PretendedGpu(Roofline(card)) as mode:
        trial = Trial(Bench(GPU, tiny=False, budget=1e9), shape, lengths, supervised, recompute)
        trial.step()  # makes the optimiser's state
        roofline = mode.ledger = Roofline(card)
        mode.reset()
        trial.step()
    seconds, tokens = sum(roofline.by_kind.values()), sum(lengths)
    row = {
        "tokens": tokens,
        "recompute": recompute,
        "ms": seconds * 1e3,
        "tokens/s": round(tokens / seconds),
        "MFU %": 100 * needed(trial) / seconds / card.peak,
        "peak GB": mode.peak / 1e9,
        "kernels": mode.kernels,
        **{f"{kind} ms": roofline.by_kind[kind] * 1e3 for kind in KINDS},
    }
    return row, roofline


def main() -> None:
    args = parser(__doc__)
    args.add_argument(
        "--documents", nargs="*", metavar="NxTOKENS", help="a pack of the 8B draft shape each"
    )
    args.add_argument("--lines", type=int, default=0, help="how many of the longest lines to list")
    for field in fields(Card):
        name = f"--{field.name.replace('_', '-')}"
        args.add_argument(name, type=float, default=field.default, help="of the card, per second")
    given = args.parse_args()
    card = Card(**{field.name: getattr(given, field.name) for field in fields(Card)})
    packs = [tuple(map(int, pack.split("x"))) for pack in given.documents or []]
    cases = [(f"{n} x {size}", LLAMA_8B, [size] * n, 0.64) for n, size in packs or PACKS]
    if not packs:
        cases += [(f"{c.lengths}, H {c.shape.hidden}", c.shape, c.lengths, 0.75) for c in SPECFORGE]
    rows, longest = [], {}
    for name, shape, lengths, supervised in cases:
        for recompute in (False, True):
            row, roofline = step(card, shape, lengths, supervised, recompute)
            rows.append({"documents": name} | row)
            if given.lines:
                lines = roofline.by_line.most_common(given.lines)
                what = f"{name}, recompute {recompute}"
                longest[what] = {line: seconds * 1e3 for line, seconds in lines}
    show("a training step at the card's best rates", rows, given, card=vars(card), lines=longest)
    for name, times in longest.items():
        print(f"# {name}", *[f"{ms:9.3f} ms  {line}" for line, ms in times.items()], sep="\n")


if __name__ == "__main__":
    main()
