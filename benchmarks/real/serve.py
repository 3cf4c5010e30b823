"""How fast a real server answers, alone and with the draft: interleaved rounds, greedily.

    python -m benchmarks.real.serve --engine '{"name": "vllm", "python": "…"}' --target target \\
        --draft draft/results/smollm2/draft/vllm --prompts prompts --lengths 2 3 --rounds 5 \\
        --record vllm.jsonl --out vllm.json

One server of the target alone and one for each number of draft tokens are up at once; a round asks
all of them the same prompts, one after another and in turn first, so what else the machine does
meets all alike. Each turn is a line of the record, and a later call goes on from there. Requests
are streamed. Two servers never work at the same time; what the idle ones take is recorded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real.client import Answer, answers
from benchmarks.real.engines import Engine, Server, held, serving
from benchmarks.real.figures import summary
from eagle3.data.templates import Renderer
from eagle3.evaluation.http import get
from eagle3.evaluation.server import DRAFTS, counters
from eagle3.evaluation.server_prompts import read_prompts
from eagle3.files.artifact import canonical, file_sha256, write_text
from eagle3.target_model.tokenizer import load_tokenizer
from workflow_scripts import ending

log = logging.getLogger(__name__)
ALONE = 0  # draft tokens of a server without a draft
WARM_UP = 2  # prompts before the first turn
PAUSE = 0.3  # seconds until a server's counters have settled


@dataclass(frozen=True)
class Turn:
    """One server and one number of requests at a time, in one round."""

    round: int
    drafts: int
    concurrency: int

    @property
    def key(self) -> tuple[int, int, int]:
        return self.round, self.drafts, self.concurrency


def turns(rounds: int, lengths: Sequence[int], concurrency: Sequence[int]) -> Iterator[Turn]:
    """All turns in their order: another server is first in every round."""
    variants = [ALONE, *lengths]
    for number in range(rounds):
        first = number % len(variants)
        for requests in concurrency:
            for drafts in [*variants[first:], *variants[:first]]:
                yield Turn(number, drafts, requests)


class Record:
    """Turns on disk, one a line, under the digest of what they measure."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        begun = json.dumps({"identity": identity})
        self.turns: list[dict[str, Any]] = []
        if lines[:1] == [begun]:
            self.turns = [turn for turn in map(_parsed, lines[1:]) if turn is not None]
        # written anew: a kill may have left half a line
        write_text(path, "".join(f"{line}\n" for line in [begun, *map(json.dumps, self.turns)]))

    def known(self, turn: Turn) -> bool:
        keys = ((t["round"], t["drafts"], t["concurrency"]) for t in self.turns)
        return turn.key in keys

    def add(self, turn: dict[str, Any]) -> None:
        self.turns.append(turn)
        with open(self.path, "a", encoding="utf-8") as out:
            out.write(json.dumps(turn) + "\n")


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def measure(
    engine: Engine,
    target: Path,
    draft: Path,
    prompts: Sequence[Sequence[int]],
    most: int,
    todo: Sequence[Turn],
    record: Record,
) -> None:
    """Take the turns that the record lacks."""
    missing = [turn for turn in todo if not record.known(turn)]
    if not missing:
        return
    log_file = record.path.with_suffix(".log")
    with ExitStack() as stack:
        servers = {
            drafts: stack.enter_context(
                serving(engine, target, log_file, draft if drafts else None, drafts)
            )
            for drafts in sorted({turn.drafts for turn in missing})
        }
        for server in servers.values():
            answers(server.url, engine.name, prompts[:WARM_UP], most, 1)
        for turn in missing:
            record.add(_taken(turn, engine, servers, prompts, most))
            log.info("%s: round %d, %d drafts, %d at a time: %.1f s", engine.name, *turn.key,
                     record.turns[-1]["seconds"])  # fmt: skip


def _taken(
    turn: Turn,
    engine: Engine,
    servers: Mapping[int, Server],
    prompts: Sequence[Sequence[int]],
    most: int,
) -> dict[str, Any]:
    server = servers[turn.drafts]
    others = [other for other in servers.values() if other is not server]
    idle = sum(other.cpu_seconds() for other in others)
    spent, before = server.cpu_seconds(), _passes(engine, turn, server)
    replies, seconds = answers(server.url, engine.name, prompts, most, turn.concurrency)
    return {
        "round": turn.round,
        "drafts": turn.drafts,
        "concurrency": turn.concurrency,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(server.cpu_seconds() - spent, 2),
        "idle_cpu_seconds": round(sum(other.cpu_seconds() for other in others) - idle, 2),
        "load": round(os.getloadavg()[0], 2),
        "passes": _passes_between(replies, before, _passes(engine, turn, server)),
        "answers": [_rounded(reply) for reply in replies],
    }


def _passes(engine: Engine, turn: Turn, server: Server) -> float | None:
    """Verify passes that a vLLM server has counted so far."""
    if engine.name != "vllm" or turn.drafts == ALONE:
        return None
    time.sleep(PAUSE)
    return counters(get(f"{server.url}/metrics") or "").get(DRAFTS, 0.0)


def _passes_between(
    replies: Sequence[Answer], before: float | None, after: float | None
) -> int | None:
    """Verify passes of a turn: from the server's counter, or the sum over its answers."""
    if before is not None and after is not None:
        return int(after - before)
    counts = [reply.passes for reply in replies if reply.passes is not None]
    return sum(counts) if len(counts) == len(replies) else None


def _rounded(reply: Answer) -> dict[str, Any]:
    return {
        "tokens": reply.tokens,
        "first": round(reply.first, 4),
        "last": round(reply.last, 4),
    }


def read_sets(folder: Path, target: Path, most: int) -> list[tuple[str, list[int]]]:
    """Name of the set and token ids of every prompt, at most so many of a set."""
    renderer = Renderer(load_tokenizer(target), "auto", {}, system_prompt=None)
    files = sorted(path for path in folder.glob("*.jsonl") if path.name != "train.jsonl")
    return [(path.stem, ids) for path in files for ids in read_prompts(path, renderer, most)]


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("--engine", type=json.loads, required=True)
    args.add_argument("--target", type=Path, required=True)
    args.add_argument("--draft", type=Path, required=True, help="its export for this engine")
    args.add_argument("--prompts", type=Path, required=True, help="folder of the sets")
    args.add_argument("--num-prompts", type=int, default=8, help="of each set")
    args.add_argument("--max-new-tokens", type=int, default=128)
    args.add_argument("--lengths", type=int, nargs="+", default=[3], help="draft tokens a pass")
    args.add_argument("--concurrency", type=int, nargs="+", default=[1, 4])
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--record", type=Path, required=True, help="turns, one a line")
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    engine = Engine.of(given.engine, requests=max(given.concurrency))
    sets = read_sets(given.prompts, given.target, given.num_prompts)
    todo = list(turns(given.rounds, given.lengths, given.concurrency))
    what = {
        "target": file_sha256(given.target / "model.safetensors"),
        "draft": file_sha256(given.draft / "model.safetensors"),
        "prompts": sets,
        "most": given.max_new_tokens,
        "arguments": [dict(engine.arguments), dict(engine.variables)],
    }
    identity = hashlib.sha256(canonical(what).encode()).hexdigest()
    ids = [tokens for _, tokens in sets]
    with held(given.record.parent):
        record = Record(given.record, identity)
        measure(engine, given.target, given.draft, ids, given.max_new_tokens, todo, record)
    wanted = {turn.key for turn in todo}
    taken = [t for t in record.turns if (t["round"], t["drafts"], t["concurrency"]) in wanted]
    result = summary(engine.name, [name for name, _ in sets], taken, ids, given.target)
    write_text(given.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    ending.run(main)
