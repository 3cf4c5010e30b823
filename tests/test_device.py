"""Where models run, as the report says it, and how the process keeps its memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from eagle3.errors import UserError
from eagle3.parallel import device as devices
from eagle3.parallel.device import check_device, device_name, driver_version, machine
from eagle3.parallel.processor import processor

FAULTS = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from eagle3.parallel.device import keep_freed_memory
    if not keep_freed_memory():
        print("unknown")
        sys.exit()
torch.empty(40_000_000).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    torch.empty(3_000_000).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_the_machine_is_named_with_what_a_job_may_use() -> None:
    here = machine("cpu")
    assert here["gpus"] == []
    assert here["processor"] == processor() == device_name(torch.device("cpu")) != ""
    assert 1 <= here["cores"] <= (os.cpu_count() or 1)
    assert here["memory_bytes"] > 2**28


@pytest.mark.parametrize(
    ("built", "driver", "visible", "said"),
    [
        (None, (13, 0), None, r"torch \S+ is built without CUDA: install a CUDA build"),
        ("13.0", None, None, "there is no NVIDIA driver here"),
        ("13.0", (12, 4), None, r"knows CUDA 12\.4 at most, and torch \S+ is built for 13\.0: upd"),
        ("12.8", (12, 4), "", r"no usable GPU here \(CUDA_VISIBLE_DEVICES is ''\), though the dri"),
        ("13.0", (13, 1), None, r"no usable GPU here, though the driver knows CUDA 13\.1"),
    ],
)
def test_why_there_is_no_gpu_is_one_sentence(monkeypatch, built, driver, visible, said) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(devices, "driver_version", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=f"^resources.device is cuda, but .*{said}") as refusal:
        check_device("cuda")
    assert "\n" not in str(refusal.value)
    assert check_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert check_device("cuda") == torch.device("cuda")


def test_the_driver_says_which_cuda_it_knows(monkeypatch) -> None:
    class Library:
        def __init__(self, fault: int) -> None:
            self.fault = fault

        def cuDriverGetVersion(self, where) -> int:  # noqa: N802
            where._obj.value = 12080
            return self.fault

    for fault, expected in ((0, (12, 8)), (35, None)):
        monkeypatch.setattr(ctypes, "CDLL", lambda _name, fault=fault: Library(fault))
        assert driver_version() == expected

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert driver_version() is None


def test_gpus_are_named_one_by_one(monkeypatch) -> None:
    names = ["H200", "A40"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[_number(device)])
    assert machine("cuda")["gpus"] == names and machine("cpu")["gpus"] == []
    assert device_name(torch.device("cuda", 1)) == "A40"


def _number(device: int | torch.device) -> int:
    return device if isinstance(device, int) else device.index


def faults(how: str) -> str:
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_memory_that_was_freed_is_not_mapped_again() -> None:
    kept = faults("keep")
    if kept == "unknown":
        return  # another C library
    # 12 MB, six times, out of 160 MB that were freed before: small blocks in between may keep the
    # library from giving the same place twice
    assert int(kept) < int(faults("leave")) / 2
