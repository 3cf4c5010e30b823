"""Prompts for a server out of the shapes that people keep them in."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from eagle3.data.conversations import BadRow
from eagle3.data.prompts import questions
from eagle3.data.row_files import Unreadable
from eagle3.data.sources import Source, read_rows
from eagle3.data.templates import Renderer
from eagle3.errors import UserError

log = logging.getLogger(__name__)


def read_prompts(path: Path, renderer: Renderer, most: int) -> list[list[int]]:
    """Token ids of the first `most` prompts of a file, as a server's chat endpoint would send them
    to the model.

    Raises UserError if no row holds one.
    """
    prompts: list[list[int]] = []
    skipped: Counter[str] = Counter()
    for question in questions(read_rows(Source(str(path)))):
        if len(prompts) == most:
            break
        if isinstance(question, Unreadable):
            skipped[question.cause] += 1
            continue
        try:
            text = renderer.prompt(question.messages, question.tools, question.options)
        except BadRow as fault:
            skipped[str(fault)] += 1
            continue
        prompts.append(renderer.tokenizer(text, add_special_tokens=False)["input_ids"])
    if skipped:
        log.warning("%s: rows skipped: %s", path, dict(skipped))
    if not prompts:
        raise UserError(f"--prompts: {path} holds no prompt ({dict(skipped)})")
    return prompts
