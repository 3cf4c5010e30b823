"""The whole workflow on the device: `snakemake train` with the embedded target, small."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.bench import Bench, Row
from eagle3.report.job_times import measured_jobs

ROOT = Path(__file__).resolve().parents[2]
RUN = "gpu-check"
CONVERSATIONS = 128


def pipeline(bench: Bench) -> Iterator[Row]:
    """One row for the run, and one for each of its kinds of jobs."""
    if bench.tiny:  # the tests run the workflow on a CPU already, and it takes minutes
        yield {"what": "snakemake train", "ok": None, "fault": "left out with --tiny"}
        return
    yield bench.row("snakemake train", lambda: _trained(bench), seconds=90)
    for rule, figures in measured_jobs(ROOT / "results" / RUN / "benchmarks"):
        yield {"what": rule, "ok": True, "seconds": figures.get("s")}


def _trained(bench: Bench) -> Row:
    """Run the workflow; removes files of an earlier run first, and keeps its own."""
    shutil.rmtree(ROOT / "results" / RUN, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "few.jsonl"
        rows = (ROOT / "data" / "demo_chat.jsonl").read_text(encoding="utf-8").splitlines()
        source.write_text("\n".join(rows[:CONVERSATIONS]) + "\n", encoding="utf-8")
        overlay = {
            "run": RUN,
            "dataset": {"num_samples": 64, "shard_size": 64},
            "embedded_target": {"source": str(source)},
            "train": {"epochs": 1, "epochs_per_stage": 1, "precision": "bfloat16"},
            "evaluation": {"held_out_samples": 64, "num_prompts": 4, "max_new_tokens": 16},
            "resources": {"device": bench.device.type},
        }
        file, log = Path(folder) / "overlay.json", Path(folder) / "log"
        file.write_text(json.dumps(overlay), encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "--cores", str(min(os.cpu_count() or 2, 8))]
        command += ["--configfile", str(ROOT / "config.yaml"), str(file), "--", "train"]
        with open(log, "w", encoding="utf-8") as out:
            process = subprocess.Popen(  # noqa: S603
                command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )
            try:
                code = process.wait(timeout=max(bench.left() - 5, 30))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = -signal.SIGKILL
        if code:
            tail = log.read_text(encoding="utf-8")[-2000:]
            return {"ok": False, "exit": code, "fault": tail}
    metrics = sorted((ROOT / "results" / RUN).glob("metrics/*.jsonl"))
    last = json.loads(metrics[-1].read_text(encoding="utf-8").splitlines()[-1])
    return {"loss": last["loss"], "tokens/s": last["tokens_per_second"], "ranks": last["ranks"]}
