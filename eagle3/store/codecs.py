"""Codecs: what hidden states become on disk, and back.

Every codec maps a row of C chunks (layers) of H numbers to bytes of a fixed width (`columns`), so a
row is found by its number alone. Where rows are also compressed (`compression`), a document is.

    codec          one number becomes                              in addition, for each chunk
    fp32           float32
    bf16           its rounding to bfloat16
    bf16_zstd      the same, exponents and fractions in two planes, exponents compressed
    fp8_e4m3       float8 e4m3 of x / scale                        bf16 scale, a power of two
    fp8_e4m3_zstd  the same, compressed
    int8           round(x / scale), -127..127                     bf16 scale
    nf4            nearest of 16 quantiles of a normal variable    bf16 scale, and a float8 scale
                   (QLoRA, arXiv 2305.14314), two to a byte        for every 32 numbers

Decoding is a look-up or cast to bfloat16 and one product in bfloat16, so every device gives the
same bits; all but `fp32` decode to bfloat16. Encoding and decoding run where the tensors are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache

import torch

from eagle3.store.columns import GROUP

Parts = dict[str, torch.Tensor]  # by suffix: "" the numbers, "_scale" and "_group_scale" theirs
FP8_MAX, INT8_MAX = 448.0, 127.0
TYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}  # of columns
# processed at once: about a CPU's cache; on a GPU, little compared with a model
BLOCK_BYTES = {"cpu": 2**20, "cuda": 2**26}
NF4_CELLS = 2048  # grid of the look-up table from a number to the nearest of the 16
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip


class Codec(ABC):
    """Rows of states to rows of bytes and back."""

    decoded = torch.bfloat16

    def exact_for(self, dtype: torch.dtype) -> bool:
        """Whether states of this type are restored exactly."""
        return False

    def encode(self, states: torch.Tensor) -> Parts:
        """[N, C, H] in any float type -> the columns, [N, width] each."""
        blocks = [self._encode(block) for block in states.split(_block_rows(states))]
        return {suffix: torch.cat([block[suffix] for block in blocks]) for suffix in blocks[0]}

    def decode(self, parts: Mapping[str, torch.Tensor], chunks: int) -> torch.Tensor:
        """The columns -> [N, C * H] in type `decoded`."""
        rows = _block_rows(parts[""])
        suffixes = list(parts)
        blocks = zip(*(parts[suffix].split(rows) for suffix in suffixes), strict=True)
        decoded = [self._decode(dict(zip(suffixes, b, strict=True)), chunks) for b in blocks]
        return torch.cat(decoded) if len(decoded) > 1 else decoded[0]

    @abstractmethod
    def _encode(self, states: torch.Tensor) -> Parts: ...

    @abstractmethod
    def _decode(self, parts: Mapping[str, torch.Tensor], chunks: int) -> torch.Tensor: ...


def _block_rows(rows: torch.Tensor) -> int:
    """Rows processed at once."""
    if not len(rows):
        return 1
    return max(1, BLOCK_BYTES[rows.device.type] // max(rows[0].nbytes, 1))


class Plain(Codec):
    """The numbers in a floating-point type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = self.decoded = dtype

    def exact_for(self, dtype: torch.dtype) -> bool:
        return self.dtype in {torch.float32, dtype}

    def encode(self, states: torch.Tensor) -> Parts:
        return self._encode(states)

    def decode(self, parts: Mapping[str, torch.Tensor], chunks: int) -> torch.Tensor:
        return self._decode(parts, chunks)

    def _encode(self, states: torch.Tensor) -> Parts:
        return {"": states.to(self.dtype).flatten(1)}

    def _decode(self, parts: Mapping[str, torch.Tensor], chunks: int) -> torch.Tensor:
        return parts[""]


class BF16Planes(Codec):
    """bfloat16 in two byte planes, [N, 2 * C * H]: all exponents of a row, then the rest.

    Rotated left by one bit, a bfloat16 is its exponent (high byte, 2.7 bits of information in real
    states) and fraction with sign (low byte, 7.9 bits). Only the first is worth compressing.
    """

    def exact_for(self, dtype: torch.dtype) -> bool:
        return dtype == torch.bfloat16

    def _encode(self, states: torch.Tensor) -> Parts:
        bits = states.to(torch.bfloat16).flatten(1).contiguous().view(torch.int16)  # [N, C * H]
        low = (bits << 1) & 0xFE | (bits < 0)  # [N, C * H]: fraction and sign
        high = (bits >> 7) & 0xFF  # [N, C * H]: exponent
        return {"": torch.cat([high.to(torch.uint8), low.to(torch.uint8)], dim=1)}

    def _decode(self, parts: Mapping[str, torch.Tensor], chunks: int) -> torch.Tensor:
        high, low = parts[""].chunk(2, dim=1)
        low = low.to(torch.int16)
        bits = (high.to(torch.int16) << 7) | (low >> 1) | (low << 15)
        return bits.view(torch.bfloat16)


class Scaled(Codec):
    """One byte per number, and a scale for each chunk of a row."""

    def __init__(self, dtype: torch.dtype, largest: float) -> None:
        self.dtype, self.largest = dtype, largest

    def _encode(self, states: torch.Tensor) -> Parts:
        states = states.float()
        scale = states.abs().amax(-1, keepdim=True) / self.largest  # [N, C, 1]
        if self.dtype.is_floating_point:
            # a power of two leaves the fraction alone: scaling loses nothing
            scale = torch.exp2(torch.ceil(torch.log2(scale.clamp_min(_TINY))))
        scale = _rounded_up(scale.clamp_min(_TINY))
        scaled = states / scale.float()
        if not self.dtype.is_floating_point:
            scaled = scaled.round_().clamp_(-self.largest, self.largest)
        return {"": scaled.to(self.dtype).flatten(1), "_scale": scale.flatten(1)}

    def _decode(self, parts: Mapping[str, torch.Tensor], chunks: int) -> torch.Tensor:
        numbers = self._grid(parts[""]).unflatten(1, (chunks, -1))  # [N, C, H]
        return numbers.mul_(parts["_scale"][..., None]).flatten(1)

    def _grid(self, stored: torch.Tensor) -> torch.Tensor:
        """The stored numbers in bfloat16, exactly."""
        if not self.dtype.is_floating_point or stored.device.type != "cpu":
            return stored.to(torch.bfloat16)
        # five times faster on a CPU than the cast: the eight bits move to their places in a
        # bfloat16, whose exponent is then 120 too small
        bits = (stored.view(torch.int8).to(torch.int16) << 4) & -0x7810
        return bits.view(torch.bfloat16).mul_(2.0**120)


class NormalFloat4(Codec):
    """Four bits per number; scales for groups of 32, relative to one scale for each chunk."""

    def _encode(self, states: torch.Tensor) -> Parts:
        groups = states.float().unflatten(-1, (-1, GROUP))  # [N, C, G, 32]
        peak = groups.abs().amax(-1)  # [N, C, G]
        scale = _rounded_up((peak.amax(-1, keepdim=True) / FP8_MAX).clamp_min(_TINY))  # [N, C, 1]
        group = (peak / scale.float()).clamp_max(FP8_MAX).to(torch.float8_e4m3fn)
        step = _group_steps(group, scale)[..., None].float()  # [N, C, G, 1]
        relative = torch.where(step > 0, groups / step, 0.0)
        cells = ((relative.clamp_(-1, 1) + 1) * ((NF4_CELLS - 1) / 2)).round_().int().flatten(1)
        codes = _nf4_codes(states.device).index_select(0, cells.flatten()).view(cells.shape)
        return {
            "": codes[:, 0::2] | (codes[:, 1::2] << 4),
            "_scale": scale.flatten(1),
            "_group_scale": group.flatten(1),
        }

    def _decode(self, parts: Mapping[str, torch.Tensor], chunks: int) -> torch.Tensor:
        codes = parts[""]
        # one look-up gives both numbers of a byte, as the two halves of an int32
        numbers = _nf4_pairs(codes.device).index_select(0, codes.flatten().int())
        group = parts["_group_scale"].unflatten(1, (chunks, -1))  # [N, C, G]
        numbers = numbers.view(torch.bfloat16).view(*group.shape, GROUP)
        return numbers.mul_(_group_steps(group, parts["_scale"][..., None])[..., None]).flatten(1)


_TINY = math.ldexp(1.0, -100)  # scale of a row of zeros; its products do not underflow


def _rounded_up(scale: torch.Tensor) -> torch.Tensor:
    """In bfloat16, never rounded down: the largest number of a chunk must stay inside the grid."""
    nearest = scale.to(torch.bfloat16)
    above = torch.nextafter(nearest, torch.full_like(nearest, math.inf))
    return torch.where(nearest.float() < scale, above, nearest)


def _group_steps(group: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """bfloat16 [N, C, G]: the scale of each group, the same in encoder and decoder."""
    return group.to(torch.bfloat16) * scale


@lru_cache
def _nf4_codes(device: torch.device) -> torch.Tensor:
    """uint8 [NF4_CELLS]: the nearest of the 16 to each number from -1 to 1."""
    numbers = torch.linspace(-1, 1, NF4_CELLS, dtype=torch.float64)
    distances = (numbers[:, None] - torch.tensor(NF4, dtype=torch.float64)).abs()
    return distances.argmin(1).to(torch.uint8).to(device)


@lru_cache
def _nf4_pairs(device: torch.device) -> torch.Tensor:
    """int32 [256]: the two bfloat16 numbers of each byte, the low four bits' first."""
    grid = torch.tensor(NF4, dtype=torch.bfloat16)
    byte = torch.arange(256)
    pairs = torch.stack([grid[byte & 15], grid[byte >> 4]], dim=1)  # [256, 2]
    return pairs.view(torch.int32).flatten().to(device)


CODECS: dict[str, Codec] = {
    "fp32": Plain(torch.float32),
    "bf16": Plain(torch.bfloat16),
    "bf16_zstd": BF16Planes(),
    "fp8_e4m3": Scaled(torch.float8_e4m3fn, FP8_MAX),
    "fp8_e4m3_zstd": Scaled(torch.float8_e4m3fn, FP8_MAX),
    "int8": Scaled(torch.int8, INT8_MAX),
    "nf4": NormalFloat4(),
}
