"""What is added up over the files of a run."""

from __future__ import annotations

import json

from eagle3.report.facts import add_counts, read_metrics, wall_times
from tests.builders.run_facts import record


def test_metrics_of_all_stages_are_read_in_order(tmp_path):
    for stage in (1, 2):
        lines = [json.dumps(record(3 * stage + i)) + "\n" for i in range(3)]
        (tmp_path / f"{stage}.jsonl").write_text("".join(lines))
    result = read_metrics([tmp_path / "1.jsonl", tmp_path / "2.jsonl"])
    assert result["step"].tolist() == [3, 4, 5, 6, 7, 8]
    assert result["stage"].tolist() == [1, 1, 1, 2, 2, 2]


def test_counts_and_causes_are_added_up():
    one = {"rows": 3, "documents": 2, "tokens": 9, "supervised": 4, "truncated": 0}
    result = add_counts([one | {"dropped": {"a": 1}}, one | {"dropped": {"a": 1, "b": 1}}])
    assert result == {
        "rows": 6, "documents": 4, "tokens": 18, "supervised": 8, "truncated": 0,
        "dropped": {"a": 2, "b": 1},
    }  # fmt: skip


def test_wall_times_are_summed_by_rule_longest_first(tmp_path):
    for path, seconds in (("train/stage-1", "2.5"), ("train/stage-2", "3"), ("plan", "1")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(f"{path}.tsv").write_text(f"s\th:m:s\n{seconds}\t0:00:02\n")
    (tmp_path / "odd.tsv").write_text("s\th:m:s\n-\t-\n")  # a job too short to be measured
    assert list(wall_times(tmp_path).items()) == [("train", 5.5), ("plan", 1.0), ("odd", 0.0)]
