"""Real Snakemake calls in a folder of their own, and what they did."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from tests.builders.hold import Hold
from tests.builders.processes import ended, kill_group
from tests.builders.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]

# A run that passes through every rule and takes seconds: nothing about its numbers matters.
# Dataset and state shards are above 1 MB, since Snakemake compares smaller files by checksum and
# would hide a fault in dates.
SMALL: dict[str, Any] = {
    "run": "small",
    "dataset": {"num_samples": 128, "shard_size": 64},
    "embedded_target": {
        "source": "few_chats.jsonl",
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "epochs": 1,
        "batch_tokens": 16384,
    },
    "tokens": {"max_length": 512},
    "vocab": {"draft_vocab_size": 128},
    "train": {
        "epochs": 2,
        "epochs_per_stage": 1,
        "ttt_steps": 2,
        "pack_tokens": 4096,
        "packs_per_batch": 2,
        "learning_rate": 1.0e-3,
    },
    "export": {"formats": ["sglang"]},
    "evaluation": {
        "held_out_samples": 64,
        "num_prompts": 2,
        "max_new_tokens": 12,
        "num_speculative_tokens": 3,
    },
    "resources": {"train": {"threads": 1, "processes": 1, "save_interval": 2}},
}


@dataclass(frozen=True)
class Outcome:
    """What a call printed and which jobs it ran."""

    code: int
    text: str

    @property
    def jobs(self) -> Counter[str]:
        """Jobs by rule, target rules not counted."""
        return Counter(re.findall(r"^Job \d+: (\w+): ", self.text, flags=re.MULTILINE))

    @property
    def idle(self) -> bool:
        return "Nothing to be done" in self.text


SUMMARY = re.compile(
    r"^(acceptance length .*)\n(against .*)\n(report: .*)\n(serve: .*)\n(warnings: .*)$",
    flags=re.MULTILINE,
)


def summary_in(outcome: Outcome) -> list[str]:
    """The five lines about a finished run, if the call printed them."""
    match = SUMMARY.search(outcome.text)
    return list(match.groups()) if match else []


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`change` laid over `base`, section by section."""
    out = dict(base)
    for key, value in change.items():
        deep = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if deep else value
    return out


def write_overlay(folder: Path, *changes: dict[str, Any]) -> Path:
    """The demo with SMALL and changes laid over it, and what its target learns from: a few
    conversations, since nobody reads what it says."""
    few = folder / "few_chats.jsonl"
    if not few.exists():
        with open(ROOT / "data" / "demo_chat.jsonl", encoding="utf-8") as rows:
            few.write_text("".join(islice(rows, 150)), encoding="utf-8")
    whole = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for change in (SMALL, *changes):
        whole = merged(whole, change)
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return overlay


def command(
    folder: Path,
    *arguments: str,
    change: dict[str, Any] | None = None,
    overlay: Path | None = None,
    target: str | Sequence[str] = "train",
    root: Path = ROOT,
) -> list[str]:
    """A call of the project's workflow in `folder` with `overlay`, else with the small
    configuration and `change` laid over it."""
    overlay = overlay or write_overlay(folder, change or {})
    made = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    made += ["--directory", str(folder), "--cores", "2", *arguments]
    targets = [target] if isinstance(target, str) else target
    return [*made, "--configfile", str(overlay), "--", *targets]


def killed_while_held(folder: Path, hold: Hold, there: Callable[[], Any], **options: Any) -> None:
    """Make the call, and kill it and all its jobs when one of them is held and `there` is true."""
    log = hold.folder / "log"
    environment = os.environ | hold.environment
    with open(log, "w") as out:
        process = subprocess.Popen(
            command(folder, **options),
            cwd=folder,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    hopeless = ended(process, log.read_text)
    hold.wait(hopeless=hopeless)
    wait_for(there, "what must be there before the kill", state=log.read_text, hopeless=hopeless)
    kill_group(process)


def snakemake(folder: Path, *arguments: str, **options: Any) -> Outcome:
    """Make the call and wait for it."""
    done = subprocess.run(
        command(folder, *arguments, **options),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=600,
        check=False,
    )
    return Outcome(done.returncode, done.stdout + done.stderr)
