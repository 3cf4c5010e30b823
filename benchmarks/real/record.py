"""Costs and scores of `defaults.py`: a line each, kept as they come, and their table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DEFAULT = "default"
# two-sided 95 % of Student's t by degrees of freedom
STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}


class Record:
    """Costs and scores, one a line, of one budget."""

    def __init__(self, path: Path | None, budget: float | str) -> None:
        self.path, self.budget = path, budget
        self.lines: list[dict[str, Any]] = []
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # a kill has cut it short
                    continue
                if entry["budget"] == budget:
                    self.lines.append(entry)
            if not path.read_bytes().endswith(b"\n"):
                path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")

    def known(self, kind: str, name: str, seed: int | None = None) -> dict[str, Any] | None:
        wanted = (kind, name, seed)
        entries = (e for e in self.lines if (e["kind"], e["name"], e.get("seed")) == wanted)
        return next(entries, None)

    def cost(self, name: str) -> float:
        """CPU seconds of a step of a variant whose cost is known."""
        return next(
            e["cpu_seconds"] for e in self.lines if (e["kind"], e["name"]) == ("cost", name)
        )

    def add(self, entry: dict[str, Any]) -> dict[str, Any]:
        entry = {"budget": self.budget, **entry}
        self.lines.append(entry)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as out:
                out.write(json.dumps(entry) + "\n")
        return entry


def table(
    record: Record, todo: Iterable[tuple[str, str, Any]], draft_tokens: int
) -> list[dict[str, Any]]:
    """Means over seeds, and differences to the default seed by seed with their interval.

    `draft_tokens`: how many drafts of a chain count; a score has at least as many.
    """

    def length(entry: dict[str, Any]) -> float:
        return 1 + sum(entry["per_position_acceptance"][:draft_tokens])

    scores = [entry for entry in record.lines if entry["kind"] == "score"]
    base = {e["seed"]: length(e) for e in scores if e["name"] == DEFAULT}
    rows = []
    for factor, name, _ in todo:
        own = {e["seed"]: e for e in scores if e["name"] == name}
        changes = [length(own[seed]) - base[seed] for seed in sorted(own)]
        spread = statistics.stdev(changes) if len(changes) > 1 else float("nan")
        half = STUDENT.get(len(changes) - 1, float("nan")) * spread / len(changes) ** 0.5
        decoded = [e["decoded"]["acceptance_length"] for e in own.values() if "decoded" in e]
        rows.append(
            {
                "factor": factor,
                "variant": name,
                "draft tokens": draft_tokens,
                "acceptance length": statistics.mean(map(length, own.values())),
                "difference": statistics.mean(changes),
                "95 % +-": half,
                **({"decoded": statistics.mean(decoded)} if decoded else {}),
                "steps": statistics.mean(e["steps"] for e in own.values()),
                "CPU s": statistics.mean(e["cpu_seconds"] for e in own.values()),
            }
        )
    return rows
