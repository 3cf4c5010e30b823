"""Shapes of packs are few variants of what flex compiles: beyond the limit it runs eagerly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention as torchs

from eagle3.kernels.compiled import VARIANTS
from eagle3.kernels.heads import Angles, rotary_heads
from eagle3.objective.attention import flex
from eagle3.objective.attention.interface import Keys, Queries

pytestmark = pytest.mark.long
COMPILE = torch.compile
# rows that are queried and keys; one block of the mask holds 128 of each
SIZES = [
    *[(1, 1), (1, 2), (2, 2), (7, 9), (127, 127), (128, 128), (128, 129), (129, 129)],
    *[(3, 127), (5, 128), (60, 300), (127, 500), (300, 300), (300, 900), (500, 2000)],
]


@pytest.fixture
def variants(monkeypatch) -> Iterator[Counter[str]]:
    """How often each function was compiled; it then runs as its graph on the CPU."""
    counts: Counter[str] = Counter()

    def counted(function: Any, **options: Any) -> Any:
        def backend(module: Any, _inputs: Any) -> Any:
            counts[function.__name__] += 1
            return module.forward

        return COMPILE(function, backend=backend, **options)

    monkeypatch.setattr(torchs, "_validate_device", lambda *_args: None)
    monkeypatch.setattr(torch, "compile", counted)
    kernels = flex._kernels.__wrapped__("cuda")
    monkeypatch.setattr(flex, "_kernels", lambda _device: kernels)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield counts


@pytest.mark.parametrize("heads", [(4, 2), (2, 2)])
def test_no_shape_of_a_pack_exhausts_what_flex_may_be_compiled_for(variants, heads) -> None:
    for turn, (rows, total) in enumerate([*SIZES, *reversed(SIZES)]):
        gradient = turn % 3 != 2  # held-out states are scored without
        # as training has it: a part of what projections gave, here rotated by nothing
        x = torch.randn(rows, (heads[0] + 2 * heads[1]) * 16, requires_grad=gradient)
        still = Angles(torch.ones(1, 1, 8), torch.zeros(1, 1, 8), torch.zeros(rows, dtype=int))
        with torch.set_grad_enabled(gradient):
            parts = heads[0], heads[1], heads[1]
            q, _, _ = rotary_heads(x, None, still, parts, heads[0] + heads[1], torch.float32)
        k, v = (torch.randn(total, heads[1], 16, requires_grad=gradient) for _ in range(2))
        at = torch.sort(torch.randint(total, (rows,))).values
        queries = Queries(rows=at, starts=torch.zeros_like(at), own=[])
        with torch.set_grad_enabled(gradient):
            out = flex.prefix_flex_attention(q, Keys(k, v, [], []), queries)
        scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(heads[0] // heads[1], 1))
        scores = scores.masked_fill(torch.arange(total) > at[:, None], -torch.inf) / 4
        values = v.repeat_interleave(heads[0] // heads[1], 1)
        expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).flatten(1)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert set(variants) == {"flex_attention", "create_block_mask"}
    print(variants)
    assert max(variants.values()) <= VARIANTS // 2, variants
