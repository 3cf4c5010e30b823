"""Train the tiny target of the embedded default and save it as a Hugging Face directory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from eagle3.config.target import EmbeddedTarget
from eagle3.data.conversations import BadRow, parse_row
from eagle3.data.row_files import Unreadable
from eagle3.data.sources import Source, read_rows
from eagle3.errors import UserError
from eagle3.target_model.embedded import build_model, save, train
from eagle3.target_model.embedded_tokenizer import train_tokenizer
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    torch.set_num_threads(job.threads)
    values = job.settings("embedded_target").values["embedded_target"]
    settings = EmbeddedTarget.from_settings(values)
    conversations = list(_conversations(Source(job.run.external.embedded_source)))
    texts = (turn["content"] for messages in conversations for turn in messages)
    tokenizer = train_tokenizer(texts, settings.vocab_size)
    rendered = [tokenizer.apply_chat_template(m, tokenize=False) for m in conversations]
    documents = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    logging.info("%d conversations, %d tokens", len(documents), sum(map(len, documents)))
    model = build_model(settings, len(tokenizer))
    try:
        train(model, documents, settings, logging.getLogger())
    except ValueError as fault:
        raise UserError(f"embedded_target: {fault}") from None
    save(model, tokenizer, Path(job.run.paths.embedded_target))


def _conversations(source: Source) -> Iterator[list[dict[str, Any]]]:
    """Messages of the usable rows; the others are counted and listed by the dataset job."""
    for row in read_rows(source):
        try:
            if not isinstance(row, Unreadable):
                conversation = parse_row(row)[0]
                if conversation.text is None:  # rendered text belongs to another tokenizer
                    yield conversation.messages
        except BadRow:
            continue


if __name__ == "__main__":
    entry.start(main, __doc__)
