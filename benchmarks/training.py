"""The training step compared with a textbook one and with its arithmetic, and its savings.

    python -m benchmarks.training --what steps --shapes small large
    python -m benchmarks.training --what savings
    python -m benchmarks.training --what packs

Every figure comes from a separate single-threaded process: CPU seconds of forward and backward (the
fastest of some repetitions), and peak memory above that before the step. The processes of a table
take turns, `--rounds` times, so that a busy machine affects all of them; the fastest counts.
`floor` is the arithmetic of the result (eagle3/objective/flops.py) at the machine's best rate of a
large matrix product, measured in the same rounds.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.savings import SAVINGS
from benchmarks.synthetic import LARGE, SMALL, build_draft, build_pack
from benchmarks.tables import parser, show
from benchmarks.textbook import Textbook
from eagle3.kernels.torch_internals import onednn_linear, onednn_multiplies_bfloat16
from eagle3.objective.ttt import Objective, ttt_loss
from eagle3.parallel.device import keep_freed_memory

SHAPES = {"small": SMALL, "large": LARGE}
CPU = torch.device("cpu")
NAMES = {"engine": "(nothing)", "padded": "packing"}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--what", choices=["steps", "savings", "packs"], default="steps")
    options.add_argument("--shapes", nargs="+", choices=SHAPES, default=["small"])
    options.add_argument("--supervised", nargs="+", type=float, default=[1.0, 0.64, 0.1])
    options.add_argument("--types", nargs="+", choices=TYPES, default=["fp32"])
    options.add_argument("--packs", nargs="+", type=int, default=[2**n for n in range(10, 17)])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--repeat", type=int, default=3, help="steps in each process")
    options.add_argument("--one", type=json.loads, help="measure one case; for the processes")
    args = options.parse_args()
    if args.one:
        print(json.dumps(measured(**args.one)))
        return
    tables = {"steps": steps_table, "savings": savings_table, "packs": packs_table}
    show(f"training: {args.what}", tables[args.what](args), args)


def steps_table(args: Namespace) -> list[dict[str, Any]]:
    """Textbook and engine at every shape, share and type."""
    rows = []
    for shape in args.shapes:
        for dtype in args.types:
            for share in args.supervised:
                case = {"shape": shape, "supervised": share, "dtype": dtype}
                result = in_turns(
                    [case | {"variant": name} for name in ("textbook", "engine", "recompute")],
                    args,
                )
                textbook, engine, recomputed = result
                floor = engine["flops"] / engine["rate"]
                rows.append(
                    {
                        "shape": shape,
                        "type": dtype,
                        "supervised": share,
                        "textbook CPU-s": textbook["seconds"],
                        "engine CPU-s": engine["seconds"],
                        "times faster": textbook["seconds"] / engine["seconds"],
                        "floor CPU-s": floor,
                        "engine/floor": engine["seconds"] / floor,
                        "textbook MB": textbook["megabytes"],
                        "engine MB": engine["megabytes"],
                        "recompute MB": recomputed["megabytes"],
                        "recompute CPU-s": recomputed["seconds"],
                        "loss differs": abs(engine["loss"] / textbook["loss"] - 1),
                    }
                )
    return rows


def savings_table(args: Namespace) -> list[dict[str, Any]]:
    """The engine with one saving off."""
    rows = []
    for dtype in args.types:
        for share in args.supervised:
            case = {"shape": args.shapes[0], "supervised": share, "dtype": dtype}
            names = ["engine", *SAVINGS, "attention:reference", "attention:flash", "padded"]
            names.insert(names.index("padded"), "packed")
            result = in_turns([case | {"variant": name} for name in names], args)
            for name, figures in zip(names, result, strict=True):
                base = result[names.index("packed" if name == "padded" else "engine")]
                rows.append(
                    {
                        "type": dtype,
                        "supervised": share,
                        "switched off": NAMES.get(name, name),
                        "CPU-s": figures["seconds"],
                        "times as long": figures["seconds"] / base["seconds"],
                        "MB": figures["megabytes"],
                        "loss differs": abs(figures["loss"] / base["loss"] - 1),
                    }
                )
    return [row for row in rows if row["switched off"] != "packed"]


def packs_table(args: Namespace) -> list[dict[str, Any]]:
    """Throughput and memory by tokens of a pack."""
    case = {"shape": args.shapes[0], "supervised": 0.64, "dtype": args.types[0]}
    cases = [case | {"variant": "engine", "tokens": tokens} for tokens in args.packs]
    return [
        {
            "tokens": tokens,
            "CPU-s": figures["seconds"],
            "tokens per CPU-s": tokens / figures["seconds"],
            "MB": figures["megabytes"],
            "kB per token": figures["megabytes"] * 1e3 / tokens,
        }
        for tokens, figures in zip(args.packs, in_turns(cases, args), strict=True)
    ]


def in_turns(cases: list[dict[str, Any]], args: Namespace) -> list[dict[str, Any]]:
    """Measure the cases in turns, each in a new process, `rounds` times."""
    best: list[dict[str, Any]] = [{} for _ in cases]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for _ in range(args.rounds):
        for number, case in enumerate(cases):
            text = json.dumps(case | {"repeat": args.repeat})
            command = [sys.executable, "-m", "benchmarks.training", "--one", text]
            process = subprocess.run(  # noqa: S603 - our own command
                command, env=environment, check=True, capture_output=True, text=True
            )
            figures = json.loads(process.stdout.splitlines()[-1])
            if not best[number] or figures["seconds"] < best[number]["seconds"]:
                best[number] = figures | {"rate": max(figures["rate"], best[number].get("rate", 0))}
    rate = max(figures["rate"] for figures in best)
    return [figures | {"rate": rate} for figures in best]


def measured(
    shape: str, supervised: float, dtype: str, variant: str, repeat: int, tokens: int | None = None
) -> dict[str, Any]:
    """One case, in this process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    sizes = SHAPES[shape]
    if tokens:
        sizes = replace(sizes, documents=tokens // sizes.length)
    lengths = None
    if variant in ("packed", "padded"):  # documents of 1/8 to all of the length
        lengths = [sizes.length * (n % 8 + 1) // 8 for n in range(2 * sizes.documents)]
    draft = build_draft(sizes, CPU)
    padded = variant == "padded"
    pack, target, head = build_pack(sizes, supervised, CPU, torch.float32, lengths, padded)
    objective = Objective(
        steps=sizes.steps,
        dtype=TYPES[dtype],
        recompute=variant == "recompute",
        attention=variant.partition("attention:")[2] or "auto",
    )
    work = ttt_loss(draft, pack, target, objective)[1].work(len(pack.aux))
    context = SAVINGS[variant](pack, head) if variant in SAVINGS else nullcontext()
    if variant == "textbook":
        batch = Textbook(pack, target, head, sizes.steps)

    def step() -> float:
        if variant == "textbook":
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
                loss = batch.loss(draft, objective.decay)
        else:
            loss, _ = ttt_loss(draft, pack, target, objective)
        loss.backward()
        return loss.item()

    with context:
        result = timed(step, draft, repeat)
    return result | {"flops": work.flops(draft.config), "rate": best_rate(TYPES[dtype])}


def timed(step: Callable[[], float], draft: torch.nn.Module, repeat: int) -> dict[str, float]:
    """CPU seconds of the fastest step after the first, and peak megabytes above the start."""
    step()
    seconds, loss = [], 0.0
    draft.zero_grad()
    before = settled()
    for _ in range(repeat):
        draft.zero_grad()
        started = time.process_time()
        loss = step()
        seconds.append(time.process_time() - started)
    return {
        "seconds": min(seconds),
        "loss": loss,
        "megabytes": (status("VmHWM") - before) / 1e3,
    }


def settled() -> int:
    """Resident kB after returning unused memory; resets the peak."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name: str) -> int:
    """A figure of this process, in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)


def plain_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b.t()


def widened_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.float() @ b.float().t()).to(a.dtype)


def best_rate(dtype: torch.dtype) -> float:
    """FLOP/s of large products with one thread, by the fastest available product."""
    best, products = 0.0, [plain_product, widened_product]
    if dtype == torch.float32 or onednn_multiplies_bfloat16():
        products.append(onednn_linear)
    for m, k, n in ((1024, 1024, 1024), (2048, 1024, 3584)):
        a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        for _ in range(3):
            for product in products:
                started = time.process_time()
                product(a, b)
                best = max(best, 2 * m * k * n / (time.process_time() - started))
    return best


if __name__ == "__main__":
    main()
