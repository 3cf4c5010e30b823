"""Convert whole sources into rows.jsonl, its index and its report."""

from __future__ import annotations

import logging
from pathlib import Path

from eagle3.data.rows import Stream, check_held_out, write_dataset
from eagle3.data.sources import read_rows
from workflow_scripts import entry


def main(job: entry.Job) -> None:
    run, settings = job.run, job.settings("dataset")
    streams = []
    for source in run.external.sources:
        commits: set[str] = set()
        rows = read_rows(source, commits)
        streams.append(Stream(rows, source.name, source.weight, commits))
    dataset = run.config.dataset
    values = {**settings.values["dataset"], "max_bad_fraction": dataset.max_bad_fraction}
    report = write_dataset(streams, values, Path(run.paths.dataset), settings, dataset.num_samples)
    check_held_out(report["splits"]["eval"])
    logging.info(
        "%d rows read, %d valid (%s), rejected %s",
        report["rows_read"],
        report["valid"],
        report["splits"],
        report["rejected"] or "none",
    )


if __name__ == "__main__":
    entry.start(main, __doc__)
