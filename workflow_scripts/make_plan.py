"""Print what a run will cost, and write it down."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from eagle3.artifact import Manifest, read_json, write_json
from eagle3.draft.config import derive_config
from eagle3.errors import UserError
from eagle3.features.space import PLAN
from eagle3.report.doubts import doubts
from eagle3.report.plan import build_plan, plan_table
from eagle3.target.config import load_config
from eagle3.target.layers import aux_layers
from eagle3.tokens.schedule import KIND as SCHEDULE
from eagle3.tokens.shards import TokenShard, read_each
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, settings = job.run, job.settings("plan")
    values, upstream, resources = settings.values, settings.upstream, run.config.resources
    schedule, _ = read_json(Path(run.paths.schedule), SCHEDULE, upstream["schedule"])
    config = load_config(job.target_folder(weights=False), run.config.target.trust_remote_code)
    layers = aux_layers(values["hidden_states"]["aux_layers"], config.num_hidden_layers)
    size = values["vocab"]["draft_vocab_size"]
    manifests: list[Manifest] = []
    plan = build_plan(
        _named(run.token_shards(), upstream["tokens"], manifests),
        _named(run.held_out_tokens(), upstream["tokens"], []),
        config,
        derive_config(config, values["draft"], size, layers),
        values,
        schedule,
        Path(run.paths.states("train", 0, 1)).parent,
        None if resources.storage_prefix else resources.disk_budget_gb,
    )
    supervised = sum(each.counts["supervised"] for each in manifests)
    plan["doubts"] = doubts(
        values["train"], config.hidden_size, plan["steps"], plan["tokens"], supervised
    )
    if resources.storage_prefix:
        plan["shortage"] = None  # the disk only holds what is being captured
    print(plan_table(plan))
    for doubt in plan["doubts"]:
        logging.warning("%s", doubt)
    if plan["shortage"]:
        raise UserError(plan["shortage"])
    write_json(Path(run.paths.plan), plan, Manifest.of(PLAN, settings))


def _named(
    paths: Sequence[str], digest: str, manifests: list[Manifest]
) -> Iterator[tuple[str, TokenShard]]:
    """Names and contents of token shards, one after another so that memory stays as it is."""
    shards = read_each(map(Path, paths), digest, manifests)
    return ((Path(path).name, shard) for path, shard in zip(paths, shards, strict=True))


if __name__ == "__main__":
    entry.start(main, __doc__)
