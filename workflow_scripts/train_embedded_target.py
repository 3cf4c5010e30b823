"""Train the tiny target of the embedded default and save it as a Hugging Face directory."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from eagle3.config.target import EmbeddedTarget
from eagle3.data.conversations import BadRow, parse_row
from eagle3.data.sources import Source, Unreadable, read_rows
from eagle3.errors import UserError
from eagle3.target.embedded import build_model, save, train
from eagle3.target.embedded_tokenizer import train_tokenizer
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--source", required=True)
    args.add_argument("--threads", type=int, required=True)
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    torch.set_num_threads(given.threads)
    settings = EmbeddedTarget.from_settings(given.settings.values["embedded_target"])
    try:
        make(given, settings)
    except ValueError as fault:
        raise UserError(f"embedded_target: {fault}") from None


def make(given: argparse.Namespace, settings: EmbeddedTarget) -> None:
    """Train and save."""
    conversations = []
    for row in read_rows(Source(given.source)):
        try:
            if not isinstance(row, Unreadable):
                found = parse_row(row)[0]
                if found.text is None:  # who writes it has another tokenizer
                    conversations.append(found.messages)
        except BadRow:
            continue  # counted and listed by the dataset stage
    texts = (turn["content"] for messages in conversations for turn in messages)
    tokenizer = train_tokenizer(texts, settings.vocab_size)
    rendered = [tokenizer.apply_chat_template(m, tokenize=False) for m in conversations]
    documents = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    logging.info("%d conversations, %d tokens", len(documents), sum(map(len, documents)))
    model = build_model(settings, len(tokenizer))
    train(model, documents, settings, logging.getLogger())
    save(model, tokenizer, given.out)


entry.run(main)
