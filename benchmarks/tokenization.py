"""Tokens per second of templates, tokenisation and masks, on one core.

    python -m benchmarks.tokenization --tokenizer results/demo/target --rows data/demo_chat.jsonl

Compared with a plain implementation of the same masks, as in trainers: render, find answers by a
pattern, tokenise, and tokenise the text before each edge of an answer again to find its token. The
table counts documents whose ids or masks differ. The two take turns; the fastest round of each
counts. A separate process, as for a shard's job, also loads its libraries: the trainers' way needs
torch, transformers and datasets.
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
    options = parser(__doc__)
    options.add_argument("--tokenizer", type=Path, required=True, help="folder of a target")
    options.add_argument("--rows", required=True, help="as dataset.source")
    options.add_argument("--count", type=int, default=500, help="conversations")
    options.add_argument("--join", type=int, nargs="+", default=[1, 4], help="chats made one")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--shard", type=int, default=128, help="conversations of a process")
    args = options.parse_args()
    tokenizer = load_tokenizer(args.tokenizer)
    rows = []
    for join in args.join:
        talks = conversations(args.rows, args.count, join)
        rows += compared(tokenizer, talks, args.rounds)
        rows += processes(args, join)
    show("tokenization", rows, args)


def processes(args: Any, join: int) -> list[dict[str, Any]]:
    """CPU seconds of whole processes, each for one shard."""
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(args.rounds):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.mask_ways", way]
            command += ["--tokenizer", str(args.tokenizer), "--rows", args.rows]
            command += ["--join", str(join), "--count", str(args.shard)]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True)  # noqa: S603 - itself
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            best[way] = min(best[way], cpu_seconds)
    return [
        {
            "way": f"{way}, a process with {args.shard} conversations",
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
            started = time.process_time()
            results[name] = way()
            best[name] = min(best[name], time.process_time() - started)
    tokens = sum(len(ids) for ids, _ in results["this"])
    different = sum(a != b for a, b in zip(*results.values(), strict=True))
    plain_seconds = best[PLAIN]
    return [
        {
            "way": name,
            "turns": sum(m["role"] == "assistant" for t in talks for m in t.messages) / len(talks),
            "tokens": tokens,
            "CPU-s": seconds,
            "tokens per CPU-s": tokens / seconds,
            "times as fast": plain_seconds / seconds,
            "documents that differ": different,
        }
        for name, seconds in best.items()
    ]


if __name__ == "__main__":
    main()
