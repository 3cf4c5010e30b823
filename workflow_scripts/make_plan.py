"""Estimate the cost of a run: print it, and write it to a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from eagle3.draft.config import compromises, derive_config
from eagle3.errors import UserError
from eagle3.files.artifact import Manifest, read_json, write_json
from eagle3.report.loading import Loading, loading_doubt
from eagle3.report.plan import build_plan, plan_table
from eagle3.report.plan_warnings import (
    idle_arguments,
    idle_stages,
    memory_doubt,
    plan_warnings,
    target_doubts,
)
from eagle3.report.rates import rates
from eagle3.store.disk_space import PLAN
from eagle3.target_model.config import load_config, stated_dtype
from eagle3.target_model.files import weight_bytes
from eagle3.target_model.layers import aux_layers, layer_count
from eagle3.target_model.quantised import method_of
from eagle3.tokens.schedule import KIND as SCHEDULE
from eagle3.tokens.shards import TokenShard, read_token_shards, token_manifests
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, settings = job.run, job.settings("plan")
    values, upstream, resources = settings.values, settings.upstream, run.config.resources
    schedule, _ = read_json(Path(run.paths.schedule), SCHEDULE, upstream["schedule"])
    folder = job.target_folder(weights=False)
    config = load_config(folder, run.config.target.trust_remote_code)
    layers = aux_layers(values["hidden_states"]["aux_layers"], layer_count(config))
    size = values["vocab"]["draft_vocab_size"]
    dtype = job.settings("hidden_states").values["target"]["dtype"]
    if dtype == "auto":
        dtype = stated_dtype(folder) or "float32"
    weights = weight_bytes(folder)
    loading = Loading.of(run.config, weights)
    job_rates = rates(run.config.hardware, resources, dtype, run.config.train.precision)
    plan = build_plan(
        _named(run.token_shards(), upstream["tokens"]),
        _named(run.held_out_tokens(), upstream["tokens"]),
        config,
        derive_config(config, values["draft"], size, layers),
        values,
        schedule,
        Path(run.paths.states("train", 0, 1)).parent,
        None if resources.storage_prefix else resources.disk_budget_gb,
        job_rates,
        loading,
        sum(len(run.shared_shards(split)) for split in ("train", "eval")),
    )
    manifests = token_manifests(run.token_shards(), upstream["tokens"])
    supervised = sum(manifest.counts["supervised"] for manifest in manifests)
    plan["doubts"] = [f"draft: {sentence}" for sentence in compromises(config, values["draft"])]
    plan["doubts"] += plan_warnings(
        values["train"], config.hidden_size, plan["steps"], plan["tokens"], supervised
    )
    if not run.external.states:  # the size of existing shards is fixed
        plan["doubts"] += loading_doubt(loading, plan, run.config.dataset.shard_size)
    plan["doubts"] += idle_stages(schedule)
    plan["doubts"] += idle_arguments(run.config)
    plan["doubts"] += memory_doubt(plan, values["train"]["pack_tokens"])
    memory_gb, weights_dtype = run.config.hardware.memory_gb, stated_dtype(folder) or "float32"
    plan["doubts"] += target_doubts(
        weights, None if method_of(folder) else weights_dtype, run.config, memory_gb
    )
    if job_rates.remark and run.external.target:
        plan["doubts"].append(job_rates.remark)
    if resources.storage_prefix:
        plan["shortage"] = None  # the disk only holds what is being captured
    print(plan_table(plan))
    for warning in plan["doubts"]:
        logging.warning("%s", warning)
    if plan["shortage"]:
        raise UserError(plan["shortage"])
    write_json(Path(run.paths.plan), plan, Manifest.of(PLAN, settings))


def _named(paths: Sequence[str], digest: str) -> Iterator[tuple[str, TokenShard]]:
    """Names and contents of token shards, one by one to limit memory."""
    return zip([Path(path).name for path in paths], read_token_shards(paths, digest), strict=True)


if __name__ == "__main__":
    entry.start(main, __doc__)
