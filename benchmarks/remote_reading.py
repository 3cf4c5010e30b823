"""Documents per second from the local disk and from object storage with a latency, by threads.

    python -m benchmarks.remote_reading --tokens T.safetensors --states S.safetensors

The two files are a token shard and its hidden states, from any run. The object is on a server on
this machine, and a proxy delays every response; both use the same cores, so the figures are lower
bounds. Needs the extra `dev`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np

from benchmarks.object_proxy import ObjectProxy
from benchmarks.object_server import CREDENTIALS, REGION, object_server
from benchmarks.tables import parser, show
from eagle3.files import object_storage
from eagle3.store.reader import FeatureShard
from eagle3.tokens.shards import TokenShard, read_token_shard

ADDRESS = "s3://states/shard.safetensors"
AHEAD = 32  # documents that are announced before they are read


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tokens", type=Path, required=True)
    options.add_argument("--states", type=Path, required=True)
    options.add_argument("--latency", type=float, default=0.02, help="seconds before an answer")
    options.add_argument("--threads", type=int, nargs="+", default=[2, 8, 16])
    args = options.parse_args()
    tokens = read_token_shard(args.tokens)
    os.environ.update(CREDENTIALS, AWS_DEFAULT_REGION=REGION)
    rows = [row("local", FeatureShard(args.states, tokens), tokens, AHEAD)]
    with object_server() as server, ObjectProxy(server, args.latency) as proxy:
        use(server, 1)
        boto3.client("s3").create_bucket(Bucket="states")
        object_storage.upload(args.states, ADDRESS)
        for threads, ahead in [(args.threads[-1], 0), *((n, AHEAD) for n in args.threads)]:
            use(proxy.address, threads)
            shard = FeatureShard(ADDRESS, tokens)
            how = "ahead" if ahead else "when asked for"
            rows.append(row(f"remote, {threads} threads, {how}", shard, tokens, ahead))
    show(f"documents in random order, {args.latency * 1000:.0f} ms per answer", rows, args)


def use(endpoint: str, threads: int) -> None:
    """Point the project's client to `endpoint` with so many threads."""
    os.environ["AWS_ENDPOINT_URL_S3"] = endpoint
    object_storage.store.cache_clear()
    pool = ThreadPoolExecutor(threads)
    object_storage._requests = lambda: pool  # type: ignore[assignment]


def row(name: str, shard: FeatureShard, tokens: TokenShard, ahead: int) -> dict[str, Any]:
    """One pass over the documents; `ahead`: how many are announced before they are read."""
    has_states = shard.layout.needed.kept
    order = np.random.default_rng(0).permutation(np.flatnonzero(has_states)).tolist()
    seconds = timed(lambda: read_all(shard, order, ahead))
    size = sum(count for number in order for _, count in shard._pieces(number).values())
    requests = len(shard._pieces(order[0])) * len(order) if name != "local" else 0
    return {
        "from": name,
        "documents/s": len(order) / seconds,
        "tokens/s": int(has_states.sum()) / seconds,
        "MB/s": size / seconds / 1e6,
        "requests": requests,
    }


def read_all(shard: FeatureShard, order: list[int], ahead: int) -> None:
    for number in order[:ahead]:
        shard.will_need(number)
    for index, number in enumerate(order):
        if ahead and index + ahead < len(order):
            shard.will_need(order[index + ahead])
        shard.read_into(number, shard.buffers(number))


def timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
