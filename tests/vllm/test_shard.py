"""A whole capture job with vLLM against the same job with transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.builders.shards import captured, chats, read_all, state_settings, token_shard
from tests.vllm.test_engine import ARGUMENTS


@pytest.mark.parametrize(("kind", "ranks"), [("llama", 1), ("qwen3_moe", 2)])
def test_a_shard_holds_what_the_other_engine_writes(
    targets, engine_python, tmp_path, cores, kind, ranks
):
    cores(ranks)
    bare = (np.arange(3, 12), np.zeros(9, dtype=np.uint8))  # a document nobody answers in
    tokens = tmp_path / "tokens.safetensors"
    token_shard(tokens, [*chats(9), bare, ([5, 6], [1, 1]), *chats(9, seed=9)])
    by_vllm, by_hf = (
        captured(
            tmp_path / f"{backend}.safetensors",
            targets[kind],
            tokens,
            state_settings(backend=backend),
            self_check=True,
            tensor_parallel=ranks if backend == "vllm" else 1,
            vllm_python=engine_python,
            vllm_arguments=ARGUMENTS,
        )
        for backend in ("vllm", "hf")
    )
    result, expected = read_all(by_vllm), read_all(by_hf)
    assert torch.equal(result.pop("teacher_argmax"), expected.pop("teacher_argmax"))
    for name, values in expected.items():
        assert len(values)
        torch.testing.assert_close(result[name], values, rtol=1e-5, atol=1e-4)
