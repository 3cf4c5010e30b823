"""A job that stands still at a known place, so that a test can act in the middle of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.builders.waiting import LIMIT, wait_for

ROOT = Path(__file__).resolve().parents[2]
STEP = "eagle3.training.stage:StageTrainer._step"  # of training
STATE = "eagle3.training.checkpoint:write_json"  # the last file of a save
WRITE = "os:pwrite"  # of a shard's rows


@dataclass(frozen=True)
class Hold:
    """Holds each process that has all `words` in its command line before a call of a function.

    `at`: MODULE:FUNCTION, or nothing for the very start of the process; `number`: which call.
    `folder`: one of its own, in which they tell each other.
    """

    folder: Path
    words: tuple[str, ...]
    at: str = ""
    number: int = 1

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the job."""
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = {"words": self.words, "at": self.at, "number": self.number}
        paths = [str(Path(__file__).parent / "holding"), str(ROOT)]
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        return {
            "EAGLE3_TEST_HOLD": json.dumps({**wanted, "folder": str(self.folder)}),
            "PYTHONPATH": os.pathsep.join(paths),
        }

    def wait(
        self,
        processes: int = 1,
        limit: float = LIMIT,
        hopeless: Callable[[], str | None] | None = None,
    ) -> None:
        """Until so many processes stand still."""
        wait_for(
            lambda: len(list(self.folder.glob("held-*"))) >= processes,
            f"{processes} of {self.words[0]} to be held before {self.at or 'the start'}",
            limit,
            state=lambda: [path.name for path in self.folder.iterdir()],
            hopeless=hopeless,
        )

    def release(self) -> None:
        """Let them go on."""
        (self.folder / "go").touch()
