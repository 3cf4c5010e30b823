"""Each private part of PyTorch against plain public code: what fails here names what changed."""

from __future__ import annotations

import math
import re
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from safetensors.torch import load_file, save_file
from torch.nn.functional import scaled_dot_product_attention, silu

from eagle3.kernels import torch_internals

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = r"torch\.ops\.\w+|torch(\.\w+)*\._(?!_version__)\w+|from torch(\.\w+)* import _\w+"


def test_no_other_file_has_a_private_part():
    for room in ("eagle3", "workflow_scripts", "benchmarks", "rules"):
        for path in (ROOT / room).rglob("*.py"):
            if path.name != "torch_internals.py":
                assert not re.search(PRIVATE, path.read_text()), path
    assert re.search(PRIVATE, (ROOT / "eagle3/kernels/torch_internals.py").read_text())


def normal(*size, dtype=torch.float32):
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size)), dtype=dtype)


def documents(device, dtype):
    """Queries, keys, values and output gradients [S, heads, d] of documents of 5 and 3 rows."""
    return [(normal(8 + i, 2, 16)[:8]).to(device, dtype).requires_grad_() for i in range(4)]


def by_document(q, k, v):
    """Public attention of each document, and log-sum-exp [S, heads]."""
    outs, lses = [], []
    for part in zip(*(t.split([5, 3]) for t in (q, k, v)), strict=True):
        a, b, c = (t.transpose(0, 1) for t in part)
        outs.append(scaled_dot_product_attention(a, b, c, is_causal=True).transpose(0, 1))
        scores = a @ b.mT / math.sqrt(q.shape[-1])
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        lses.append(scores.masked_fill(hidden, float("-inf")).logsumexp(-1).T)
    return torch.cat(outs), torch.cat(lses)


def test_the_flash_kernels_of_a_cpu_are_attention():
    q, k, v, dout = (t[:5] for t in documents("cpu", torch.float32))
    expected = scaled_dot_product_attention(
        *(t.transpose(0, 1)[None] for t in (q, k, v)), is_causal=True
    )[0].transpose(0, 1)
    wanted = torch.autograd.grad(expected, (q, k, v), dout)
    by_head = [t.detach().transpose(0, 1)[None] for t in (q, k, v)]
    out, lse = torch_internals.cpu_flash_attention(*by_head)
    torch.testing.assert_close(out[0].transpose(0, 1), expected)
    scores = (by_head[0] @ by_head[1].mT / 4).masked_fill(
        torch.ones(5, 5).triu(1).bool(), float("-inf")
    )
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    gradients = torch_internals.cpu_flash_attention_backward(
        dout.detach().transpose(0, 1)[None], *by_head, out, lse.contiguous()
    )
    for result, gradient in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(result[0].transpose(0, 1), gradient)


def test_the_flash_kernels_of_cuda_take_and_return_what_they_did():
    """Shapes only, which needs no GPU: arguments and outputs that changed show here."""
    q, k, v = (
        torch.empty(8, heads, 16, device="meta", dtype=torch.bfloat16) for heads in (4, 2, 2)
    )
    bounds = torch.empty(3, dtype=torch.int32, device="meta")
    out, lse, state = torch_internals.cuda_flash_attention(q, k, v, bounds, 5)
    assert (out.shape, lse.shape, len(state)) == (q.shape, (4, 8), 2)
    gradients = torch_internals.cuda_flash_attention_backward(
        out, q, k, v, out, lse, bounds, 5, state
    )
    assert [t.shape for t in gradients] == [q.shape, k.shape, v.shape]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_the_flash_kernels_of_cuda_are_attention_inside_documents():
    q, k, v, dout = documents("cuda", torch.bfloat16)
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    expected, expected_lse = by_document(*exact)
    wanted = torch.autograd.grad(expected, exact, dout.double())
    bounds = torch.tensor([0, 5, 8], dtype=torch.int32, device="cuda")
    with torch.no_grad():
        out, lse, state = torch_internals.cuda_flash_attention(q, k, v, bounds, 5)
        gradients = torch_internals.cuda_flash_attention_backward(
            dout, q, k, v, out, lse.contiguous(), bounds, 5, state
        )
    for result, value in zip(
        (out, lse.T, *gradients), (expected, expected_lse, *wanted), strict=True
    ):
        assert (result.double() - value).norm() <= 1e-2 * value.norm()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is without oneDNN")
def test_the_product_of_onednn_is_a_linear_layer():
    a, b = normal(7, 12), normal(5, 12)
    torch.testing.assert_close(torch_internals.onednn_linear(a, b), a @ b.T)
    if torch_internals.onednn_multiplies_bfloat16():
        result = torch_internals.onednn_linear(a.bfloat16(), b.bfloat16())
        torch.testing.assert_close(result.float(), a @ b.T, rtol=0.05, atol=0.1)


def test_bfloat16_instructions_are_those_of_the_processor():
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "flags" not in cpuinfo.read_text():
        pytest.skip("nothing to compare with")
    (flags,) = {*re.findall(r"^flags\s*: (.*)$", cpuinfo.read_text(), re.M)[:1]}
    known = {"avx512_bf16", "amx_tile"} & {*flags.split()}
    assert torch_internals.multiplies_bfloat16() == bool(known)


def test_the_derivative_of_silu_is_autograds():
    x, dy = normal(9, dtype=torch.float64).requires_grad_(), normal(9, dtype=torch.float64)
    (expected,) = torch.autograd.grad(silu(x), x, dy)
    torch.testing.assert_close(torch_internals.silu_backward(dy, x.detach()), expected)


COUNTS = [3, 0]  # rows of each rank; every rank sends all of its own to every rank


def exchange(rank, port, out):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(COUNTS)
    )
    count = COUNTS[rank]
    rows = (torch.arange(count * 2.0).view(count, 2) + 10 * rank).requires_grad_()
    sent = rows.expand(len(COUNTS), -1, -1).flatten(0, 1)
    received = torch_internals.all_to_all(sent, [count] * len(COUNTS), COUNTS, dist.group.WORLD)
    (received * (rank + 1)).sum().backward()
    save_file({"rows": rows.detach(), "received": received.detach(), "grad": rows.grad}, out(rank))
    dist.destroy_process_group()


class Files:
    def __init__(self, folder):
        self.folder = folder

    def __call__(self, rank):
        return self.folder / f"{rank}.safetensors"


def test_rows_go_all_to_all_and_gradients_come_back(tmp_path):
    """Real processes, one of them without a row."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = Files(tmp_path)
    processes.spawn(exchange, (port, files), nprocs=len(COUNTS))
    result = [load_file(files(rank)) for rank in range(len(COUNTS))]
    everything = torch.cat([one["rows"] for one in result])
    for one in result:
        assert torch.equal(one["received"], everything)
        assert torch.equal(one["grad"], torch.full_like(one["rows"], 1 + 2))
