"""Write the report of a run."""

from __future__ import annotations

from pathlib import Path

from eagle3.artifact import read_json, write_text
from eagle3.report.page import RunFacts, add_counts, read_metrics, render_page, wall_times
from eagle3.tensorfile import read_manifest
from eagle3.tokens.shards import KIND as TOKENS
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    for name in ("dataset", "vocab", "plan", "evaluation"):
        args.add_argument(f"--{name}", type=Path, required=True)
    for name in ("metrics", "tokens", "states"):
        args.add_argument(f"--{name}", type=Path, nargs="+", required=True)
    args.add_argument("--times", type=Path, required=True, help="folder of benchmark files")
    args.add_argument("--out", type=Path, required=True)
    given = args.parse_args()
    facts = RunFacts(
        config=given.settings.values,
        dataset=read_json(given.dataset, "dataset")[0],
        vocab=read_json(given.vocab, "vocab")[0],
        plan=read_json(given.plan, "plan")[0],
        evaluation=read_json(given.evaluation, "evaluation")[0],
        metrics=read_metrics(given.metrics),
        tokens=add_counts([read_manifest(path, TOKENS).counts for path in given.tokens]),
        states_bytes=sum(path.stat().st_size for path in given.states),
        seconds=wall_times(given.times),
    )
    write_text(given.out, render_page(facts))


entry.run(main)
