"""The project's own pipeline on the published model: calls of its Snakefile in a folder of its own.

    python -m benchmarks.real.pipeline answers --target target --prompts prompts --work draft \\
        --overlay '{"run": "smollm2"}' --engine '{"name": "vllm", "python": "…"}' --out answers.json

`answers` starts a server of the target and has the stage `regenerate` ask it, up to the token
shards. If the server dies it is started again; answers that came are kept by the stage itself, and
none is asked for twice. `train` does all the rest; it needs no server.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.real.engines import ROOT, Engine, held, serving, watched
from eagle3.errors import UserError
from eagle3.files.artifact import write_text
from workflow_scripts import ending

log = logging.getLogger(__name__)
STARTS = 3  # of a server that dies
CONFIG, SERVERS = "config.yaml", "servers.yaml"
LOCAL = ["http://127.0.0.1:9/v1"]  # nobody is asked any more


def write_config(work: Path, overlay: Mapping[str, Any], target: Path, prompts: Path) -> None:
    """The configuration of the run in `work`, with the places of what was made before."""
    config = json.loads(json.dumps(overlay))
    config.setdefault("dataset", {})["source"] = str((prompts / "train.jsonl").resolve())
    config.setdefault("target", {})["model"] = str(target.resolve())
    sets = sorted(path for path in prompts.glob("*.jsonl") if path.name != "train.jsonl")
    config.setdefault("evaluation", {})["prompts"] = [
        {"name": path.stem, "source": str(path.resolve())} for path in sets
    ]
    work.mkdir(parents=True, exist_ok=True)
    write_text(work / CONFIG, yaml.safe_dump(config, sort_keys=False))


def call(work: Path, goal: str, servers: list[str], concurrency: int, cores: int, lock: int) -> int:
    """Run the pipeline up to the rule `goal`; its exit code. `lock`: the descriptor that keeps
    others out of `work`."""
    asked = {"resources": {"regenerate": {"servers": servers, "concurrency": concurrency}}}
    write_text(work / SERVERS, yaml.safe_dump(asked))
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        # the caller lets nobody else in, and a lock that a kill has left would stay
        *("--directory", str(work), "--cores", str(cores), "--nolock", "--rerun-incomplete"),
        *("--configfile", str(work / CONFIG), str(work / SERVERS), "--", goal),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(  # noqa: S603 - our own words
        command,
        env=environment,
        pass_fds=(lock,),
        start_new_session=True,
    )
    try:
        with watched(process, signal.SIGINT):
            return process.wait()
    except BaseException:  # as a terminal's Ctrl-C: jobs save what they have
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise


def answer(
    engine: Engine, target: Path, work: Path, concurrency: int, cores: int, lock: int
) -> dict[str, float]:
    """Have the target answer everything, and make the token shards of it.

    Raises UserError if the pipeline fails while its server lives, or if the server keeps dying.
    """
    started, up = time.monotonic(), 0.0
    for start in range(1, STARTS + 1):
        with serving(engine, target, work / "logs" / f"{engine.name}.log") as server:
            up += server.seconds
            where = [f"{server.url}/v1"]
            code = call(work, "prepare_data", where, concurrency, cores, lock)
            if code == 0:
                return {
                    "seconds": round(time.monotonic() - started, 1),
                    "server_start_seconds": round(up, 1),
                    "server_cpu_seconds": round(server.cpu_seconds(), 1),
                    "starts": start,
                }
            if server.alive:
                raise UserError(f"the pipeline in {work} failed; its own message is above")
            log.warning("%s died (%s); start %d of %d", engine.name, server.log, start, STARTS)
    raise UserError(f"{engine.name} died {STARTS} times; the answers so far are kept")


def train(work: Path, cores: int, lock: int) -> dict[str, float]:
    """Capture, train, score, export and evaluate. Raises UserError if the pipeline fails."""
    started = time.monotonic()
    if call(work, "train", LOCAL, 1, cores, lock):
        raise UserError(f"the pipeline in {work} failed; its own message is above")
    return {"seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("goal", choices=("answers", "train"))
    args.add_argument("--target", type=Path, required=True)
    args.add_argument("--prompts", type=Path, required=True, help="folder of the questions")
    args.add_argument("--work", type=Path, required=True, help="folder of the run")
    args.add_argument("--overlay", type=json.loads, required=True, help="its configuration")
    args.add_argument("--engine", type=json.loads, help="what answers")
    args.add_argument("--concurrency", type=int, default=16, help="questions at a time")
    args.add_argument("--cores", type=int, default=os.cpu_count())
    args.add_argument("--out", type=Path, required=True, help="what it took, as JSON")
    given = args.parse_args()
    write_config(given.work, given.overlay, given.target, given.prompts)
    with held(given.work) as lock:
        if given.goal == "answers":
            engine = Engine.of(given.engine, requests=given.concurrency)
            size = given.concurrency, given.cores
            spent = answer(engine, given.target, given.work, *size, lock)
        else:
            spent = train(given.work, given.cores, lock)
    write_text(given.out, json.dumps(spent, indent=1) + "\n")


if __name__ == "__main__":
    ending.run(main)
