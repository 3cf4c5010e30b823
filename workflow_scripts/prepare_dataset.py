"""Convert a whole source into rows.jsonl, its index and its report."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.data.rows import Stream, check_held_out, write_dataset
from eagle3.data.sources import from_text, read_rows
from workflow_scripts import entry


def main() -> None:
    args = entry.parser(__doc__)
    args.add_argument("--sources", type=from_text, required=True, help="from the rule")
    args.add_argument("--want", type=int, required=True, help="training rows this run needs")
    args.add_argument("--max-bad-fraction", type=float, required=True)
    args.add_argument("--out", type=Path, required=True, help="folder of the three files")
    given = args.parse_args()
    values = given.settings.values["dataset"]
    streams = []
    for source in given.sources:
        commits: set[str] = set()
        rows = read_rows(source, commits)
        streams.append(Stream(rows, source.name, source.weight, commits))
    values = {**values, "max_bad_fraction": given.max_bad_fraction}
    report = write_dataset(streams, values, given.out, given.settings, given.want)
    check_held_out(report["splits"]["eval"])
    logging.info(
        "%d rows read, %d valid (%s), rejected %s",
        report["rows_read"],
        report["valid"],
        report["splits"],
        report["rejected"] or "none",
    )


entry.run(main)
