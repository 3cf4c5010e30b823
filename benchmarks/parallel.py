"""Ranks that share a pack: memory by length of a document, and ways to exchange keys.

    python -m benchmarks.parallel --what memory
    python -m benchmarks.parallel --what exchange

Ranks are single-threaded processes. `MB` is the peak of the rank with the most memory during
forward and backward, above its weights; `s` is wall time, meaningful only with a core for each
rank. Sent data is counted in bytes of one rank and direction.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.synthetic import Shape, build_draft, build_pack, shard_of
from benchmarks.tables import parser, show
from benchmarks.training import settled, status
from eagle3.objective.sequence_parallel.sharding import SequenceSharding
from eagle3.objective.ttt import Objective, ttt_loss
from eagle3.parallel.device import keep_freed_memory
from eagle3.parallel.ranks import joined_ranks

CPU = torch.device("cpu")
# grouped-query attention as in Llama-3.1-8B, four heads of queries for one of keys
SHAPE = Shape(128, 448, 8, 2, 32, 2048, 512, 1, 4096)
LAYOUTS = ["1x1", "1x2 gathered", "2x1 usp", "1x2 usp", "1x4 gathered", "4x1 usp", "2x2 usp"]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--what", choices=["memory", "exchange"], default="memory")
    options.add_argument("--lengths", nargs="+", type=int, default=[4096, 16384, 65536])
    options.add_argument("--supervised", type=float, default=0.2)
    options.add_argument("--layouts", nargs="+", default=LAYOUTS, help="Ulysses x ring, and how")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--one", type=json.loads, help="measure one case; for the processes")
    args = options.parse_args()
    if args.one:
        measure(**args.one)
        return
    tables = {"memory": memory_table, "exchange": exchange_table}
    show(f"parallel: {args.what}", tables[args.what](args), args)


def memory_table(args: Namespace) -> list[dict[str, Any]]:
    """Highest memory of a rank by length and number of ranks, keys gathered."""
    rows = []
    for length in args.lengths:
        row: dict[str, Any] = {"tokens": length}
        for recompute in (False, True):
            for ranks in (1, 2, 4):
                layout = f"1x{ranks} gathered"
                result = run(layout, length, args.supervised, recompute)
                row[f"{ranks} ranks{' recompute' * recompute} MB"] = result["megabytes"]
        rows.append(row)
    return rows


def exchange_table(args: Namespace) -> list[dict[str, Any]]:
    """Time and bytes by layout, at the first length; the layouts take turns."""
    best: dict[str, dict[str, Any]] = {}
    for _ in range(args.rounds):
        for layout in args.layouts:
            result = run(layout, args.lengths[0], args.supervised, False)
            if layout not in best or result["seconds"] < best[layout]["seconds"]:
                best[layout] = result
    return [
        {
            "Ulysses x ring": layout,
            "s": result["seconds"],
            "CPU-s of all ranks": result["cpu_seconds"],
            "MB": result["megabytes"],
            "sent MB": result["sent"] / 1e6,
            "calls": result["calls"],
        }
        for layout, result in best.items()
    ]


def run(layout: str, length: int, supervised: float, recompute: bool) -> dict[str, Any]:
    """One case, in new ranks."""
    size, _, how = layout.partition(" ")
    ulysses, ring = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        case = {"ulysses": ulysses, "ring": ring, "backend": "usp" if how == "usp" else "auto"}
        case |= {"length": length, "supervised": supervised, "recompute": recompute}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(ulysses * ring), "-m", "benchmarks.parallel"]
        command += ["--one", json.dumps(case | {"file": str(file)})]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        subprocess.run(  # noqa: S603 - our own command
            command, env=environment, check=True, capture_output=True, text=True
        )
        return json.loads(file.read_text())


def measure(
    ulysses: int,
    ring: int,
    backend: str,
    length: int,
    supervised: float,
    recompute: bool,
    file: str,
) -> None:
    """One case, in this rank; the first rank writes the result."""
    torch.set_num_threads(1)
    keep_freed_memory()
    sent = Counter()
    with joined_ranks("cpu", ulysses, ring) as ranks:
        draft = build_draft(replace(SHAPE, length=length), CPU)
        pack, target, _ = build_pack(replace(SHAPE, length=length), supervised, CPU, torch.float32)
        pack = shard_of(pack, SequenceSharding(ranks, SHAPE.steps))
        objective = Objective(steps=SHAPE.steps, attention=backend, recompute=recompute)
        before = settled()
        pack_megabytes = sum(tensor.nbytes for tensor in pack.tensors().values()) / 1e6
        with sent:
            ranks.barrier()
            started, cpu_seconds = time.monotonic(), time.process_time()
            loss, _ = ttt_loss(draft, pack, target, objective)
            loss.backward()
            ranks.barrier()
            seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_seconds
        megabytes = (status("VmHWM") - before) / 1e3 + pack_megabytes
        own_figures = torch.tensor([megabytes, cpu_seconds, sent.bytes], dtype=torch.float64)
        all_figures = ranks.gather(own_figures)
    if ranks.first:
        result = {
            "seconds": seconds,
            "megabytes": float(all_figures[:, 0].max()),
            "cpu_seconds": float(all_figures[:, 1].sum()),
            "sent": float(all_figures[:, 2].max()),
            "calls": sent.calls,
        }
        Path(file).write_text(json.dumps(result))


class Counter:
    """A context that counts what this rank sends."""

    def __init__(self) -> None:
        self.bytes, self.calls = 0, 0
        self.true_all_to_all, self.true_batch = dist.all_to_all_single, dist.batch_isend_irecv

    def __enter__(self) -> None:
        dist.all_to_all_single, dist.batch_isend_irecv = self.all_to_all, self.batch

    def __exit__(self, *fault: object) -> None:
        dist.all_to_all_single = self.true_all_to_all
        dist.batch_isend_irecv = self.true_batch

    def all_to_all(
        self,
        out: torch.Tensor,
        rows: torch.Tensor,
        received: list[int],
        sent: list[int],
        group: Any,
    ) -> Any:
        sent_rows = sum(sent) - sent[dist.get_rank(group)]
        self.bytes += sent_rows * rows[:1].nbytes
        self.calls += 1
        return self.true_all_to_all(out, rows, received, sent, group)

    def batch(self, calls: list[dist.P2POp]) -> Any:
        self.bytes += sum(call.tensor.nbytes for call in calls if call.op is dist.isend)
        self.calls += 1
        return self.true_batch(calls)


if __name__ == "__main__":
    main()
