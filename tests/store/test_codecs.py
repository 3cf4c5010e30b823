"""What storage does to states, against slow twins that spell each format out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eagle3.errors import UserError
from eagle3.store import codecs
from eagle3.store.codecs import CODECS, NF4, TYPES
from eagle3.store.columns import GROUP, STORED

CHUNKS, HIDDEN = 3, 64
QUANTISED = ("fp8_e4m3", "fp8_e4m3_zstd", "int8", "nf4")
# relative error of a chunk of Gaussian numbers: half a step of 3 mantissa bits at most for fp8; for
# the others above the largest of 2.4 million chunks (0.0133, 0.1297)
ERRORS = {"fp8_e4m3": 1 / 16, "fp8_e4m3_zstd": 1 / 16, "int8": 0.02, "nf4": 0.15}


def random_states(rows=40, dtype=torch.float32, seed=0, hidden=HIDDEN):
    """Rows of very different size, among them zeros and single huge numbers."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, CHUNKS, hidden, generator=generator)
    states *= torch.exp2(torch.randint(-20, 20, (rows, CHUNKS, 1), generator=generator))
    states[1] = 0
    states[2, 1, 5] *= 1000
    return states.to(dtype)


def round_trip(name, states):
    return CODECS[name].decode(CODECS[name].encode(states), CHUNKS).unflatten(1, (CHUNKS, -1))


@pytest.mark.parametrize("name", CODECS)
def test_columns_have_the_declared_types_and_widths(name):
    parts = CODECS[name].encode(random_states())
    columns = STORED[name].columns(CHUNKS, HIDDEN)
    assert parts.keys() == columns.keys()
    for suffix, column in columns.items():
        assert parts[suffix].dtype == TYPES[column.kind]
        assert parts[suffix].shape == (40, column.width)
        assert column.row_bytes * 40 == parts[suffix].nbytes


@pytest.mark.parametrize("name", ["bf16", "bf16_zstd", "fp32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_exact_codecs_give_every_bit_back_and_say_so(name, dtype):
    states = random_states(dtype=torch.float32).to(dtype)
    states = torch.nan_to_num(states, posinf=1.0, neginf=-1.0)  # float16 overflows
    same = torch.equal(round_trip(name, states).to(dtype), states)
    assert same == CODECS[name].exact_for(dtype)


def test_planes_give_back_every_bfloat16_there_is():
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    states = bits.view(torch.bfloat16).reshape(-1, 1, 64)
    codec = CODECS["bf16_zstd"]
    result = codec.decode(codec.encode(states), 1)
    assert torch.equal(result.view(torch.int16).flatten(), bits)
    # the first half of a row is its exponents, bit for bit
    exponents = codec.encode(states)[""][:, :64]
    assert torch.equal(exponents.flatten().int(), (bits.int() >> 7) & 0xFF)


def test_bf16_rounds_to_nearest():
    states = random_states()
    assert torch.equal(round_trip("bf16", states), states.bfloat16())


@pytest.mark.parametrize("name", QUANTISED)
@given(seed=st.integers(0, 10**6), spread=st.integers(-30, 30))
def test_quantisation_keeps_its_error_at_any_scale(name, seed, spread):
    states = torch.randn(4, CHUNKS, HIDDEN, generator=torch.Generator().manual_seed(seed))
    states = torch.ldexp(states, torch.tensor(spread))
    result = round_trip(name, states)
    assert result.dtype == torch.bfloat16
    error = (result.float() - states).norm(dim=-1) / states.norm(dim=-1)
    assert error.max() < ERRORS[name]
    if name != "nf4":  # which has a number more above zero than below
        assert torch.equal(round_trip(name, -states), -result)


@pytest.mark.parametrize("name", QUANTISED)
def test_zeros_stay_zeros_and_one_large_number_stays_finite(name):
    result = round_trip(name, random_states())
    assert (result[1] == 0).all()
    assert torch.isfinite(result).all()
    error = (result[2, 1, 5].float() / random_states()[2, 1, 5] - 1).abs()
    assert error < 0.04


def spelled_out_fp8(states):
    """e4m3 with the smallest power-of-two scale that keeps the largest number on the grid."""
    out = torch.empty_like(states)
    for row in range(len(states)):
        for chunk in range(CHUNKS):
            numbers = states[row, chunk].double()
            peak = float(numbers.abs().max())
            scale = 2.0 ** math.ceil(math.log2(peak / 448)) if peak else 1.0
            exponent = torch.floor(torch.log2((numbers / scale).abs().clamp_min(2.0**-6)))
            step = torch.exp2(exponent - 3)  # three bits of fraction, subnormals below 2^-6
            out[row, chunk] = ((numbers / scale / step).round() * step * scale).float()
    return out


def test_fp8_is_the_nearest_number_of_the_scaled_grid():
    states = random_states()
    assert torch.equal(round_trip("fp8_e4m3", states).float(), spelled_out_fp8(states))


def test_the_fast_reading_of_fp8_equals_the_cast_for_every_byte():
    every = torch.arange(256, dtype=torch.uint8)
    every = every[(every & 0x7F) != 0x7F]  # the two NaN, which no scale leads to
    stored = every.view(torch.float8_e4m3fn)[:, None]
    result = codecs.Scaled(torch.float8_e4m3fn, 448.0)._grid(stored)
    assert torch.equal(result, stored.to(torch.bfloat16))


def test_int8_is_the_nearest_of_255_steps():
    states = random_states()
    parts = CODECS["int8"].encode(states)
    scale = parts["_scale"].double()[..., None]
    peak = states.double().abs().amax(-1, keepdim=True)
    assert (scale >= peak / 127 * (1 - 2e-7)).all()  # rounded up, so that nothing is cut off
    exact = (states.double() / scale).round()
    stored = parts[""].unflatten(1, (CHUNKS, -1)).double()
    assert stored.abs().max() <= 127
    # ties may fall to either side: the division is in float32
    assert ((states.double() / scale - stored).abs() <= 0.5 + 1e-4).all()
    assert (exact != stored).double().mean() < 1e-3
    decoded = (stored.bfloat16() * parts["_scale"][..., None]).flatten(1)
    assert torch.equal(CODECS["int8"].decode(parts, CHUNKS), decoded)


def test_nf4_is_the_nearest_of_sixteen_numbers_of_its_group():
    states = random_states(8)
    parts = CODECS["nf4"].encode(states)
    grid = np.array(NF4)
    bound = 1 / (codecs.NF4_CELLS - 1)
    numbers = parts[""].numpy()
    scale = parts["_scale"].float().numpy()
    groups = parts["_group_scale"].float().numpy().reshape(8, CHUNKS, -1)
    result = CODECS["nf4"].decode(parts, CHUNKS).float().numpy()
    for row in range(8):
        for chunk in range(CHUNKS):
            for index in range(HIDDEN):
                place = chunk * HIDDEN + index
                code = numbers[row, place // 2] >> (4 * (place % 2)) & 15
                step = groups[row, chunk, index // GROUP] * scale[row, chunk]
                assert result[row, place] == pytest.approx(grid[code] * step, rel=2**-6, abs=1e-30)
                wanted = float(states[row, chunk, index])
                if step:
                    distances = np.abs(grid - np.clip(wanted / step, -1, 1))
                    # half a cell of the look-up, and the step's own rounding to bfloat16
                    assert distances[code] <= distances.min() + 2 * bound + 2**-7


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("rows", [0, 1, 7, 300])
def test_blocks_change_nothing(name, rows, monkeypatch):
    states = random_states(max(rows, 3))[:rows]
    whole = round_trip(name, states) if rows else None
    monkeypatch.setitem(codecs.BLOCK_BYTES, "cpu", 1000)
    result = CODECS[name].decode(CODECS[name].encode(states), CHUNKS)
    assert result.shape == (rows, CHUNKS * HIDDEN)
    assert result.dtype == CODECS[name].decoded
    if rows:
        assert torch.equal(result.unflatten(1, (CHUNKS, -1)), whole)


def test_a_width_that_groups_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"hidden_states\.codec is nf4.*hidden size.*48: use int8"):
        STORED["nf4"].columns(3, 48)
