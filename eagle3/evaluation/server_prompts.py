"""Prompts for a server, from files of several formats."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.data.prompts import Question, first_prompts, questions
from eagle3.data.sources import Source, read_rows
from eagle3.data.templates import Renderer
from eagle3.errors import UserError

log = logging.getLogger(__name__)


def read_prompts(path: Path, renderer: Renderer, limit: int) -> list[list[int]]:
    """Token ids of the first `limit` prompts of a file, as a server's chat endpoint renders them.

    Raises UserError if no row has a prompt.
    """

    def encode(question: Question) -> list[int]:
        text = renderer.prompt(question.messages, question.tools, question.options)
        ids: list[int] = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    prompts, skipped = first_prompts(questions(read_rows(Source(str(path)))), limit, encode)
    if skipped:
        log.warning("%s: rows skipped: %s", path, dict(skipped))
    if not prompts:
        raise UserError(f"--prompts: {path} holds no prompt ({dict(skipped)})")
    return [ids for _, ids in prompts]
