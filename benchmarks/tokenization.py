"""Tokens per second of templates, tokenisation and masks, on one core.

    python -m benchmarks.tokenization --tokenizer results/demo/target --rows data/demo_chat.jsonl

Beside it a plain implementation of the same masks, as trainers have it: render, find answers by a
pattern, tokenise, and tokenise the text before each edge of an answer once more to learn where
it lies among the tokens. Both give the same ids and masks here, or the table says how often not.
The two take turns; the fastest round of each counts.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from benchmarks.tables import parser, show
from eagle3.config.tokens import Tokens
from eagle3.data.conversations import BadRow, Conversation, parse_row
from eagle3.data.masks import Masker
from eagle3.data.sources import Source, read_rows
from eagle3.data.templates import Renderer
from eagle3.target.tokenizer import load_tokenizer

Documents = list[tuple[list[int], list[int]]]  # ids and mask


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--tokenizer", type=Path, required=True, help="folder of a target")
    args.add_argument("--rows", required=True, help="as dataset.source")
    args.add_argument("--count", type=int, default=500, help="conversations")
    args.add_argument("--join", type=int, nargs="+", default=[1, 4], help="chats made one")
    args.add_argument("--rounds", type=int, default=3)
    given = args.parse_args()
    tokenizer = load_tokenizer(given.tokenizer)
    rows = []
    for join in given.join:
        talks = conversations(given.rows, given.count, join)
        rows += compared(tokenizer, talks, given.rounds)
    show("tokenization", rows, given)


def conversations(source: str, count: int, join: int) -> list[Conversation]:
    """Some chats of a source, `join` of them after one another as one chat."""
    found: list[Conversation] = []
    messages: list[dict[str, Any]] = []
    for number, row in enumerate(read_rows(Source(source))):
        try:
            turns = parse_row(row)[0].messages
        except BadRow:
            continue
        messages += [turn for turn in turns if turn["role"] != "system"]
        if number % join == join - 1:
            found.append(Conversation(str(number), messages))
            messages = []
        if len(found) == count:
            break
    return found


def compared(tokenizer: Any, talks: list[Conversation], rounds: int) -> list[dict[str, Any]]:
    """Both ways over the same conversations."""
    masker = Masker(tokenizer, Tokens(max_length=10**9))
    plain = PrefixEncoding(tokenizer)
    ways: dict[str, Callable[[], Documents]] = {
        "this": lambda: documents(masker, talks),
        "prefix re-encoding": lambda: [plain(talk) for talk in talks],
    }
    best, results = dict.fromkeys(ways, float("inf")), {}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.process_time()
            results[name] = way()
            best[name] = min(best[name], time.process_time() - begin)
    tokens = sum(len(ids) for ids, _ in results["this"])
    differ = sum(a != b for a, b in zip(*results.values(), strict=True))
    slow = best["prefix re-encoding"]
    return [
        {
            "way": name,
            "turns": sum(m["role"] == "assistant" for t in talks for m in t.messages) / len(talks),
            "tokens": tokens,
            "CPU-s": seconds,
            "tokens per CPU-s": tokens / seconds,
            "times as fast": slow / seconds,
            "documents that differ": differ,
        }
        for name, seconds in best.items()
    ]


def documents(masker: Masker, talks: list[Conversation]) -> Documents:
    found: Documents = []
    for _, masked in masker(talks):
        if isinstance(masked, BadRow):
            found.append(([], []))
        else:
            found += [(d.input_ids.tolist(), d.loss_mask.tolist()) for d in masked]
    return found


class PrefixEncoding:
    """Answers by a pattern over the text, edges by the number of tokens before them."""

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
        for found in self.pattern.finditer(text):
            first, last = (
                len(self._ids(text[: found.start(1)])),
                len(self._ids(text[: found.end()])),
            )
            mask[first:last] = 1
        return ids, mask.tolist()

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


if __name__ == "__main__":
    main()
