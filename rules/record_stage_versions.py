"""Write the present source digests into stage_versions.yaml (see its header)."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from eagle3.workflow.provenance import code_digest  # noqa: E402

FILE = ROOT / "rules" / "stage_versions.yaml"
SCRIPTS = {
    "embedded_target": "train_embedded_target.py",
    "dataset": "prepare_dataset.py",
    "regenerate": "regenerate_answers.py",
    "tokens": "tokenize_shard.py",
    "hidden_states": "capture_hidden_states.py",
    "import_source": "import_source.py",
    "import_tokens": "import_tokens.py",
    "import_states": "import_states.py",
}


def source_digests() -> dict[str, str]:
    """Digest of the sources of each versioned stage."""
    return {s: code_digest(ROOT / "workflow_scripts" / f, ROOT) for s, f in SCRIPTS.items()}


def main() -> None:
    text = FILE.read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines(True) if line.startswith("#"))
    known = yaml.safe_load(text) or {}
    stages = {
        stage: {"version": known.get(stage, {}).get("version", 1), "sources": digest}
        for stage, digest in source_digests().items()
    }
    FILE.write_text(header + yaml.safe_dump(stages, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
