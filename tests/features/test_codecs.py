"""What storage does to states."""

from __future__ import annotations

import pytest
import torch

from eagle3.features.codecs import STORED, bytes_per_value, decode, encode

STATES = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) * 10


def test_fp32_is_exact_and_bf16_is_exact_for_bfloat16_states():
    assert torch.equal(decode(encode(STATES, "fp32"), torch.float32), STATES)
    narrow = STATES.bfloat16()
    assert torch.equal(decode(encode(narrow, "bf16"), torch.bfloat16), narrow)
    assert torch.equal(decode(encode(narrow, "bf16"), torch.float32), narrow.float())


def test_bf16_of_float32_states_errs_by_at_most_half_a_unit():
    error = (decode(encode(STATES, "bf16"), torch.float32) - STATES).abs()
    assert (error <= STATES.abs() * 2**-8).all()


@pytest.mark.parametrize("codec", STORED)
def test_the_plan_counts_the_bytes_that_are_stored(codec):
    stored = encode(STATES, codec)
    assert stored.element_size() * stored.numel() == bytes_per_value(codec) * STATES.numel()
