"""A job that says which devices it got and fails if another job has one of them.

    python -m tests.builders.gpu_job FOLDER NAME [SECONDS] [child]

Without SECONDS it goes on until FOLDER/NAME.end exists. With `child` it starts itself once more,
and the child does the work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.builders.waiting import wait_for


def main():
    folder, name, *more = sys.argv[1:]
    folder = Path(folder)
    if "child" in more:
        command = [sys.executable, "-m", "tests.builders.gpu_job", str(folder), name]
        sys.exit(subprocess.run(command, check=False).returncode)
    name += os.environ.get("LOCAL_RANK", "")
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if "LOCAL_RANK" in os.environ:
        devices = [devices[int(os.environ["LOCAL_RANK"])]]
    for device in devices:
        (folder / f"busy-{device}").mkdir()  # fails if another job is on it
    said = {
        "name": name,
        "process": os.getpid(),
        "devices": devices,
        "order": os.environ.get("CUDA_DEVICE_ORDER"),
        "world": [os.environ.get("RANK"), os.environ.get("WORLD_SIZE")],
    }
    with open(folder / "started", "a") as log:
        log.write(json.dumps(said) + "\n")
    if more:
        time.sleep(float(more[0]))
    else:
        wait_for((folder / f"{name}.end").exists, "the test to end this job", limit=900)
    for device in devices:
        (folder / f"busy-{device}").rmdir()


if __name__ == "__main__":
    main()
