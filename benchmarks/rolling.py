"""Rolling mode on paper: peak disk, jobs and wall time of a run too large to be tried here.

    python -m benchmarks.rolling

Plays the DAG's own rules (`eagle3.tokens.stages`): a stage waits for its window and for the stage
before, a window waits for the stage two before, training goes before capture and early windows
before late ones. Jobs have a start-up time. What a GPU does per second is an assumption, given on
the command line; the defaults are public figures for Llama-3.1-8B (docs/rolling.md).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from benchmarks.tables import parser, show
from eagle3.tokens.stages import Stages


@dataclass(frozen=True)
class Rates:
    """What a job takes."""

    capture_seconds: float  # of one shard, start-up included
    train_seconds: float  # of one shard in one epoch, on all GPUs of the training job
    train_start: float  # seconds before a stage's first step


@dataclass(frozen=True)
class Played:
    """What a simulated run took."""

    seconds: float
    peak_shards: int  # most shards that lay on the disk at once
    capture_jobs: int
    busy: float  # share of GPU time in use


def play(stages: Stages, rates: Rates, gpus: int, train_gpus: int, rolling: bool) -> Played:
    """Run all stages on `gpus`, one for a capture job and `train_gpus` for a training job.

    Raises ValueError if a training job asks for more GPUs than there are.
    """
    if train_gpus > gpus:
        raise ValueError(f"training asks for {train_gpus} of {gpus} GPUs")
    captures = stages.numbers if rolling else range(1, stages.windows + 1)
    waiting = [(stage, shard) for stage in captures for shard in stages.shards_of(stage)]
    left = {stage: len(stages.shards_of(stage)) for stage in captures}
    ends: list[tuple[float, int, int]] = []  # when, stage, GPUs given back; capture if one of many
    now, free, used, trained, training = 0.0, gpus, 0.0, 0, False
    position, dropped, peak = 0, 0, 0  # captures begun; shards removed; most on the disk

    def window(stage: int) -> int:
        return stage if rolling else (stage - 1) % stages.windows + 1

    while trained < stages.count:
        following = trained + 1
        if not training and left[window(following)] == 0 and free >= train_gpus:
            work = len(stages.shards_of(following)) * len(stages.epochs_of(following))
            seconds = rates.train_start + work * rates.train_seconds
            heapq.heappush(ends, (now + seconds, -following, train_gpus))
            free, used, training = free - train_gpus, used + seconds * train_gpus, True
        # a job that is next and only waits for GPUs is not overtaken
        reserved = train_gpus if not training and left[window(following)] == 0 else 0
        while position < len(waiting) and free > reserved:
            stage = waiting[position][0]
            if rolling and stage - 2 > trained:
                break
            heapq.heappush(ends, (now + rates.capture_seconds, stage, 1))
            free, used, position = free - 1, used + rates.capture_seconds, position + 1
        peak = max(peak, position - dropped)
        now, stage, given_back = heapq.heappop(ends)
        free += given_back
        if stage < 0:
            trained, training = -stage, False
            dropped += len(stages.shards_of(trained)) if rolling else 0
        else:
            left[stage] -= 1
    return Played(now, peak, len(waiting), used / (now * gpus))


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--samples", type=int, default=1_400_000)
    args.add_argument("--tokens-per-sample", type=float, default=1000)
    args.add_argument("--bytes-per-token", type=float, default=14_900, help="fp8_e4m3 at H 4096")
    args.add_argument("--shard-size", type=int, default=4096)
    args.add_argument("--window-shards", type=int, default=8)
    args.add_argument("--epochs", type=int, default=1)
    args.add_argument("--epochs-per-stage", type=int, default=1)
    args.add_argument("--capture-rate", type=float, default=27_000, help="tokens/s of a GPU")
    args.add_argument("--train-rate", type=float, default=20_000, help="tokens/s of a GPU")
    args.add_argument("--start-seconds", type=float, default=60, help="of any job, to load models")
    args.add_argument("--gpus", type=int, nargs="+", default=(1, 8, 64))
    given = args.parse_args()
    shards = -(-given.samples // given.shard_size)
    shard_tokens = given.shard_size * given.tokens_per_sample
    rows = []
    for gpus in given.gpus:
        for rolling in (True, False):
            window = given.window_shards if rolling else shards
            stages = Stages(shards, window, given.epochs, given.epochs_per_stage)
            result = []
            for train_gpus in {1, *(gpus * i // 8 for i in range(1, 9))} - {0}:
                rates = Rates(
                    given.start_seconds + shard_tokens / given.capture_rate,
                    shard_tokens / given.train_rate / train_gpus,
                    given.start_seconds,
                )
                played = play(stages, rates, gpus, train_gpus, rolling)
                result.append((played.seconds, train_gpus, played))
            _, train_gpus, played = min(result, key=lambda entry: entry[:2])
            peak = played.peak_shards * shard_tokens * given.bytes_per_token
            rows.append(
                {
                    "GPUs": gpus,
                    "mode": "rolling" if rolling else "keep",
                    "of them training": train_gpus,
                    "peak disk, TB": peak / 1e12,
                    "capture jobs": played.capture_jobs,
                    "stages": stages.count,
                    "hours": played.seconds / 3600,
                    "GPUs busy, %": 100 * played.busy,
                }
            )
    show("rolling mode, simulated", rows, given)


if __name__ == "__main__":
    main()
