"""Compressed documents come back, and what was damaged is refused without being believed."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from eagle3.errors import UserError
from eagle3.store.compression import compress, decompress

LAYOUTS = [(1, 1), (2, 1), (2, 2), (4, 3)]


@pytest.mark.parametrize(("planes", "compressed"), LAYOUTS)
@given(rows=st.integers(0, 20), width=st.integers(1, 30), seed=st.integers(0, 10**6))
def test_any_bytes_come_back(planes, compressed, rows, width, seed):
    random = np.random.default_rng(seed)
    written = random.integers(0, 256, (rows, planes * width)).astype(np.uint8)
    result = np.empty_like(written)
    decompress(memoryview(compress(written, planes, compressed)), result, planes, compressed)
    assert np.array_equal(result, written)


def test_what_is_not_to_be_compressed_stands_as_it_was():
    rows = np.random.default_rng(0).integers(0, 256, (50, 80)).astype(np.uint8)
    frame = compress(rows, 2, 1)
    assert frame.endswith(rows[:, 40:].tobytes())


def test_exponents_take_little_more_than_their_entropy():
    random = np.random.default_rng(0)
    rows = np.clip(random.normal(120, 2, (200, 256)), 0, 255).astype(np.uint8)
    share = np.bincount(rows.reshape(-1)) / rows.size
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum()
    assert entropy < len(compress(rows, 1, 1)) * 8 / rows.size < entropy * 1.06


@pytest.mark.parametrize("cut", [1, 5, 39])
def test_a_frame_that_is_cut_short_or_of_another_size_is_refused(cut):
    rows = np.random.default_rng(0).integers(0, 9, (20, 64)).astype(np.uint8)
    frame = compress(rows, 1, 1)
    with pytest.raises(UserError, match="cannot be unpacked"):
        decompress(memoryview(frame[:-cut]), np.empty_like(rows), 1, 1)
    with pytest.raises(UserError, match="another length"):
        decompress(memoryview(frame), np.empty((21, 64), np.uint8), 1, 1)


def test_a_lying_length_costs_no_memory():
    bomb = zstandard.ZstdCompressor().compress(bytes(2**28))
    with pytest.raises(UserError, match="another length"):
        decompress(memoryview(bomb), np.empty((4, 64), np.uint8), 1, 1)
