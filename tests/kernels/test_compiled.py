"""Operations compiled for CUDA against the same as written; Inductor compiles for a CPU here."""

from __future__ import annotations

import inspect
import shutil

import pytest
import torch

from eagle3.kernels import compiled, fused_ops, heads
from eagle3.objective import teacher
from eagle3.objective.attention import own_keys
from eagle3.objective.losses import LOSSES, row_losses
from tests.objective.cases import random_logits


@pytest.fixture(scope="module")
def compiler():
    """A C++ compiler and Python's headers, which a machine need not have."""
    from torch._inductor.exc import InductorError

    if not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    try:
        torch.compile(lambda x: x + 1)(torch.ones(3))
    except InductorError as fault:
        pytest.skip(f"the C++ compiler does not work: {str(fault)[:200]}")


def test_on_a_cpu_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_args, **_more: pytest.fail("compiled"))
    double = compiled.compiled_on_cuda(lambda name, x: x * 2)
    assert double("a", torch.ones(2)).tolist() == [2, 2]


FUNCTIONS = {
    name: inspect.unwrap(f)
    for room in (fused_ops, heads, teacher)
    for name, f in vars(room).items()
    if hasattr(f, "__wrapped__")
}


def inputs_of(name, rows, dtype=torch.bfloat16):
    """What each function is called with, for some rows."""
    draw = torch.Generator().manual_seed(rows)

    def normal(*size, dtype=torch.float32):
        return torch.randn(*size, generator=draw).to(dtype)

    x, dy, up = (normal(rows, 16, dtype=dtype) for _ in range(3))
    gain, scale = normal(16), normal(rows, 1)
    places, positions = (torch.randint(9, (rows,), generator=draw) for _ in range(2))
    looked_up = places, normal(9, 1, 8), normal(9, 1, 8), positions
    return {
        "_norm": (x, gain, 1e-5),
        "_norm_backward": (dy, x, gain, scale),
        "_gain_gradient": (dy, x, scale),
        "_gated": (x, up),
        "_gated_backward": (dy, x, up),
        "_heads": (normal(rows, 48, dtype=dtype), normal(9, 64), *looked_up, 2, dtype),
        "_heads_backward": (
            [normal(rows, heads, 16, dtype=dtype) for heads in (2, 1)],
            *looked_up[1:],
            *(2, dtype),
        ),
        "distributions": (normal(rows, 40), 5 + normal(rows)),
    }[name]


def test_every_function_that_is_compiled_has_a_case():
    assert len(FUNCTIONS) >= 8
    for name in FUNCTIONS:
        assert inputs_of(name, 3)


@pytest.fixture
def counted():
    """A compiler that counts and compiles nothing; what was compiled before is forgotten."""
    count = []

    def backend(graph, _inputs):
        count.append(graph)
        return graph.forward

    torch.compiler.reset()
    yield backend, count
    torch.compiler.reset()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_one_graph_for_any_number_of_rows(counted, name):
    backend, count = counted
    written = FUNCTIONS[name]
    compiled_once = torch.compile(written, dynamic=True, fullgraph=True, backend=backend)
    for rows in (192, 48, 7, 513):
        compiled_once(*inputs_of(name, rows))
    assert len(count) == 1


@pytest.mark.long
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_functions_give_the_same(compiler, name):
    written, dtype = FUNCTIONS[name], torch.float32
    expected, result = (
        written(*inputs_of(name, 9, dtype)),
        torch.compile(written, dynamic=True)(*inputs_of(name, 9, dtype)),
    )
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_is_one_graph_for_any_number_of_rows(counted, kind):
    backend, count = counted
    written = inspect.unwrap(row_losses)
    compiled_once = torch.compile(written, dynamic=True, fullgraph=True, backend=backend)
    for rows in (6, 40, 11):
        logits, probs, _, mix = random_logits(3, rows=rows)
        compiled_once(kind, logits, probs, torch.arange(rows), mix)
    assert len(count) == 1


def own_keys_inputs(name, rows, steps):
    """Two heads share a key; keys of earlier steps are more, and lie in another order."""
    draw = torch.Generator().manual_seed(rows + steps)
    q, prefix, dout, dq = (torch.randn(rows, 4, 16, generator=draw) for _ in range(4))
    own = [torch.randn(rows + 5, 2, 16, generator=draw) for _ in range(2 * steps)]
    index = [torch.randint(rows + 5, (rows,), generator=draw) for _ in range(steps)]
    terms = own[:steps], own[steps:], index
    lse = torch.randn(rows, 4, generator=draw)
    if name == "merged_with_own":
        return q, prefix, lse, *terms
    if name == "prefix_gradients":
        return dout, prefix, lse, q, lse + 1
    return dout, q, prefix, 3 + torch.rand(rows, 4, generator=draw), dq, *terms


OWN_KEYS = [name for name, f in vars(own_keys).items() if hasattr(f, "__wrapped__")]


@pytest.mark.parametrize("name", OWN_KEYS)
def test_own_keys_are_one_graph_for_any_number_of_rows(counted, name):
    backend, count = counted
    written = inspect.unwrap(getattr(own_keys, name))
    compiled_once = torch.compile(written, dynamic=True, fullgraph=True, backend=backend)
    for rows in (6, 40, 11):
        compiled_once(*own_keys_inputs(name, rows, 3))
    assert len(count) == 1


@pytest.mark.long
@pytest.mark.parametrize("name", OWN_KEYS)
def test_compiled_own_keys_give_the_same(compiler, name):
    written, inputs = inspect.unwrap(getattr(own_keys, name)), own_keys_inputs(name, 9, 2)
    result = torch.compile(written, dynamic=True)(*inputs)
    torch.testing.assert_close([*result], [*written(*inputs)])


class LooksLikeGpu(torch.Tensor):
    """A tensor of the CPU that says it is on CUDA."""

    is_cuda = True


def test_without_a_compiler_functions_run_as_written_and_it_is_said_once(monkeypatch, caplog):
    def no_compiler(_function, **_options):
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    monkeypatch.setattr(torch, "compile", no_compiler)
    compiled.compiles_for_cuda.cache_clear()
    double = compiled.compiled_on_cuda(lambda x: x * 2)
    for _ in range(2):
        assert double(torch.ones(2).as_subclass(LooksLikeGpu)).tolist() == [2, 2]
    compiled.compiles_for_cuda.cache_clear()
    [record] = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "(Failed to find C compiler.)" in record.message and "headers" in record.message


def test_what_is_compiled_sees_no_autograd(monkeypatch):
    monkeypatch.setattr(compiled, "compiles_for_cuda", lambda: True)
    seen = []
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)

    def function(x, n, more):
        seen.extend(each.requires_grad for each in (x, *more))
        return x * n

    watched = compiled.compiled_on_cuda(function)
    weight = torch.ones(2).as_subclass(LooksLikeGpu).requires_grad_()
    assert watched(weight, 3, (weight, weight)).tolist() == [3, 3] and seen == [False] * 3


@pytest.mark.long
def test_a_compiled_loss_gives_the_same(compiler):
    written = inspect.unwrap(row_losses)
    expected, result = (
        function("lk_hybrid", logits, probs, torch.arange(len(logits)).flip(0), mix)
        for function in (written, torch.compile(written, dynamic=True))
        for logits, probs, _, mix in [random_logits(3)]
    )
    for name, tensor in vars(expected).items():
        torch.testing.assert_close(getattr(result, name), tensor, rtol=1e-12, atol=1e-13)
