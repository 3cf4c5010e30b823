"""Damage to files, and what every reader owes it: success or one sentence, soon."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from eagle3.errors import UserError

TIMES = int(os.environ.get("EAGLE3_FUZZ", "1"))  # EAGLE3_FUZZ=100: other, more examples
SECONDS = 20  # for one file; a reader that takes longer hangs
CASES: Counter[str] = Counter()  # of this process, by reader: printed at its end

# what JSON can hold and a reader may not expect
HOSTILE = st.sampled_from(
    [
        None, True, False, -1, 0, 1, 2, 3, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0,
        float("inf"), float("nan"), "", "x", "\x00", "../x", "/etc/passwd", "BF16", "F64", [], [[]],
        [-1], [2**62, 2**62], [0, 2**63], {}, {"": None}, {"a": [1]}, [None], ["x"] * 3, "a" * 700,
    ]
)  # fmt: skip


def budget(examples: int) -> Any:
    """Hypothesis settings: the same examples every time, or with EAGLE3_FUZZ that many times as
    many, and other ones."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged(draw: Any, whole: bytes) -> bytes:
    """The bytes of a file after one to three accidents; the first kilobytes have most of them."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        end = max(len(data) - 1, 0)
        at = draw(st.integers(0, min(end, 4096)) | st.integers(0, end))
        span = draw(st.integers(1, 64))
        match draw(st.sampled_from(["flip", "cut", "replace", "delete", "double", "grow"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:]
            case "replace":
                data[at : at + span] = draw(st.binary(min_size=span, max_size=span))
            case "delete":
                del data[at : at + span]
            case "double":
                data[at:at] = data[at : at + span]
            case _:
                data += draw(st.binary(min_size=1, max_size=64))
    return bytes(data)


@st.composite
def mistaken(draw: Any, whole: Any) -> Any:
    """A JSON value with one to three of its parts replaced, removed or renamed."""
    value = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return deepcopy(draw(HOSTILE))
        holder, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "nest", "rename"]))
        if what == "replace":
            holder[key] = deepcopy(draw(HOSTILE))
        elif what == "nest":
            holder[key] = [holder[key]]
        elif what == "rename" and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        else:
            holder.pop(key)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield value, key
            yield from _places(value[key])


def tensor_file(header: Any, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file with this header, and its length as it is or as it is said to be."""
    text = json.dumps(header).encode()
    said = len(text) if length is None else length
    return said.to_bytes(8, "little") + text + data


def split(whole: bytes) -> tuple[Any, bytes]:
    """Header and data of a safetensors file."""
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


@contextmanager
def soon() -> Iterator[None]:
    """Ends what takes too long."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ends_well(reader: str, read: Callable[[], Any], names: str | Path) -> bool:
    """Whether a reader could read it; if not, it has to say so in a UserError that names `names`.
    Any other exception, and a hang, fails the test."""
    CASES[reader] += 1
    try:
        with soon():
            read()
    except UserError as fault:
        said = str(fault)
        assert str(names) in said, said
        assert len(said) < 3000 + 2 * len(str(names)), said
        return False
    return True
