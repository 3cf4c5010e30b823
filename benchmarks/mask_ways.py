"""Two ways from conversations to token ids and masks, for benchmarks.tokenization.

    python -m benchmarks.mask_ways this --tokenizer results/demo/target --rows data/demo_chat.jsonl

runs one of them once: a separate process, like a job for one shard. The plain way also loads what
trainers load for it: torch, transformers and datasets.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np

from eagle3.config.tokens import Tokens
from eagle3.data.conversations import BadRow, Conversation, parse_row
from eagle3.data.masks import Masker
from eagle3.data.sources import Source, read_rows
from eagle3.data.templates import Renderer
from eagle3.target_model.tokenizer import load_tokenizer

Documents = list[tuple[list[int], list[int]]]  # ids and mask
PLAIN = "prefix re-encoding"
WAYS = ("this", PLAIN)


def main() -> None:
    options = ArgumentParser(description=__doc__)
    options.add_argument("way", choices=WAYS)
    options.add_argument("--tokenizer", type=Path, required=True)
    options.add_argument("--rows", required=True)
    options.add_argument("--count", type=int, default=128)
    options.add_argument("--join", type=int, default=1)
    args = options.parse_args()
    if args.way == PLAIN:
        import datasets  # noqa: F401
        import torch  # noqa: F401
        from transformers import AutoTokenizer

        plain = PrefixEncoding(AutoTokenizer.from_pretrained(args.tokenizer))
        for talk in conversations(args.rows, args.count, args.join):
            plain(talk)
        return
    masker = Masker(load_tokenizer(args.tokenizer), Tokens(max_length=10**9))
    documents(masker, conversations(args.rows, args.count, args.join))


def conversations(source: str, count: int, join: int) -> list[Conversation]:
    """Some chats of a source, with `join` consecutive ones joined to one."""
    result: list[Conversation] = []
    messages: list[dict[str, Any]] = []
    for number, row in enumerate(read_rows(Source(source))):
        try:
            turns = parse_row(row)[0].messages
        except BadRow:
            continue
        messages += [turn for turn in turns if turn["role"] != "system"]
        if number % join == join - 1:
            result.append(Conversation(str(number), messages))
            messages = []
        if len(result) == count:
            break
    return result


def documents(masker: Masker, talks: list[Conversation]) -> Documents:
    result: Documents = []
    for _, masked in masker(talks):
        if isinstance(masked, BadRow):
            result.append(([], []))
        else:
            result += [(d.input_ids.tolist(), d.loss_mask.tolist()) for d in masked]
    return result


class PrefixEncoding:
    """Finds answers by a pattern over the text, and their edges by tokenising the prefixes."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        talk = [{"role": "user", "content": "A"}]
        before = tokenizer.apply_chat_template(talk, tokenize=False)
        prompt = Renderer(tokenizer, "auto").prompt(talk)
        header = prompt.removeprefix(before)
        answered = [*talk, {"role": "assistant", "content": "B"}]
        end = tokenizer.apply_chat_template(answered, tokenize=False).removeprefix(prompt + "B")
        pattern = re.escape(header) + "(.*?" + re.escape(end.rstrip("\n")) + ")"
        self.pattern = re.compile(pattern, re.DOTALL)

    def __call__(self, talk: Conversation) -> tuple[list[int], list[int]]:
        text = self.tokenizer.apply_chat_template(talk.messages, tokenize=False)
        ids = self._ids(text)
        mask = np.zeros(len(ids), dtype=np.uint8)
        for result in self.pattern.finditer(text):
            first, last = (
                len(self._ids(text[: result.start(1)])),
                len(self._ids(text[: result.end()])),
            )
            mask[first:last] = 1
        return ids, mask.tolist()

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


if __name__ == "__main__":
    main()
