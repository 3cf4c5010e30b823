"""Codecs on real states: bytes, error, and the speed of encoding, decoding, writing and reading.

    python -m benchmarks.storage --tokens T.safetensors --states S.safetensors

The two files are a token shard and the hidden states captured from it with codec bf16 or fp32, from
any run. `of SpecForge` compares with its 8 H + 16 bytes for each token, padding not counted.
"""

from __future__ import annotations

import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tables import parser, show
from eagle3.files.artifact import Manifest, Settings
from eagle3.store.codecs import CODECS
from eagle3.store.columns import STORED
from eagle3.store.layout import LAST_CHUNKS, Layout
from eagle3.store.reader import KIND, FeatureShard
from eagle3.store.writer import ShardWriter
from eagle3.tokens.shards import TokenShard, read_token_shard

LARGE, SUPERVISED = 4096, 0.64  # hidden size and share that the last column assumes
ROWS = 1024  # rows encoded or decoded at once when speed is measured
ROUNDS = 5
AHEAD = 64  # documents announced to the system before they are read


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tokens", type=Path, required=True)
    options.add_argument("--states", type=Path, required=True)
    options.add_argument("--directory", type=Path, help="where shards are written; a temporary one")
    options.add_argument("--device", default="cpu", help="where codecs run: cpu or cuda")
    options.add_argument("--threads", type=int, default=1)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    tokens = read_token_shard(args.tokens)
    source = FeatureShard(args.states, tokens)
    documents = [source.read(number) for number in range(len(tokens))]
    rows, reading = [], []
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        for name in CODECS:
            path = Path(folder) / f"{name}.safetensors"
            seconds = write(path, tokens, source, documents, name)
            rows.append(codec_row(name, path, tokens, documents, args.device, seconds))
            reading.append(reading_row(name, path, tokens))
    show("codecs on real states", rows, args, reading=reading)
    args.json = None
    show("reading every document in random order, a token's bytes in all parts", reading, args)


def write(
    path: Path, tokens: TokenShard, source: FeatureShard, documents: list[dict], name: str
) -> float:
    """Write the states with a codec, one document at a time; seconds until the file is complete."""
    hidden = source.layout.hidden
    layers = source.layout.layers
    layout = Layout(source.layout.needed, name, hidden, layers)
    counts = {"codec": name, "hidden_size": hidden}
    counts["aux_layers"] = source.manifest.counts["aux_layers"]
    inputs = {"tokens": tokens.manifest.content_sha256}
    started = time.perf_counter()
    writer = ShardWriter(path, layout, Manifest.of(KIND, Settings("bench", {}, {}), inputs, counts))
    for number, document in enumerate(documents):
        if layout.needed.kept[number]:
            parts = {n: document[n] for n in ("teacher_argmax", "teacher_lse")}
            for part, chunks in (("aux", layers), ("last", LAST_CHUNKS)):
                encoded = CODECS[layout.codec].encode(document[part].unflatten(1, (chunks, hidden)))
                parts |= {part + suffix: rows for suffix, rows in encoded.items()}
            writer.put([number], parts)
    writer.finish({})
    os.sync()
    return time.perf_counter() - started


def codec_row(
    name: str, path: Path, tokens: TokenShard, documents: list[dict], device: str, seconds: float
) -> dict[str, Any]:
    codec, shard = CODECS[name], FeatureShard(path, tokens)
    hidden, count = shard.layout.hidden, int(shard.layout.needed.kept.sum())
    states = torch.cat([document["aux"] for document in documents])
    states = states[:ROWS].to(torch.bfloat16).unflatten(1, (shard.layout.layers, hidden)).to(device)
    encoded = codec.encode(states)
    nbytes = states.nbytes
    errors = {}
    for part in ("aux", "last"):
        original = torch.cat([d[part] for d in documents]).float()
        decoded = torch.cat([shard.read(n)[part] for n in range(len(documents))]).float()
        errors[part] = float((decoded - original).norm() / original.norm())
    size = path.stat().st_size
    ratio = framed_ratio(shard, size)
    return {
        "codec": name,
        "bytes/token": size / count,
        "of SpecForge": size / count / (8 * hidden + 16),
        f"of SpecForge, H {LARGE}, {SUPERVISED:.0%} supervised": bytes_at(name, ratio)
        / (8 * LARGE + 16),
        "error aux": errors["aux"],
        "error last": errors["last"],
        "encode GB/s": nbytes / timed(lambda: codec.encode(states), device) / 1e9,
        "decode GB/s": nbytes
        / timed(lambda: codec.decode(encoded, shard.layout.layers), device)
        / 1e9,
        "write MB/s of bf16": count * 8 * hidden / seconds / 1e6,
    }


def framed_ratio(shard: FeatureShard, size: int) -> float:
    """Ratio of stored to raw bytes of the compressed columns; 1 if there are none."""
    layout = shard.layout
    fixed = sum(tensor.nbytes for tensor in layout.declared().values())
    rows = {True: layout.aux_rows, False: layout.last_rows}
    framed = sum(rows[p.of_aux] * p.column.row_bytes for p in layout.parts if p.framed)
    return (size - fixed) / framed if framed else 1.0


def bytes_at(name: str, ratio: float) -> float:
    """Computed bytes per token at the large size, with the ratio of real states."""
    stored, total = STORED[name], 0.0
    for chunks, share in ((3, 1.0), (LAST_CHUNKS, SUPERVISED)):
        for suffix, column in stored.columns(chunks, LARGE).items():
            framed = suffix == "" and stored.compressed_planes
            total += share * column.row_bytes * (ratio if framed else 1.0)
    return total + SUPERVISED * 8  # argmax and log-sum-exp


def reading_row(name: str, path: Path, tokens: TokenShard) -> dict[str, Any]:
    """Tokens per second of our reader and of a memory map, with and without the page cache."""
    shard = FeatureShard(path, tokens)
    has_states = shard.layout.needed.kept
    order = np.random.default_rng(0).permutation(np.flatnonzero(has_states)).tolist()
    buffers = {number: shard.buffers(number) for number in order}
    count = int(has_states.sum())

    def through_reader() -> None:
        for number in order:
            shard.read_into(number, buffers[number])

    def announced() -> None:
        for ahead in order[:AHEAD]:
            shard.will_need(ahead)
        for number, ahead in zip(order, [*order[AHEAD:], *[None] * AHEAD], strict=False):
            if ahead is not None:
                shard.will_need(ahead)
            shard.read_into(number, buffers[number])

    row: dict[str, Any] = {"codec": name}
    row["tokens/s"] = count / best(through_reader)
    row["cold"] = count / best(through_reader, path)
    row["cold, announced"] = count / best(announced, path)
    if not shard.layout.framed:

        def through_map() -> None:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
                for number in order:
                    for part in shard.layout.parts:
                        first, _ = shard.layout.rows(part, number)
                        start = shard._place[part.name] + first * part.column.row_bytes
                        view = buffers[number][part.name].numpy().reshape(-1)
                        view[:] = np.frombuffer(data, np.uint8, view.size, start)

        row["memory map, unchecked"] = count / best(through_map)
        row["cold, map"] = count / best(through_map, path)
    else:
        row["memory map, unchecked"] = row["cold, map"] = ""
    return row


def best(work: Callable[[], None], cold: Path | None = None) -> float:
    """Seconds of the fastest round; `cold`: a file to drop from the page cache first."""
    result = []
    for _ in range(ROUNDS):
        if cold is not None:
            with open(cold, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        work()
        result.append(time.perf_counter() - started)
    return min(result)


def timed(work: Callable[[], Any], device: str) -> float:
    """Median seconds of a call."""
    result = []
    for _ in range(2 * ROUNDS + 1):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        result.append(time.perf_counter() - started)
    return statistics.median(result[1:])


if __name__ == "__main__":
    main()
