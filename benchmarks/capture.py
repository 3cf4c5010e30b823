"""What capture costs over the work it cannot avoid: the forward passes, and the head once.

    python -m benchmarks.capture --tokens T.safetensors --target DIR

`bare` runs the target's body over the same batches and the head over the rows that are stored, one
product each, and keeps nothing. `capture` is the whole job: states picked, encoded, compared with
the full vocabulary, checksummed and written. Rounds alternate; `ratio` is bare to capture time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables import parser, show
from eagle3.capture.job import CaptureJob
from eagle3.capture.shard_capture import ShardCapture, capture, documents_to_run, token_batches
from eagle3.engines.hf import HFTarget
from eagle3.files.artifact import Settings
from eagle3.files.tensor_file import read_manifest
from eagle3.parallel.ranks import joined_ranks
from eagle3.target_model.reader import Head
from eagle3.tokens.shards import KIND


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--tokens", type=Path, required=True)
    args.add_argument("--target", type=Path, required=True)
    args.add_argument("--codecs", nargs="+", default=["bf16", "bf16_zstd", "fp8_e4m3", "nf4"])
    args.add_argument("--dtype", default="auto")
    args.add_argument("--device", default="cpu")
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--batch-tokens", type=int, default=8192)
    args.add_argument("--rounds", type=int, default=5)
    given = args.parse_args()
    with joined_ranks(given.device) as ranks, tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(given.threads)
        jobs = {
            codec: job_of(given.tokens, given.target, given.dtype, codec) for codec in given.codecs
        }
        first = next(iter(jobs.values()))
        engine = first.engine(given.device)
        head = first.head.to(ranks.device, engine.dtype)
        result: dict[str, list[float]] = {"bare": [], **{codec: [] for codec in jobs}}
        for _ in range(given.rounds + 1):  # the first warms up
            shard = first.shard(None, ranks, 1)
            result["bare"].append(timed(lambda s=shard: bare(engine, head, s, given.batch_tokens)))
            for codec, job in jobs.items():
                shard = job.shard(Path(folder) / codec, ranks, 1)
                result[codec].append(timed(lambda s=shard: whole(engine, s, given.batch_tokens)))
        tokens = int(shard.layout.needed.kept.sum())
    rows = [row(name, times[1:], result["bare"][1:], tokens) for name, times in result.items()]
    show("capture against the bare forward pass and head", rows, given, seconds=result)


def job_of(tokens: Path, target: Path, dtype: str, codec: str) -> CaptureJob:
    """A job with the usual names of a target's tensors."""
    values = {
        "hidden_states": {"aux_layers": None, "backend": "hf", "codec": codec},
        "target": {
            "dtype": dtype,
            "trust_remote_code": False,
            "lm_head_key": "lm_head.weight",
            "embedding_key": "model.embed_tokens.weight",
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
    """A capture job but for loading the target and its self-check."""
    try:
        capture(engine, shard, batch_tokens)
        shard.finish()
    finally:
        shard.close()


def timed(work: Any) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def row(name: str, times: list, bare_times: list, tokens: int) -> dict[str, Any]:
    ratios = [
        [b / t for b, t in zip(one, two, strict=True)]
        for one, two in zip(bare_times, times, strict=True)
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
