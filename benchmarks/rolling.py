"""Rolling mode, simulated: peak disk, jobs and wall time of a run too large to be run here.

    python -m benchmarks.rolling

Simulates the DAG's rules (`eagle3.tokens.stages`): a stage waits for its window and for the
previous stage, a window waits for the stage two before, training has priority over capture and
early windows over late ones. Jobs have a start-up time. The rates of a GPU are assumptions, given
on the command line; the defaults are public figures for Llama-3.1-8B (docs/rolling.md).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from benchmarks.tables import parser, show
from eagle3.tokens.stages import Stages


@dataclass(frozen=True)
class Rates:
    """Durations of jobs."""

    capture_seconds: float  # of one shard, start-up included
    train_seconds: float  # of one shard in one epoch, on all GPUs of the training job
    train_start: float  # seconds before a stage's first step


@dataclass(frozen=True)
class Played:
    """The result of a simulated run."""

    seconds: float
    peak_shards: int  # maximum of shards on the disk
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
    remaining = {stage: len(stages.shards_of(stage)) for stage in captures}
    events: list[tuple[float, int, int]] = []  # time, stage (negative: its training), GPUs freed
    now, free, busy_seconds, trained, training = 0.0, gpus, 0.0, 0, False
    position, dropped, peak = 0, 0, 0  # captures started; shards removed; maximum on the disk

    def window(stage: int) -> int:
        return stage if rolling else (stage - 1) % stages.windows + 1

    while trained < stages.count:
        next_stage = trained + 1
        if not training and remaining[window(next_stage)] == 0 and free >= train_gpus:
            work = len(stages.shards_of(next_stage)) * len(stages.epochs_of(next_stage))
            seconds = rates.train_start + work * rates.train_seconds
            heapq.heappush(events, (now + seconds, -next_stage, train_gpus))
            free, busy_seconds, training = (
                free - train_gpus,
                busy_seconds + seconds * train_gpus,
                True,
            )
        # captures do not overtake a training that only waits for GPUs
        reserved = train_gpus if not training and remaining[window(next_stage)] == 0 else 0
        while position < len(waiting) and free > reserved:
            stage = waiting[position][0]
            if rolling and stage - 2 > trained:
                break
            heapq.heappush(events, (now + rates.capture_seconds, stage, 1))
            free, busy_seconds, position = (
                free - 1,
                busy_seconds + rates.capture_seconds,
                position + 1,
            )
        peak = max(peak, position - dropped)
        now, stage, freed = heapq.heappop(events)
        free += freed
        if stage < 0:
            trained, training = -stage, False
            dropped += len(stages.shards_of(trained)) if rolling else 0
        else:
            remaining[stage] -= 1
    return Played(now, peak, len(waiting), busy_seconds / (now * gpus))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=1_400_000)
    options.add_argument("--tokens-per-sample", type=float, default=1000)
    options.add_argument("--bytes-per-token", type=float, default=14_900, help="fp8_e4m3 at H 4096")
    options.add_argument("--shard-size", type=int, default=4096)
    options.add_argument("--window-shards", type=int, default=8)
    options.add_argument("--epochs", type=int, default=1)
    options.add_argument("--epochs-per-stage", type=int, default=1)
    options.add_argument("--capture-rate", type=float, default=27_000, help="tokens/s of a GPU")
    options.add_argument("--train-rate", type=float, default=20_000, help="tokens/s of a GPU")
    options.add_argument(
        "--start-seconds", type=float, default=60, help="of any job, to load models"
    )
    options.add_argument("--gpus", type=int, nargs="+", default=(1, 8, 64))
    args = options.parse_args()
    shards = -(-args.samples // args.shard_size)
    shard_tokens = args.shard_size * args.tokens_per_sample
    rows = []
    for gpus in args.gpus:
        for rolling in (True, False):
            window = args.window_shards if rolling else shards
            stages = Stages(shards, window, args.epochs, args.epochs_per_stage)
            result = []
            for train_gpus in {1, *(gpus * i // 8 for i in range(1, 9))} - {0}:
                rates = Rates(
                    args.start_seconds + shard_tokens / args.capture_rate,
                    shard_tokens / args.train_rate / train_gpus,
                    args.start_seconds,
                )
                played = play(stages, rates, gpus, train_gpus, rolling)
                result.append((played.seconds, train_gpus, played))
            _, train_gpus, played = min(result, key=lambda entry: entry[:2])
            peak = played.peak_shards * shard_tokens * args.bytes_per_token
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
    show("rolling mode, simulated", rows, args)


if __name__ == "__main__":
    main()
