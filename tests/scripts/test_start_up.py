"""What a job loads before it has anything to do: seconds of every run are start-up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "datasets", "snakemake"}
LOADS = {
    "capture_hidden_states": {"torch"},
    "evaluate_draft": {"torch"},
    "import_source": {"torch"},
    "import_states": {"torch"},
    "import_tokens": {"torch"},
    "regenerate_answers": {"torch"},
    "score_stage": {"torch"},
    "share_states": {"torch"},
    "train_embedded_target": {"torch", "transformers"},
    "train_stage": {"torch"},
}
PROGRAM = """
import importlib, sys
for script in sys.argv[1:]:
    importlib.import_module(f"workflow_scripts.{script}")
    print(script, *sys.modules)
"""


def test_a_job_imports_no_large_library_that_it_need_not() -> None:
    scripts = [
        path.stem
        for path in (ROOT / "workflow_scripts").glob("*.py")
        if "entry.start(" in path.read_text(encoding="utf-8")
    ]
    assert LOADS.keys() <= set(scripts)
    # one process for all, those that load least first
    scripts.sort(key=lambda script: (len(LOADS.get(script, ())), script))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *scripts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    allowed: set[str] = set()
    for line in done.stdout.splitlines():
        script, *loaded = line.split()
        allowed |= LOADS.get(script, set())
        assert HEAVY & set(loaded) <= allowed, script
