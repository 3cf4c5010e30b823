"""The training step against a textbook one, against the arithmetic it needs, and saving by saving.

    python -m benchmarks.training --what steps --shapes small large
    python -m benchmarks.training --what savings
    python -m benchmarks.training --what packs

Every figure is of a process of its own at one thread: CPU seconds of forward and backward (the
fastest of some repetitions), and how far memory rises above what was held before. The processes of
a table take turns, `--rounds` times, so that a busy machine hits all of them; the fastest counts.
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
    args = parser(__doc__)
    args.add_argument("--what", choices=["steps", "savings", "packs"], default="steps")
    args.add_argument("--shapes", nargs="+", choices=SHAPES, default=["small"])
    args.add_argument("--supervised", nargs="+", type=float, default=[1.0, 0.64, 0.1])
    args.add_argument("--types", nargs="+", choices=TYPES, default=["fp32"])
    args.add_argument("--packs", nargs="+", type=int, default=[2**n for n in range(10, 17)])
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--repeat", type=int, default=3, help="steps in each process")
    args.add_argument("--one", type=json.loads, help="measure one case; for the processes")
    given = args.parse_args()
    if given.one:
        print(json.dumps(measured(**given.one)))
        return
    tables = {"steps": steps_table, "savings": savings_table, "packs": packs_table}
    show(f"training: {given.what}", tables[given.what](given), given)


def steps_table(given: Namespace) -> list[dict[str, Any]]:
    """Textbook and engine at every shape, share and type."""
    rows = []
    for shape in given.shapes:
        for dtype in given.types:
            for share in given.supervised:
                case = {"shape": shape, "supervised": share, "dtype": dtype}
                result = in_turns(
                    [case | {"variant": name} for name in ("textbook", "engine", "recompute")],
                    given,
                )
                textbook, engine, less = result
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
                        "recompute MB": less["megabytes"],
                        "recompute CPU-s": less["seconds"],
                        "loss differs": abs(engine["loss"] / textbook["loss"] - 1),
                    }
                )
    return rows


def savings_table(given: Namespace) -> list[dict[str, Any]]:
    """The engine with one saving off."""
    rows = []
    for dtype in given.types:
        for share in given.supervised:
            case = {"shape": given.shapes[0], "supervised": share, "dtype": dtype}
            names = ["engine", *SAVINGS, "attention:reference", "attention:flash", "padded"]
            names.insert(names.index("padded"), "packed")
            result = in_turns([case | {"variant": name} for name in names], given)
            for name, one in zip(names, result, strict=True):
                base = result[names.index("packed" if name == "padded" else "engine")]
                rows.append(
                    {
                        "type": dtype,
                        "supervised": share,
                        "switched off": NAMES.get(name, name),
                        "CPU-s": one["seconds"],
                        "times as long": one["seconds"] / base["seconds"],
                        "MB": one["megabytes"],
                        "loss differs": abs(one["loss"] / base["loss"] - 1),
                    }
                )
    return [row for row in rows if row["switched off"] != "packed"]


def packs_table(given: Namespace) -> list[dict[str, Any]]:
    """Throughput and memory by tokens of a pack."""
    case = {"shape": given.shapes[0], "supervised": 0.64, "dtype": given.types[0]}
    cases = [case | {"variant": "engine", "tokens": tokens} for tokens in given.packs]
    return [
        {
            "tokens": tokens,
            "CPU-s": one["seconds"],
            "tokens per CPU-s": tokens / one["seconds"],
            "MB": one["megabytes"],
            "kB per token": one["megabytes"] * 1e3 / tokens,
        }
        for tokens, one in zip(given.packs, in_turns(cases, given), strict=True)
    ]


def in_turns(cases: list[dict[str, Any]], given: Namespace) -> list[dict[str, Any]]:
    """Measure the cases, each in processes of its own, one after another, `rounds` times."""
    best: list[dict[str, Any]] = [{} for _ in cases]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for _ in range(given.rounds):
        for number, case in enumerate(cases):
            text = json.dumps(case | {"repeat": given.repeat})
            command = [sys.executable, "-m", "benchmarks.training", "--one", text]
            done = subprocess.run(  # noqa: S603 - our own command
                command, env=environment, check=True, capture_output=True, text=True
            )
            one = json.loads(done.stdout.splitlines()[-1])
            if not best[number] or one["seconds"] < best[number]["seconds"]:
                best[number] = one | {"rate": max(one["rate"], best[number].get("rate", 0))}
    rate = max(one["rate"] for one in best)
    return [one | {"rate": rate} for one in best]


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
    """CPU seconds of the fastest step after the first, and megabytes above what was held."""
    step()
    seconds, loss = [], 0.0
    draft.zero_grad()
    before = settled()
    for _ in range(repeat):
        draft.zero_grad()
        begin = time.process_time()
        loss = step()
        seconds.append(time.process_time() - begin)
    return {
        "seconds": min(seconds),
        "loss": loss,
        "megabytes": (status("VmHWM") - before) / 1e3,
    }


def settled() -> int:
    """kB in memory after everything unused was given back; the peak starts here anew."""
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
    """FLOP/s of large products at one thread, by the fastest way at hand."""
    best, products = 0.0, [plain_product, widened_product]
    if dtype == torch.float32 or onednn_multiplies_bfloat16():
        products.append(onednn_linear)
    for m, k, n in ((1024, 1024, 1024), (2048, 1024, 3584)):
        a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        for _ in range(3):
            for product in products:
                begin = time.process_time()
                product(a, b)
                best = max(best, 2 * m * k * n / (time.process_time() - begin))
    return best


if __name__ == "__main__":
    main()
