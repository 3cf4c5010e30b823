"""A trace of some steps: those that were asked for, in a file that Chrome reads."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from eagle3.errors import UserError
from eagle3.training.tracing import tracing

CPU = torch.device("cpu")


def steps(count, after, traced, file):
    """Work of some steps, of which `traced` after the first `after` are traced."""
    with tracing(after, traced, file, CPU) as step:
        for number in range(count):
            torch.ones(number + 1, 7) @ torch.ones(7, 3)
            if step:
                step()


def events(file):
    return json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]


def test_the_steps_that_were_asked_for_are_in_the_file(tmp_path):
    file = tmp_path / "logs" / "trace.json.gz"
    steps(9, 2, 3, file)
    names = [event.get("name") for event in events(file)]
    assert names.count("aten::mm") == 3
    assert [n for n in names if n and n.startswith("ProfilerStep")] == [
        f"ProfilerStep#{number}" for number in (2, 3, 4)
    ]
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing half written


def test_a_stage_that_ends_before_leaves_what_there_is(tmp_path):
    steps(4, 2, 10, tmp_path / "trace.json.gz")
    names = [event.get("name") for event in events(tmp_path / "trace.json.gz")]
    assert names.count("aten::mm") == 2
    steps(1, 2, 10, tmp_path / "none.json.gz")
    assert not (tmp_path / "none.json.gz").exists()


def test_without_steps_nothing_is_traced(tmp_path):
    with tracing(2, 0, tmp_path / "trace.json.gz", CPU) as step:
        assert step is None
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(UserError, match=r"trace\.json\.gz: cannot be written: "):
        steps(4, 1, 1, tmp_path / "logs" / "trace.json.gz")
