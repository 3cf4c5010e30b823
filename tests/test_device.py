"""Where models run, as the report tells it."""

from __future__ import annotations

import os

import torch

from eagle3.parallel.device import device_name, machine
from eagle3.parallel.processor import processor


def test_the_machine_is_named_with_what_a_job_may_use() -> None:
    here = machine("cpu")
    assert here["gpus"] == []
    assert here["processor"] == processor() == device_name(torch.device("cpu")) != ""
    assert 1 <= here["cores"] <= (os.cpu_count() or 1)
    assert here["memory_bytes"] > 2**28


def test_gpus_are_named_one_by_one(monkeypatch) -> None:
    names = ["H200", "A40"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[_number(device)])
    assert machine("cuda")["gpus"] == names and machine("cpu")["gpus"] == []
    assert device_name(torch.device("cuda", 1)) == "A40"


def _number(device: int | torch.device) -> int:
    return device if isinstance(device, int) else device.index
