"""Many faults on real runs: each run must end with the bits of an undisturbed one.

    python -m tests.faults.soak --faults 200 --seed 1 --json soak.json

Each round takes the small run up at a random stage, the first is an empty folder, and calls
Snakemake until it has nothing to do, with one kind of fault in every call, drawn from a shuffled
deck of all kinds. A call over a damaged file must end the run with a sentence that names the file,
which is then removed as it says, or make the file anew. At the end of each round: the draft is
bit-identical to the undisturbed one, a further call does nothing, no half-written file is left.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tests.faults.calls import CHANGE, idle, wait_for_none
from tests.faults.harm import DRAFT, LAST, OUT
from tests.faults.kinds import KINDS, Fault, Run
from tests.faults.volume import Volume
from tests.rules.workflow import ROOT, merged, snakemake

RESULTS = (DRAFT, LAST, OUT / "checkpoints/stage-0001/model.safetensors")
OTHER = {"embedded_target": {"seed": 1}}
# what is made one after the other; a round has none of it from one of these on
IN_ORDER = (
    ("dataset",),
    ("target",),
    ("tokens",),
    ("vocab", "schedule.json", "plan.json"),
    ("hidden_states",),
    ("checkpoints/stage-0001", "metrics/stage-0001.jsonl"),
    ("checkpoints/stage-0002", "metrics/stage-0002.jsonl"),
    ("evaluation", "checkpoints/best", "draft", "report.html"),
)
DISK = (
    *("No space left on device", "Input/output error", "Read-only file system"),
    "Write-protected output files",  # Snakemake, before it starts the job
)


class Broken(AssertionError):
    """The promise was not kept."""


@dataclass
class Tally:
    """Faults by kind, and what came of them."""

    faults: Counter[str] = field(default_factory=Counter)
    sentences: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)  # rounds in which the promise was not kept
    rounds: int = 0
    hits: list[dict[str, str]] = field(default_factory=list)

    def note(self, fault: Fault, said: list[str]) -> None:
        """One fault, and what the project's own code said in its call, if anything."""
        self.faults[fault.kind] += 1
        self.sentences[fault.kind] += bool(said)
        self.hits.append({**vars(fault), "said": said[0] if said else ""})

    def table(self) -> str:
        lines = ["| fault | times | in calls that ended with a sentence |", "|---|---|---|"]
        counts = (self.faults, self.sentences)
        for name in KINDS:
            lines.append(" | ".join([f"| {name}", *(str(count[name]) for count in counts)]) + " |")
        total = " | ".join(["| all", *(str(count.total()) for count in counts)]) + " |"
        return "\n".join([*lines, total])


def digests(folder: Path) -> list[str]:
    return [hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in RESULTS]


def undisturbed(folder: Path, change: dict[str, object]) -> Path:
    """A finished run, maybe of an earlier soak."""
    if folder.exists() and idle(folder, merged(CHANGE, change)):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with open(ROOT / "data/demo_chat.jsonl", encoding="utf-8") as rows:
        (folder / "few.jsonl").write_text("".join(islice(rows, 60)), encoding="utf-8")
    outcome = snakemake(folder, change=merged(CHANGE, change))
    if outcome.code:
        raise RuntimeError(outcome.text[-6000:])
    return folder


def begun(folder: Path, finished: Path, rng: random.Random, whole: bool) -> Path:
    """A run that has come to a random stage, or has only its folder."""
    shutil.copytree(finished, folder)
    first = 0 if whole else rng.randrange(1, len(IN_ORDER))
    for name in (name for names in IN_ORDER[first:] for name in names):
        path = folder / OUT / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return folder


def deck(rng: random.Random, names: list[str]) -> Iterator[str]:
    """Kinds in random order, each as often as any other."""
    while True:
        yield from rng.sample(names, len(names))


def one_round(
    run: Run, kinds: Iterator[str], tally: Tally, wanted: list[str], limit: int, end: float
) -> None:
    """From there to the draft; raises Broken if it is not the wanted one."""
    while True:
        result, before = list[Fault](), run.calls
        while run.calls == before and tally.faults.total() < limit and time.monotonic() < end:
            result = KINDS[next(kinds)](run)  # one that finds nothing to hit makes no call
        if run.calls == before:
            run.start().end()
        call = run.call
        if call is None or call.running:
            raise Broken("no call came to an end")
        for fault in result:
            tally.note(fault, call.sentences)
        if result:
            _look_into(run, result[0])
        if call.process.returncode == 0:
            wait_for_none(run.folder)
            if idle(run.folder):
                break
        elif not result:
            raise Broken(f"a call failed without a fault:\n{call.text[-6000:]}")
    if digests(run.folder) != wanted:
        raise Broken(f"another draft after {run.calls} calls in {run.folder}")
    left = [str(path) for path in (run.folder / OUT).rglob("*.tmp")]
    if left:
        raise Broken(f"left behind: {left}")


def _look_into(run: Run, fault: Fault) -> None:
    """What a failed call said of the fault, and the remedy it names."""
    call = run.call
    if call is None or call.process.returncode == 0:
        run.damaged = None
        return
    said = "\n".join(call.sentences)
    if run.damaged is not None:
        if run.damaged.name not in said:
            raise Broken(f"{fault} ended without naming it:\n{call.text[-6000:]}")
        run.damaged.unlink(missing_ok=True)
        run.damaged = None
    elif fault.kind == "failing_writes" and DISK[1] not in said:
        raise Broken(f"{fault} ended without a sentence:\n{call.text[-6000:]}")
    elif fault.kind == "read_only" and not any(cause in call.text for cause in DISK):
        raise Broken(f"{fault} ended without saying why:\n{call.text[-6000:]}")


def soak(faults: int, seed: int, names: list[str], place: Path, minutes: float = 1e9) -> Tally:
    """Rounds until so many faults have happened, or so long; those in which the promise broke are
    listed."""
    rng, tally, end = random.Random(seed), Tally(), time.monotonic() + 60 * minutes
    volume = Volume(place / "volume")
    try:
        reference = undisturbed(place / "reference", {})
        wanted = digests(reference)
        others = undisturbed(place / "others", OTHER)
        kinds = deck(rng, names)
        while tally.faults.total() < faults and time.monotonic() < end:
            folder = volume.place / f"round-{tally.rounds}" / "run"
            run = Run(volume, begun(folder, reference, rng, tally.rounds == 0), others, rng)
            started = time.monotonic()
            try:
                one_round(run, kinds, tally, wanted, faults, end)
            except Broken as promise:
                tally.broken.append(str(promise))
                print(promise, file=sys.stderr)
                wait_for_none(run.folder)
            tally.rounds += 1
            print(
                f"round {tally.rounds}: {run.calls} calls in {time.monotonic() - started:.0f} s, "
                f"{tally.faults.total()} faults so far",
                file=sys.stderr,
                flush=True,
            )
            shutil.rmtree(folder.parent)
    finally:
        with suppress(OSError):
            volume.close()
    return tally


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("--faults", type=int, default=200)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    args.add_argument("--minutes", type=float, default=1e9, help="make no faults after that time")
    args.add_argument("--json", type=Path)
    args.add_argument("--place", type=Path, help="folder; finished runs that are there are taken")
    given = args.parse_args()
    place = given.place or Path(tempfile.mkdtemp(prefix="eagle3-faults-"))
    tally = soak(given.faults, given.seed, given.kinds, place, given.minutes)
    print(tally.table())
    kept = tally.rounds - len(tally.broken)
    print(f"{kept} of {tally.rounds} rounds ended with the bits of the undisturbed run")
    if given.json:
        given.json.write_text(json.dumps({"seed": given.seed, **vars(tally)}, indent=1))
    if given.place is None:
        shutil.rmtree(place)
    sys.exit(1 if tally.broken else 0)


if __name__ == "__main__":
    main()
