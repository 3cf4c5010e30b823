"""Prompts for a server out of the shapes that people keep them in."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle3.data.conversations import BadRow, Message, parse_row
from eagle3.data.sources import Source, Unreadable, read_rows
from eagle3.data.templates import Renderer
from eagle3.errors import UserError

log = logging.getLogger(__name__)
TEXTS = ("prompt", "question", "instruction", "article")  # columns that hold a question


def read_prompts(path: Path, renderer: Renderer, most: int) -> list[list[int]]:
    """Token ids of the first `most` prompts of a file, as a server's chat endpoint would send them
    to the model.

    Raises UserError if no row holds one.
    """
    found: list[list[int]] = []
    skipped: Counter[str] = Counter()
    for row in read_rows(Source(str(path))):
        if len(found) == most:
            break
        try:
            messages, tools = question(row)
            text = renderer.prompt(messages, tools)
        except BadRow as fault:
            skipped[str(fault)] += 1
            continue
        found.append(renderer.tokenizer(text, add_special_tokens=False)["input_ids"])
    if skipped:
        log.warning("%s: rows passed over: %s", path, dict(skipped))
    if not found:
        raise UserError(
            f"--prompts: {path} holds no prompt; rows have messages, conversations, turns, or one "
            f"of {', '.join(TEXTS)}"
        )
    return found


def question(row: Any) -> tuple[list[Message], Any]:
    """Messages up to the answer that is asked for, and tools.

    A conversation without its last answer; the first of several `turns` as in MT-bench; a text.
    Raises BadRow.
    """
    if isinstance(row, Unreadable):
        raise BadRow(row.cause)
    if not isinstance(row, Mapping):
        raise BadRow("row is not an object")
    for name in ("messages", "conversations"):
        turns = row.get(name)
        if isinstance(turns, list) and turns:
            last = turns[-1] if isinstance(turns[-1], Mapping) else {}
            if last.get("role", last.get("from")) in ("user", "human", "tool"):
                turns = [*turns, {"role": "assistant", "content": "…"}]  # the one asked for
            parsed, _ = parse_row({**row, "messages": turns, "conversations": None})
            return parsed.messages[:-1], parsed.tools
    turns = row.get("turns")
    texts = [turns[0] if isinstance(turns, list) and turns else None]
    texts += [row.get(name) for name in TEXTS]
    if isinstance(row.get("article"), str) and row["article"].strip():
        texts[-1] = f"Summarize the following article.\n\n{row['article']}"
    for text in texts:
        if isinstance(text, str) and text.strip():
            about = row.get("input") if text is row.get("instruction") else None  # as in Alpaca
            more = f"\n\n{about}" if isinstance(about, str) and about.strip() else ""
            return [{"role": "user", "content": text + more}], None
    raise BadRow("no question")
