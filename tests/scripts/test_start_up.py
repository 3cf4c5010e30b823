"""What a job loads before it has anything to do: seconds of every run are start-up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
SCRIPTS = sorted(
    path.stem
    for path in (ROOT / "workflow_scripts").glob("*.py")
    if "entry.start(" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_job_imports_no_large_library_that_it_need_not(script: str) -> None:
    loaded = f"import sys, workflow_scripts.{script}; print(*{HEAVY!r} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= LOADS.get(script, set())
