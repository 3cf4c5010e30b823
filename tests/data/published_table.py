"""The table of docs/masks.md: published templates and what becomes of each kind of conversation.

python -m tests.data.published_table        writes it into the page
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from eagle3.config.tokens import Tokens
from eagle3.data.conversations import BadRow
from eagle3.data.masks import Masker
from tests.data.kinds import KINDS, conversation
from tests.data.published import Published, published

PAGE = Path(__file__).resolve().parents[2] / "docs" / "masks.md"
BEGIN, END = "<!-- templates: python -m tests.data.published_table -->\n", "<!-- /templates -->\n"
CAUSES = {  # by the letter that stands for them in the table
    "o": "the template leaves parts out",
    "w": "the template rewrites it",
    "r": "the chat template refuses the conversation",
    "p": "the template shows an answer differently from the beginning in its prompt",
    "e": "the template ends an answer without a stop token",
    "t": "the answer has a thought, but its prompt leaves the thought empty",
}
EXACT = "✓"


def masker_of(row: Published) -> Masker:
    tokenizer = row.tokenizer()
    stops = tokenizer.convert_tokens_to_ids(list(row.stops))
    return Masker(tokenizer, Tokens(max_length=10**6), stops)


def supervised(row: Published, kind: str, masker: Masker) -> list[str] | str:
    """What the masker supervises, answer by answer in their order; or why it refuses."""
    ((_, result),) = masker([conversation(kind)])
    if isinstance(result, BadRow):
        return str(result)
    pieces: list[str] = []
    for document in result:
        ids, mask = document.input_ids, document.loss_mask
        edges = [0, *(n for n in range(1, len(ids)) if mask[n] != mask[n - 1]), len(ids)]
        for start, end in pairwise(edges):
            if mask[start]:
                pieces.append(row.tokenizer().decode(ids[start:end].tolist()))
    return pieces


def cell(row: Published, kind: str, masker: Masker) -> str:
    result = supervised(row, kind, masker)
    if not isinstance(result, str):
        return EXACT
    return next(letter for letter, cause in CAUSES.items() if cause in result)


def table() -> str:
    """The templates that come out alike share a line."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, row in published().items():
        masker = masker_of(row)
        cells = tuple(cell(row, kind, masker) for kind in KINDS)
        alike.setdefault(cells, []).append(name)
    lines = [f"| template | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    for cells, names in sorted(alike.items(), key=lambda each: -each[0].count(EXACT)):
        lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {' | '.join(cells)} |")
    exact = sum(cells.count(EXACT) * len(names) for cells, names in alike.items())
    total = len(published()) * len(KINDS)
    lines += ["", f"{exact:,} of {total:,} cells are exact; the others are rejected and counted."]
    return "\n".join(lines) + "\n"


def main() -> None:
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(before + BEGIN + table() + END + after)


if __name__ == "__main__":
    main()
