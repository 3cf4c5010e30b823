"""The overhead of capture over the necessary work: the forward passes, and the head once.

    python -m benchmarks.capture --tokens T.safetensors --target DIR

`bare` runs the target's body over the same batches and the head over the stored rows, one product
each, and keeps nothing. `capture` is the whole job: select states, encode them, compute argmax and
log-sum-exp over the full vocabulary, checksum and write. Rounds alternate; `ratio` is bare to
capture time.

With `--engine sglang=PYTHON` or `--engine vllm=PYTHON` (or both) that engine captures the same
shard once, in bf16: the rate is that of its first worker from its second batch on, which excludes
loading and the warm-up; `--arguments vllm=JSON` are arguments of the engine.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables import parser, show
from eagle3.capture.job import CaptureJob, Placement, request_of, shard_consumer
from eagle3.capture.shard_capture import ShardCapture, capture, documents_to_run, token_batches
from eagle3.config.hidden_states import CaptureResources
from eagle3.engines.hf import HFTarget
from eagle3.engines.separate.run import run_separately
from eagle3.files.artifact import Settings
from eagle3.files.tensor_file import read_manifest
from eagle3.parallel.ranks import joined_ranks
from eagle3.target_model.reader import Head
from eagle3.tokens.shards import KIND


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tokens", type=Path, required=True)
    options.add_argument("--target", type=Path, required=True)
    options.add_argument("--codecs", nargs="+", default=["bf16", "bf16_zstd", "fp8_e4m3", "nf4"])
    options.add_argument("--dtype", default="auto")
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--batch-tokens", type=int, default=8192)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--engine", action="append", default=[], type=named, help="NAME=PYTHON")
    options.add_argument("--arguments", action="append", default=[], type=named, help="NAME=JSON")
    args = options.parse_args()
    with joined_ranks(args.device) as ranks, tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(args.threads)
        jobs = {codec: job_of(args.tokens, args.target, args.dtype, codec) for codec in args.codecs}
        first = next(iter(jobs.values()))
        engine = first.engine(args.device)
        head = first.head.to(ranks.device, engine.dtype)
        result: dict[str, list[float]] = {"bare": [], **{codec: [] for codec in jobs}}
        for _ in range(args.rounds + 1):  # the first warms up
            shard = first.shard(None, ranks, 1)
            result["bare"].append(timed(lambda s=shard: bare(engine, head, s, args.batch_tokens)))
            for codec, job in jobs.items():
                shard = job.shard(Path(folder) / codec, ranks, 1)
                result[codec].append(timed(lambda s=shard: whole(engine, s, args.batch_tokens)))
        tokens = int(shard.layout.needed.kept.sum())
        engine_rows = [by_engine(name, python, args, Path(folder)) for name, python in args.engine]
    rows = [row(name, times[1:], result["bare"][1:], tokens) for name, times in result.items()]
    rows += engine_rows
    show("capture against the bare forward pass and head", rows, args, seconds=result)


def job_of(tokens: Path, target: Path, dtype: str, codec: str, backend: str = "hf") -> CaptureJob:
    """A job with the usual names of a target's tensors."""
    values = {
        "hidden_states": {"aux_layers": None, "backend": backend, "codec": codec},
        "target": {
            "dtype": dtype,
            "trust_remote_code": False,
            "lm_head_key": "lm_head.weight",
            "embedding_key": "model.embed_tokens.weight",
            "final_norm_key": "model.norm.weight",
        },
    }
    digest = read_manifest(tokens, KIND).settings_digest
    return CaptureJob(Settings("benchmark", values, {"tokens": digest}), tokens, target)


@torch.inference_mode()
def bare(engine: HFTarget, head: Head, shard: ShardCapture, batch_tokens: int) -> None:
    """The same batches through the body, and one product with the head for each stored row."""
    documents, needed = documents_to_run(shard.tokens), shard.layout.needed
    for batch in token_batches(needed.kept, batch_tokens):
        ids = [torch.from_numpy(documents[document]) for document in batch.tolist()]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        last = engine.body(input_ids=padded.to(engine.device), use_cache=False).last_hidden_state
        rows = sum(int(needed.last_offsets[d + 1] - needed.last_offsets[d]) for d in batch)
        flat = last.flatten(0, 1)[:rows]
        for part in flat.split(1024):
            logits = head.logits(part)
            logits.argmax(-1), torch.logsumexp(logits.float(), -1)


def whole(engine: HFTarget, shard: ShardCapture, batch_tokens: int) -> None:
    """A capture job without loading the target and without its self-check."""
    try:
        capture(engine, shard, batch_tokens)
        shard.finish()
    finally:
        shard.close()


def named(text: str) -> tuple[str, str]:
    """The parts of NAME=VALUE."""
    name, _, value = text.partition("=")
    return name, value


def by_engine(name: str, python: str, args: Any, folder: Path) -> dict[str, Any]:
    """A row of an engine that captures in separate processes."""
    arguments = json.loads(dict(args.arguments).get(name, "{}"))
    jobs = CaptureResources(batch_tokens=args.batch_tokens, **{f"{name}_arguments": arguments})
    job = job_of(args.tokens, args.target, args.dtype, "bf16", name)
    request = request_of(job, folder / name, Placement(args.device, args.threads, jobs))
    report = folder / f"{name}.json"
    timed_request = replace(
        request,
        consumer="benchmarks.capture:TimedConsumer",
        consumer_arguments={**request.consumer_arguments, "report": str(report)},
    )
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    wall = time.perf_counter()
    run_separately(timed_request, documents_to_run(job.tokens), python)
    wall = time.perf_counter() - wall
    measured = json.loads(report.read_text())
    return {
        "what": f"{name}, bf16",
        "tokens/s": measured["tokens"] / measured["wall"],
        "tokens/CPU-s": measured["tokens"] / measured["cpu"],
        "job (s)": wall,
    }


class TimedConsumer:
    """A job's consumer, in the engine's process, that records the rate of incoming states."""

    def __init__(self, report: str, **arguments: Any) -> None:
        self.inner, self.report = shard_consumer(**arguments), Path(report)
        self.start: tuple[float, float] | None = None
        self.tokens = 0

    def add(self, documents: list[int], aux: torch.Tensor, last: torch.Tensor) -> None:
        self.inner.add(documents, aux, last)
        now = time.perf_counter(), time.process_time()
        if self.start is None:
            self.start = now
            return
        self.tokens += len(aux)
        wall, cpu = (b - a for a, b in zip(self.start, now, strict=True))
        self.report.write_text(json.dumps({"tokens": self.tokens, "wall": wall, "cpu": cpu}))


def timed(work: Any) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def row(name: str, times: list, bare_times: list, tokens: int) -> dict[str, Any]:
    ratios = [
        [b / t for b, t in zip(baseline, captured, strict=True)]
        for baseline, captured in zip(bare_times, times, strict=True)
    ]
    return {
        "what": name,
        "tokens/s": tokens / statistics.median(wall for wall, _ in times),
        "tokens/CPU-s": tokens / statistics.median(cpu for _, cpu in times),
        "ratio (wall)": statistics.median(wall for wall, _ in ratios),
        "ratio (CPU)": statistics.median(cpu for _, cpu in ratios),
    }


if __name__ == "__main__":
    main()
