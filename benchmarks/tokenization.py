"""Tokens per second of templates, tokenisation and masks, on one core.

    python -m benchmarks.tokenization --tokenizer results/demo/target --rows data/demo_chat.jsonl

Beside it a plain implementation of the same masks, as trainers have it: render, find answers by a
pattern, tokenise, and tokenise the text before each edge of an answer once more to learn where
it lies among the tokens. Both give the same ids and masks here, or the table says how often not.
The two take turns; the fastest round of each counts. A process of its own, as of a job for one
shard, also loads what it needs: the trainers' way needs torch, transformers and datasets.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from benchmarks.mask_ways import PLAIN, WAYS, Documents, PrefixEncoding, conversations, documents
from benchmarks.tables import parser, show
from eagle3.config.tokens import Tokens
from eagle3.data.conversations import Conversation
from eagle3.data.masks import Masker
from eagle3.target_model.tokenizer import load_tokenizer


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--tokenizer", type=Path, required=True, help="folder of a target")
    args.add_argument("--rows", required=True, help="as dataset.source")
    args.add_argument("--count", type=int, default=500, help="conversations")
    args.add_argument("--join", type=int, nargs="+", default=[1, 4], help="chats made one")
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--shard", type=int, default=128, help="conversations of a process")
    given = args.parse_args()
    tokenizer = load_tokenizer(given.tokenizer)
    rows = []
    for join in given.join:
        talks = conversations(given.rows, given.count, join)
        rows += compared(tokenizer, talks, given.rounds)
        rows += processes(given, join)
    show("tokenization", rows, given)


def processes(given: Any, join: int) -> list[dict[str, Any]]:
    """CPU seconds of whole processes, each of one shard."""
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(given.rounds):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.mask_ways", way]
            command += ["--tokenizer", str(given.tokenizer), "--rows", given.rows]
            command += ["--join", str(join), "--count", str(given.shard)]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True)  # noqa: S603 - itself
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            best[way] = min(best[way], spent)
    return [
        {
            "way": f"{way}, a process with {given.shard} conversations",
            "turns": "",
            "tokens": "",
            "tokens per CPU-s": "",
            "documents that differ": "",
            "CPU-s": seconds,
            "times as fast": best[PLAIN] / seconds,
        }
        for way, seconds in best.items()
    ]


def compared(tokenizer: Any, talks: list[Conversation], rounds: int) -> list[dict[str, Any]]:
    """Both ways over the same conversations."""
    masker = Masker(tokenizer, Tokens(max_length=10**9))
    plain = PrefixEncoding(tokenizer)
    ways: dict[str, Callable[[], Documents]] = {
        "this": lambda: documents(masker, talks),
        PLAIN: lambda: [plain(talk) for talk in talks],
    }
    best, results = dict.fromkeys(ways, float("inf")), {}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.process_time()
            results[name] = way()
            best[name] = min(best[name], time.process_time() - begin)
    tokens = sum(len(ids) for ids, _ in results["this"])
    differ = sum(a != b for a, b in zip(*results.values(), strict=True))
    slow = best[PLAIN]
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


if __name__ == "__main__":
    main()
