"""Print what a run will cost, and write it down."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from eagle3.artifact import Manifest, read_json, write_json
from eagle3.draft.config import derive_config
from eagle3.errors import UserError
from eagle3.report.doubts import doubts
from eagle3.report.plan import KIND, build_plan, plan_table
from eagle3.target.config import load_config
from eagle3.target.files import resolve_target
from eagle3.target.layers import aux_layers
from eagle3.tokens.schedule import KIND as SCHEDULE
from eagle3.tokens.shards import TokenShard, read_each
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--tokens", action=entry.Files, nargs="+", required=True)
    args.add_argument("--held-out", action=entry.Files, nargs="+", required=True)
    args.add_argument("--schedule", type=Path, required=True)
    args.add_argument("--target", required=True)
    args.add_argument("--states", type=Path, required=True, help="folder of hidden states")
    args.add_argument("--disk-budget-gb", type=float, help="of all hidden states")
    args.add_argument("--states-in-storage", action="store_true", help="not on this disk")
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    values, upstream = given.settings.values, given.settings.upstream
    schedule, _ = read_json(given.schedule, SCHEDULE, upstream["schedule"])
    target = values["target"]
    directory = resolve_target(given.target, target["revision"], weights=False)
    config = load_config(directory, target["trust_remote_code"])
    layers = aux_layers(values["hidden_states"]["aux_layers"], config.num_hidden_layers)
    size = values["vocab"]["draft_vocab_size"]
    draft = derive_config(config, values["draft"], size, layers)
    # one after another, so that memory stays as it is with any number of them
    manifests: list[Manifest] = []

    def named(paths: list[Path], read: list[Manifest]) -> Iterator[tuple[str, TokenShard]]:
        shards = read_each(paths, upstream["tokens"], read)
        return ((path.name, shard) for path, shard in zip(paths, shards, strict=True))

    plan = build_plan(
        named(given.tokens, manifests),
        named(given.held_out, []),
        config,
        draft,
        values,
        schedule,
        given.states,
        given.disk_budget_gb,
    )
    supervised = sum(each.counts["supervised"] for each in manifests)
    plan["doubts"] = doubts(
        values["train"], config.hidden_size, plan["steps"], plan["tokens"], supervised
    )
    if given.states_in_storage:
        plan["shortage"] = None
    print(plan_table(plan))
    for doubt in plan["doubts"]:
        logging.warning("%s", doubt)
    if plan["shortage"]:
        raise UserError(plan["shortage"])
    write_json(given.out, plan, Manifest.of(KIND, given.settings))


entry.run(main)
