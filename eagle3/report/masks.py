"""Documents of a token shard as text, with the target's own words in colour."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from eagle3.tokens.shards import TokenShard

SUPERVISED, PLAIN, END = "\x1b[30;42m", "\x1b[2m", "\x1b[0m"
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Loss masks</title>
<style>
body {{ font: 14px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; color: #667; }}
pre {{ border-left: 3px solid #ccc; padding-left: 1rem; }}
mark {{ background: #bfe8c2; color: #000; }}
</style>
<h1>Loss masks</h1>
<p><mark>What the target itself has written</mark>: only these tokens are learned.</p>
{documents}
</html>
"""


def runs(ids: np.ndarray, mask: np.ndarray, tokenizer: Any) -> Iterator[tuple[bool, str]]:
    """The text of a document in stretches of equal mask: int [L] and 0/1 [L]."""
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(mask)]
    for first, stop in pairwise(edges):
        text = tokenizer.decode(ids[first:stop].tolist(), clean_up_tokenization_spaces=False)
        yield bool(mask[first]), text


def document(shard: TokenShard, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of a document."""
    span = slice(*shard.doc_offsets[number : number + 2].tolist())
    return shard.input_ids[span], shard.loss_mask[span]


def for_terminal(shard: TokenShard, number: int, tokenizer: Any) -> str:
    """A document with colours of a terminal."""
    ids, mask = document(shard, number)
    pieces = [f"{_title(shard, number, mask)}\n"]
    for supervised, text in runs(ids, mask, tokenizer):
        # line by line, else the colour extends to the edge of the window
        colour = SUPERVISED if supervised else PLAIN
        pieces.append("\n".join(f"{colour}{line}{END}" for line in text.split("\n")))
    return "".join(pieces) + "\n"


def for_browser(shard: TokenShard, numbers: range, tokenizer: Any) -> str:
    """Some documents as a self-contained page."""
    parts = []
    for number in numbers:
        ids, mask = document(shard, number)
        text = "".join(
            f"<mark>{escape(text)}</mark>" if supervised else escape(text)
            for supervised, text in runs(ids, mask, tokenizer)
        )
        parts.append(f"<h2>{escape(_title(shard, number, mask))}</h2>\n<pre>{text}</pre>")
    return PAGE.format(documents="\n".join(parts))


def _title(shard: TokenShard, number: int, mask: np.ndarray) -> str:
    return f"{shard.row_ids[number]}: {int(mask.sum())} of {len(mask)} tokens supervised"
