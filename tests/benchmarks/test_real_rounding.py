"""What stands for an engine's eight-bit arithmetic rounds as that format does."""

from __future__ import annotations

import torch

from benchmarks.real.rounding import LARGEST, in_eight_bits, loaded, rounded, states


def test_values_are_rounded_to_three_bits_behind_the_first_with_a_scale_for_each_block() -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 128)
    values[:, 3] = 30000.0  # takes the scale of its row
    for block in (None, 64):
        result = rounded(values, block)
        scale = values.abs().unflatten(-1, (-1, block or 128)).amax(-1, keepdim=True) / LARGEST
        # half a step of the last bit, or of the smallest number
        bound = torch.maximum(values.unflatten(-1, (-1, block or 128)).abs() / 16, scale * 2**-10)
        error = (result - values).abs().unflatten(-1, (-1, block or 128))
        assert (error <= bound * 1.001).all()
    assert (rounded(values, 64)[:, 64:] - values[:, 64:]).abs().mean() < 0.02
    assert (rounded(values)[:, 64:] - values[:, 64:]).abs().mean() > 0.03


def test_only_what_is_asked_for_is_rounded(targets) -> None:
    documents = [torch.arange(3, 30)[None]]
    plain = states(loaded(str(targets["llama"]), torch.float32), documents)
    weights = states(in_eight_bits(loaded(str(targets["llama"]), torch.float32)), documents)
    inputs = states(in_eight_bits(loaded(str(targets["llama"]), torch.float32), None), documents)
    assert torch.equal(plain[0], weights[0])  # the embedding
    errors = [(other[-1] - plain[-1]).norm() / plain[-1].norm() for other in (weights, inputs)]
    assert 0.001 < errors[0] < errors[1] < 0.5
