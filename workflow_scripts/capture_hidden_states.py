"""Run the target over one token shard and store the states that training reads."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import torch

from eagle3.artifact import Manifest, Settings, atomic_path, read_json, write_json
from eagle3.errors import UserError
from eagle3.features.job import CaptureJob, Placement, capture_shard
from eagle3.features.layout import CHECK_KIND
from eagle3.features.reader import KIND
from eagle3.features.source import address
from eagle3.features.space import Need, check_space
from eagle3.features.windows import drop_other_windows
from eagle3.objects import is_object, upload
from eagle3.ranks import joined_ranks
from eagle3.report.plan import KIND as PLAN
from eagle3.target.files import resolve_target
from eagle3.tensorfile import read_manifest
from eagle3.tokens.stages import Stages
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--tokens", type=Path, required=True)
    args.add_argument("--target", required=True)
    args.add_argument("--device", required=True)
    args.add_argument("--threads", type=int, required=True)
    args.add_argument("--batch-tokens", type=int, required=True)
    args.add_argument("--tensor-parallel", type=int, required=True)
    args.add_argument("--self-check", type=int, choices=(0, 1), required=True)
    args.add_argument("--sglang-python", required=True)
    args.add_argument("--sglang-arguments", type=json.loads, required=True)
    args.add_argument("--plan", type=Path, required=True, help="plan.json, if there is one")
    args.add_argument("--stages", type=json.loads, required=True, help="windows of this run")
    args.add_argument("--split", choices=("train", "eval"), default="train")
    args.add_argument("--stage", type=int, help="rolling mode: whose window the shard is of")
    args.add_argument("--disk-budget-gb", type=float, help="of all hidden states")
    args.add_argument("--states-in-storage", action="store_true", help="out is uploaded")
    args.add_argument("--out", type=address, required=True)
    args.add_argument("--report", type=Path, required=True)
    given = args.parse_args()
    directory = resolve_target(given.target, given.settings.values["target"]["revision"])
    job = CaptureJob(given.settings, given.tokens, directory)
    placement = Placement(
        given.device,
        given.threads,
        given.batch_tokens,
        given.tensor_parallel,
        bool(given.self_check),
        given.sglang_python,
        given.sglang_arguments,
    )
    with joined_ranks(given.device) as ranks:
        torch.set_num_threads(max(given.threads // ranks.world, 1))
        local = local_file(given)
        if ranks.first:
            if given.stage is not None and local == given.out:
                drop_other_windows(local.parent.parent, given.stage)
            stages = Stages(**given.stages)
            # the plan is of the shards of training; held-out ones lie beside them
            told = given.split == "train" and not given.states_in_storage
            planned, held_out = planned_bytes(given, stages.shards) if told else ({}, {})
            need = Need(planned, stages, rolling=given.stage is not None, held_out=held_out)
            own = job.expected_bytes()
            check_space(need, local, own, given.stage, given.disk_budget_gb)
        else:
            logging.disable(logging.INFO)
        with atomic_path(local) if ranks.first else nullcontext() as path:
            cosines = capture_shard(job, path, placement, ranks)
        if ranks.first:
            write_report(given, local, cosines)
            if local != given.out:
                try:
                    upload(local, given.out)
                finally:
                    local.unlink()


def local_file(given: Namespace) -> Path:
    """Where the shard is written: under its name, or beside the report until it is uploaded."""
    if is_object(given.out):
        return given.report.parent / given.out.rsplit("/", 1)[1]
    return given.out


def planned_bytes(given: Namespace, shards: int) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of every shard by file name, of training and held out, if the plan of this very capture
    is there already."""
    unknown: tuple[dict[str, int], dict[str, int]] = {}, {}
    try:
        plan, manifest = read_json(given.plan, PLAN)
    except UserError:
        return unknown
    planned = Settings(**manifest.settings)
    states, mine = planned.values["hidden_states"], given.settings.values["hidden_states"]
    same = planned.upstream["tokens"] == given.settings.upstream["tokens"]
    if not same or any(states.get(key) != value for key, value in mine.items()):
        return unknown
    found: dict[str, int] = plan["bytes_of_shards"]
    if len(found) < shards:
        return unknown
    # the plan may be of another num_samples
    return dict(list(found.items())[:shards]), plan.get("bytes_of_held_out", {})


def write_report(given: Namespace, shard: Path, cosines: dict[str, float]) -> None:
    """What the self-check found, for people and for the report."""
    manifest = read_manifest(shard, KIND)
    counts = manifest.counts
    size = shard.stat().st_size
    found = {
        "aux_layers": counts["aux_layers"],
        "cosines": cosines,
        "rows": counts["last"],
        "argmax_agrees": counts["argmax_agrees"],
        "bytes": size,
    }
    inputs = {"hidden_states": manifest.content_sha256}
    write_json(given.report, found, Manifest.of(CHECK_KIND, given.settings, inputs))
    cosine = min(cosines.values(), default=float("nan"))
    logging.info(
        "%d documents, %d rows of aux, %d of last, %d bytes (%s); layers %s; cosine to a plain "
        "pass %.5f; the target's choice is the next token in %.1f %% of the rows",
        counts["documents"],
        counts["aux"],
        counts["last"],
        size,
        counts["codec"],
        counts["aux_layers"],
        cosine,
        100 * counts["argmax_agrees"] / max(counts["last"], 1),
    )


entry.run(main)
