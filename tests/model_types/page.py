"""docs/targets.md: every causal model type of transformers, and what came of a tiny model of it.

python -m tests.model_types.page > docs/targets.md        some five minutes on a core
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoConfig, __version__
from transformers.utils import logging

from eagle3.draft.config import compromises
from eagle3.errors import UserError
from eagle3.target_model.config import figure
from tests.builders.target_types import answer, causal_types
from tests.model_types.shrink import CONTEXT
from tests.model_types.work import HELP, Outcome, work

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "targets.md"
STATES, STEPS = "equal", 2
CACHE, WHOLE = "lossless", "lossless, without a cache"


@dataclass(frozen=True)
class Row:
    """What the page says of a type: cells of the table, or the sentence that refuses it."""

    decoding: str = ""
    by_hand: str = ""
    refusal: str = ""

    @classmethod
    def of(cls, outcome: Outcome) -> Row:
        assert outcome.steps == STEPS
        return cls(CACHE if outcome.cached else WHOLE, "; ".join(outcome.keys))


def row_of(kind: str) -> Row:
    """Raises AssertionError if a comparison fails."""
    said = answer(kind).refusal
    if said is not None and not any(part in said for part in HELP.values()):
        return Row(refusal=sentence(said))
    with TemporaryDirectory() as folder:
        try:
            return Row.of(work(kind, Path(folder)))
        except UserError as fault:
            return Row(refusal=sentence(str(fault).replace(f"{folder}/target/", "")))


def sentence(refusal: str) -> str:
    return refusal.removeprefix("target.model: ").replace("|", "\\|")


def notes_of(kind: str) -> str:
    """Where the draft is not shaped as the target, by the default of its class, with what a refusal
    asks for."""
    text = AutoConfig.for_model(kind).get_text_config(decoder=True)
    if getattr(text, "max_position_embeddings", None) is None:
        text.max_position_embeddings = CONTEXT
    heads = {} if figure(text, "num_attention_heads") else {"num_attention_heads": 4}
    return "; ".join(compromises(text, heads))


def page(rows: Mapping[str, Row]) -> str:
    """The text of docs/targets.md."""
    notes = {kind: notes_of(kind) for kind, row in rows.items() if not row.refusal}
    head = (FOLDER / "targets.md.head").read_text(encoding="utf-8")
    own = [note for note in notes.values() if note]
    counts = {
        "version": __version__,
        "trained": len(notes),
        "plain": len(notes) - len(own),
        "own": len(own),
        "refused": len(rows) - len(notes),
        "encoders": sum("of an encoder" in row.refusal for row in rows.values()),
        "by_hand": sum(bool(row.by_hand) for row in rows.values()),
    }
    return head.format(**counts) + "\n".join(_tables(rows, notes)) + "\n"


def _tables(rows: Mapping[str, Row], notes: Mapping[str, str]) -> Iterator[str]:
    yield "## Trained\n"
    yield "| type | states | draft | training steps | decoding | to be set by hand |"
    yield "|---|---|---|---|---|---|"
    for kind, row in rows.items():
        if not row.refusal:
            shape = "its own shape" if notes[kind] else "the target's shape"
            yield f"| `{kind}` | {STATES} | {shape} | {STEPS} | {row.decoding} | {row.by_hand} |"
    yield "\n## Drafts of a shape of their own\n"
    yield "| types | what is said |\n|---|---|"
    yield from _grouped(notes)
    yield "\n## Refused\n"
    yield "| types | what is said |\n|---|---|"
    yield from _grouped({kind: row.refusal for kind, row in rows.items()})


def _grouped(said: Mapping[str, str]) -> Iterator[str]:
    """A line for every sentence, with the types that it is said of."""
    kinds: dict[str, list[str]] = {}
    for kind, text in said.items():
        if text:
            kinds.setdefault(text, []).append(f"`{kind}`")
    for text, named in kinds.items():
        yield f"| {', '.join(named)} | {text} |"


def parsed(text: str) -> dict[str, Row]:
    """The rows that a page was written from."""
    rows: dict[str, Row] = {}
    part = ""
    for line in text.splitlines():
        part = line if line.startswith("## ") else part
        cells = [cell.strip() for cell in line.replace("\\|", "\0").split("|")[1:-1]]
        if not cells or not cells[0].startswith("`"):
            continue
        kinds = [kind.strip("`") for kind in cells[0].split(", ")]
        if part == "## Trained":
            rows[kinds[0]] = Row(cells[4], cells[5])
        elif part == "## Refused":
            rows |= {kind: Row(refusal=cells[1].replace("\0", "\\|")) for kind in kinds}
    return dict(sorted(rows.items()))


def main() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kinds = sys.argv[1:] or causal_types()
    rows = {}
    for kind in kinds:
        rows[kind] = row_of(kind)
        print(kind, rows[kind], file=sys.stderr, flush=True)
    sys.stdout.write(page(rows))


if __name__ == "__main__":
    main()
