"""Which attention back end is taken, by device, type and head."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from eagle3.errors import UserError
from eagle3.objective import dispatch
from eagle3.objective.dispatch import BACKENDS, choose_backend, unsupported_on_gpu

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BF16, FP32 = torch.bfloat16, torch.float32


@pytest.fixture
def card(monkeypatch):
    """A GPU of this compute capability that operations can be compiled for, or not."""

    def make(capability, compiles=True):
        unsupported_on_gpu.cache_clear()
        # a block's shared memory as CUDA's programming guide has it
        room = {(9, 0): 232448, (8, 0): 166912}.get(capability, 101376)
        properties = SimpleNamespace(shared_memory_per_block_optin=room)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
        monkeypatch.setattr(dispatch, "compiles_for_cuda", lambda: compiles)

    yield make
    unsupported_on_gpu.cache_clear()


def test_a_cpu_takes_chunks_unless_another_is_named():
    for dtype in (BF16, FP32):
        for name in ("auto", "usp"):
            assert choose_backend(name, CPU, dtype, 4) is BACKENDS["chunked"]
        for name in BACKENDS:
            assert choose_backend(name, CPU, dtype, 4) is BACKENDS[name]


@pytest.mark.parametrize(
    ("capability", "compiles", "dtype", "head", "sharded", "taken"),
    [
        ((9, 0), True, BF16, 128, False, "flash"),
        ((9, 0), False, BF16, 128, False, "flash"),
        ((9, 0), True, BF16, 128, True, "flex"),
        ((9, 0), False, BF16, 128, True, "chunked"),
        ((9, 0), True, FP32, 128, False, "flex"),
        ((9, 0), False, FP32, 128, False, "chunked"),
        ((9, 0), True, BF16, 20, False, "flex"),
        ((9, 0), True, BF16, 512, False, "flex"),
        ((9, 0), True, BF16, 8, False, "flash"),
        ((9, 0), True, BF16, 12, False, "chunked"),
        ((9, 0), True, FP32, 8, False, "chunked"),
        ((7, 5), True, BF16, 128, False, "flex"),
        ((8, 0), True, BF16, 256, True, "flex"),
        ((8, 9), True, BF16, 256, False, "flash"),
        ((8, 9), True, BF16, 256, True, "chunked"),  # flex's backward pass would not fit
        ((8, 9), True, FP32, 128, False, "flex"),
    ],
)
def test_a_gpu_takes_the_fastest_that_it_and_the_draft_allow(
    card, capability, compiles, dtype, head, sharded, taken
):
    card(capability, compiles)
    for name in ("auto", "usp"):
        assert choose_backend(name, GPU, dtype, head, sharded) is BACKENDS[taken]


@pytest.mark.parametrize(
    ("name", "dtype", "head", "said"),
    [
        ("flash", FP32, 128, "half precision"),
        ("flash", BF16, 20, "not of 20"),
        ("flash", BF16, 264, "not of 264"),
        ("flex", BF16, 8, "not of 8"),
    ],
)
def test_a_named_back_end_that_a_gpu_refuses_is_one_sentence(card, name, dtype, head, said):
    card((9, 0))
    with pytest.raises(UserError, match=rf"^train\.attention_backend is {name}, .*{said}.*auto$"):
        choose_backend(name, GPU, dtype, head)
    assert choose_backend("chunked", GPU, dtype, head) is BACKENDS["chunked"]


def test_wide_heads_of_flex_need_a_card_with_much_shared_memory(card):
    card((8, 9))
    with pytest.raises(UserError, match=r"heads of 256 numbers needs 134 KB .* this GPU has 99;"):
        choose_backend("flex", GPU, BF16, 256)


def test_flex_needs_a_compiler(card):
    card((9, 0), compiles=False)
    with pytest.raises(UserError, match="compiled"):
        choose_backend("flex", GPU, BF16, 64)
