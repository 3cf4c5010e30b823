"""Check correctness and speed on this GPU: one command, at most nine minutes.

    make gpu
    make gpu ARGS="--json benchmarks/results/h100.json"
    make gpu ARGS="--parts loss steps"
    make gpu ARGS="--device cpu --tiny"          # without a GPU: the same code, no figures

Parts run one after another and fail independently: a failure is a row with the reason. When time
runs out, rows are marked as left out. The exit code is 1 if any row failed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.operations import attention, loss, operations
from benchmarks.gpu.pipeline import pipeline
from benchmarks.gpu.states import capture, codecs
from benchmarks.gpu.step import host, published, steps
from benchmarks.tables import lines, machine, parser
from eagle3.errors import UserError
from eagle3.parallel.device import check_device

PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "operations": operations,
    "attention": attention,
    "loss": loss,
    "codecs": codecs,
    "host": host,
    "steps": steps,
    "published": published,
    "capture": capture,
    "pipeline": pipeline,
}
BUDGET = 520.0  # seconds


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options.add_argument("--tiny", action="store_true", help="sizes that take a second on a CPU")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--budget", type=float, default=BUDGET, help="seconds in all")
    args = options.parse_args()
    try:
        device = check_device(args.device)
    except UserError as fault:
        print(f"error: {fault}; or try --device cpu --tiny", file=sys.stderr)
        return 1
    if device.type == "cuda":
        device = torch.device("cuda", 0)
        torch.cuda.set_device(device)
    elif args.tiny:
        torch.set_num_threads(1)  # threads that wait for each other cost more than they save
    bench = Bench(device, args.tiny, args.budget)
    host = machine() | {"command": f"python -m benchmarks.gpu {' '.join(sys.argv[1:])}"}
    print(*(f"# {key}: {value}" for key, value in host.items()), sep="\n")
    result: dict[str, Any] = {}
    for name in args.parts:
        started = time.monotonic()
        rows = run(bench, PARTS[name])
        result[name] = {"seconds": time.monotonic() - started, "rows": rows}
        print(f"\n## {name}, {result[name]['seconds']:.0f} s")
        print(*lines([_printed(row) for row in rows]), sep="\n", flush=True)
        if args.json:  # after every part: a crash of the driver leaves what came before
            content = {"benchmark": "gpu", "machine": host, "parts": result}
            args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    all_rows = [(name, row) for name, part in result.items() for row in part["rows"]]
    failed = [f"{name}: {row['what']}" for name, row in all_rows if row["ok"] is False]
    skipped = sum(row["ok"] is None for _, row in all_rows)
    print(f"\n{len(all_rows)} rows, {len(failed)} failed, {skipped} left out")
    print(*(f"failed  {name}" for name in failed), sep="\n")
    return 1 if failed else 0


def run(bench: Bench, part: Callable[[Bench], Iterator[Row]]) -> list[Row]:
    """The rows of a part, up to where it fails as a whole."""
    rows: list[Row] = []
    try:
        for row in part(bench):
            rows.append(row)
    except Exception as fault:
        message = f"{type(fault).__name__}: {fault}"[:400]
        rows.append({"what": "the rest of this part", "ok": False, "fault": message})
    bench.tidy()
    return rows


def _printed(row: Row) -> Row:
    """The columns that fit into a table; the file has all of them."""
    labels = {True: "yes", False: "NO", None: "-"}
    scalars = {key: value for key, value in row.items() if not isinstance(value, (dict, list))}
    return {k: str(v).split("\n", 1)[0][:60] if k == "fault" else v for k, v in scalars.items()} | {
        "ok": labels[row["ok"]]
    }


if __name__ == "__main__":
    sys.exit(main())
