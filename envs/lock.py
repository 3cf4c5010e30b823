"""Turn a report of pip into requirements with hashes.

    pip install --dry-run --ignore-installed --no-deps --report REPORT -r envs/eagle3.txt
    python envs/lock.py REPORT envs/eagle3.lock
    pip install --no-deps --require-hashes -r envs/eagle3.lock

The hashes are those of the wheels that pip would take on this platform from its own index.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def locked(report: dict[str, Any]) -> str:
    """One requirement a line. Raises ValueError for a package that comes without a hash."""
    lines = []
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        archive = item["download_info"].get("archive_info", {})
        # before pip 23.1, a local file has only the older key: "sha256=..."
        kind, _, older = archive.get("hash", "").partition("=")
        sha256 = archive.get("hashes", {kind: older}).get("sha256")
        if not sha256:
            raise ValueError(f"{name} {version} comes without a SHA-256")
        lines.append(f"{name.lower()}=={version} --hash=sha256:{sha256}")
    return "\n".join(sorted(lines)) + "\n"


if __name__ == "__main__":
    report, out = map(Path, sys.argv[1:])
    out.write_text(locked(json.loads(report.read_text(encoding="utf-8"))), encoding="utf-8")
