"""Every attention back end against the dense reference, values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eagle3.objective.attention import chunked
from eagle3.objective.attention.chunked import chunks_of
from eagle3.objective.attention.interface import Keys, Queries, reference_attention
from eagle3.objective.attention.own_keys import merge
from eagle3.objective.dispatch import BACKENDS

KV, GROUP, D = 2, 3, 4
ON_CPU = [name for name in BACKENDS if name not in ("reference", "flex")]


def random_step(seed, lengths, share, steps, dtype=torch.float64, d=D, window=None):
    """Queries of some rows of documents of these lengths, after `steps` later steps. `window`: keys
    that they see at most."""
    draw = torch.Generator().manual_seed(seed)
    rows = sum(lengths)
    starts, begin = [], 0
    for length in lengths:
        starts += [begin] * length
        begin += length

    def some(of):
        picked = torch.rand(len(of), generator=draw) < share
        picked[torch.randint(len(of), (1,), generator=draw)] = True
        return of[picked]

    sets = [some(torch.arange(rows))]
    for _ in range(steps):
        sets.append(some(sets[-1]))
    active = sets[-1]
    first = torch.tensor(starts)[active]
    if window is not None:
        first = first.maximum(active + steps + 1 - window)
    queries = Queries(active, first, [torch.searchsorted(s, active) for s in sets[1:]])

    def normal(*size):
        return torch.randn(*size, generator=draw, dtype=dtype).requires_grad_()

    q = normal(len(active), KV * GROUP, d)
    k0, v0 = normal(rows, KV, d), normal(rows, KV, d)
    own_k = [normal(len(s), KV, d) for s in sets[1:]]
    own_v = [normal(len(s), KV, d) for s in sets[1:]]
    return (q, Keys(k0, v0, own_k, own_v)), queries


def leaves(tensors):
    """All tensors of a step."""
    q, keys = tensors
    return [q, keys.k0, keys.v0, *keys.own_k, *keys.own_v]


def mapped(function, tensors):
    """The same step with each tensor changed."""
    q, keys = tensors
    own = [[function(t) for t in each] for each in (keys.own_k, keys.own_v)]
    return function(q), Keys(function(keys.k0), function(keys.v0), *own)


def outcome(attention, tensors, queries):
    """Attended values, and gradients of a fixed random function of them."""
    out = attention(*tensors, queries)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return out, torch.autograd.grad((out * weights).sum(), leaves(tensors))


CASES = {
    "seed": st.integers(0, 1000),
    "lengths": st.lists(st.integers(1, 40), min_size=1, max_size=6),
    "share": st.floats(0.05, 1),
    "steps": st.integers(0, 6),
}


@pytest.mark.parametrize("backend", ON_CPU)
@given(**CASES)
@settings(max_examples=60)
def test_values_and_gradients_equal_the_dense_reference(backend, seed, lengths, share, steps):
    compare(backend, *random_step(seed, lengths, share, steps))


@given(**CASES, window=st.integers(7, 30))
@settings(max_examples=60)
def test_a_window_slides_with_the_queries(seed, lengths, share, steps, window):
    """The flash kernels know none."""
    tensors, queries = random_step(seed, lengths, share, steps, window=window)
    assert (queries.rows - queries.starts + 1 <= window - steps).all()
    compare("chunked", tensors, queries)


def compare(backend, tensors, queries):
    """Values and gradients of a back end with those of the reference."""
    expected, wanted = outcome(reference_attention, tensors, queries)
    with pytest.MonkeyPatch.context() as patch:  # so that documents of this size need many chunks
        patch.setattr(chunked, "CHUNK", 8)
        patch.setattr(chunked, "SHORT", 20)
        patch.setattr(chunked, "MOST_KEPT", 16)
        patch.setattr(chunked, "FEWEST", 2)
        patch.setattr(chunked, "SCORES", 100)
        result, gradients = outcome(BACKENDS[backend], tensors, queries)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-11)
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ON_CPU)
def test_narrow_types_differ_by_their_rounding_only(backend, dtype):
    tensors, queries = random_step(3, [300, 5, 170], 0.6, 3, dtype)
    wide = mapped(torch.Tensor.double, tensors)
    expected = reference_attention(*wide, queries)
    result = BACKENDS[backend](*tensors, queries)
    assert result.dtype == dtype
    error = (result.double() - expected).norm() / expected.norm()
    assert error < {torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]


@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=12),
    share=st.floats(0.01, 1),
    window=st.none() | st.integers(1, 700),
)
@settings(max_examples=50)
def test_chunks_cover_every_query_once_and_reach_what_it_sees(lengths, share, window):
    _, queries = random_step(0, lengths, share, 0, window=window)
    result = chunks_of(queries, KV * GROUP)
    assert [c.first for c in result] == [0, *[c.stop for c in result[:-1]]]
    assert result[-1].stop == len(queries.rows)
    for chunk in result:
        count, keys = chunk.stop - chunk.first, chunk.stop_key - chunk.first_key
        assert count <= chunked.CHUNK
        assert count <= chunked.FEWEST or count * keys * KV * GROUP <= chunked.SCORES
        inside = slice(chunk.first, chunk.stop)
        assert chunk.first_key <= queries.starts[inside].min()
        assert chunk.stop_key == queries.rows[inside].max() + 1
        # before mask_from every query sees every key
        free = chunk.first_key + chunk.mask_from
        assert (queries.rows[inside] >= free - 1).all()
        assert chunk.mask_from == 0 or (queries.starts[inside] == chunk.first_key).all()


def test_a_window_makes_no_small_chunks():
    """Queries of one document stay together, although each begins to see at another row."""
    _, queries = random_step(0, [4096], 1.0, 0, window=512)
    result = chunks_of(queries, KV * GROUP)
    assert len(result) == 4096 // chunked.CHUNK
    assert max(c.stop_key - c.first_key for c in result) == 512 + chunked.CHUNK - 1


def test_no_back_end_but_the_reference_holds_all_scores():
    """The largest tensor of a long document grows with its length, not with its square."""
    length = 4096
    tensors, queries = random_step(0, [length], 1.0, 2, torch.float32)
    biggest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal biggest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                biggest = max(biggest, out.numel())
            return out

    with Sizes():
        outcome(chunked.chunked_attention, tensors, queries)
    assert biggest <= KV * GROUP * chunked.CHUNK * (length + 2)


@pytest.mark.parametrize("steps", [1, 3])
def test_merging_own_keys_has_the_gradients_of_its_values(steps):
    """By differences, in every argument, the log-sum-exp of the prefix included."""
    (q, keys), queries = random_step(3, [4, 3], 0.7, steps)
    draw = torch.Generator().manual_seed(1)
    prefix = torch.randn(q.shape, generator=draw, dtype=q.dtype).requires_grad_()
    lse = torch.randn(q.shape[:2], generator=draw, dtype=q.dtype).requires_grad_()

    def merged(q, prefix, lse, *own):
        return merge(q, prefix, lse, own[:steps], own[steps:], queries.own)

    assert torch.autograd.gradcheck(merged, (q, prefix, lse, *keys.own_k, *keys.own_v))


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("steps", [0, 3])
@torch.no_grad()
def test_flex_attention_gives_the_same_values(steps, window):
    """Eager: compiled, and with gradients, it needs a GPU."""
    tensors, queries = random_step(7, [30, 3, 17], 0.5, steps, torch.float32, window=window)
    tensors = mapped(torch.Tensor.detach, tensors)
    result = BACKENDS["flex"](*tensors, queries)
    expected = reference_attention(*tensors, queries)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("backend", ["flash", "flex"])
@pytest.mark.parametrize("steps", [0, 5])
def test_back_ends_of_a_gpu_equal_the_reference(backend, steps):
    # heads as small as the kernels of a GPU take them
    tensors, queries = random_step(7, [300, 5, 170], 0.5, steps, torch.bfloat16, d=16)
    moved = mapped(lambda t: t.detach().cuda().requires_grad_(), tensors)
    there = Queries(
        queries.rows.cuda(), queries.starts.cuda(), [index.cuda() for index in queries.own]
    )
    wide = mapped(torch.Tensor.double, tensors)
    expected, wanted = outcome(reference_attention, wide, queries)
    result, gradients = outcome(BACKENDS[backend], moved, there)
    for one, other in zip([result, *gradients], [expected, *wanted], strict=True):
        assert (one.cpu().double() - other).norm() <= 1e-2 * other.norm()
