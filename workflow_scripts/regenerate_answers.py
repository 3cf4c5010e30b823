"""Have the target answer the conversations of one shard anew."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from eagle3.config.dataset import Regenerate
from eagle3.data.openai_engine import OpenAIEngine
from eagle3.data.regeneration import (
    Engine,
    Record,
    regenerate,
    write_answers,
)
from eagle3.data.rows import Dataset, check_enough
from eagle3.target.answers import HFAnswers
from eagle3.target.files import resolve_target
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--dataset", type=Path, required=True, help="folder of rows.jsonl")
    args.add_argument("--target", required=True, help="directory, or hub:<owner>/<name>")
    args.add_argument("--split", required=True)
    args.add_argument("--shard", type=int, required=True)
    args.add_argument("--want", type=int, required=True, help="training rows this run needs")
    args.add_argument("--servers", default="", help="base URLs, with commas between them")
    args.add_argument("--concurrency", type=int, required=True, help="requests to each server")
    args.add_argument("--batch", type=int, required=True, help="conversations, of backend hf")
    args.add_argument("--device", required=True)
    args.add_argument("--threads", type=int, required=True)
    args.add_argument("--resume", type=Path, required=True, help="answers as they come")
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--report", type=Path, required=True)
    given = args.parse_args()
    torch.set_num_threads(given.threads)
    values = given.settings.values
    dataset = Dataset(given.dataset, given.split, given.settings.upstream["dataset"])
    if given.split == "train":
        check_enough(len(dataset), given.want)
    size = values["dataset"]["shard_size"]
    rows = dataset.read(given.shard * size, (given.shard + 1) * size)
    sampling = Regenerate.from_settings(values["dataset"]["regenerate"])
    inputs = {"dataset": dataset.manifest.inputs["rows"]}
    identity = f"{given.settings.digest} {inputs['dataset']} {given.split} {given.shard}"
    with Record.opened(given.resume, identity) as record:
        outcome = regenerate(rows, _engine(given, sampling), sampling.seed, record)
        report = write_answers(given.out, given.report, outcome, given.settings, inputs)
        given.resume.unlink()
    logging.info("%s", {k: v for k, v in report.items() if k != "first_dropped"})


def _engine(given: Any, sampling: Regenerate) -> Engine:
    """Where answers come from."""
    if sampling.backend == "server":
        servers = given.servers.split(",")
        return OpenAIEngine(servers, sampling.model, given.concurrency, sampling)
    values = given.settings.values
    target, tokens = values["target"], values["tokens"]
    renderer = {
        "choice": tokens["chat_template"],
        "options": tokens["chat_template_options"],
        "system_prompt": tokens["system_prompt"],
    }
    return HFAnswers(
        resolve_target(given.target, target["revision"]),
        renderer,
        sampling,
        given.batch,
        target["dtype"],
        given.device,
        target["trust_remote_code"],
    )


entry.run(main)
