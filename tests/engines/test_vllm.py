"""A vLLM capture with a stand-in for vLLM itself: our connector takes every document's rows out of
the cache, and every fault is one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from eagle3.engines.separate.run import run_separately
from eagle3.engines.vllm.engine import VLLM, captured_inputs
from eagle3.errors import UserError
from eagle3.target_model.final_norm import load_final_norm
from tests.builders.engine import engine_request
from tests.builders.models import HIDDEN, LAYERS
from tests.builders.pretended_engine import file_request, pretend, pretended

ENVS = Path(__file__).resolve().parents[2] / "envs"
DOCUMENTS = {4: [7, 8], 9: [5, 6, 7, 8, 9], 2: [3], 6: [9, 9], 1: list(range(20, 37))}


@pytest.fixture
def mark(monkeypatch, tmp_path):
    """The stand-in is installed; processes of this test bear the mark."""
    with pretended("vllm", VLLM.oldest, monkeypatch, tmp_path) as chosen:
        yield chosen


def files(targets, folder, layers=(1, 3, 4), **arguments):
    return file_request(
        targets["llama"], folder, DOCUMENTS, arguments, engine="vllm", layers=layers
    )


def in_the_leg(*values):
    """A case for `make test-vllm` alone: each starts a process that imports torch."""
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
    "layers", [(1, 3, 4), in_the_leg((0, 2, 5, 6)), in_the_leg((2, 4, LAYERS - 1))]
)
def test_every_documents_rows_are_taken_out_of_the_cache(targets, mark, tmp_path, layers):
    """In the order of the layers, and the last state behind the target's own norm."""
    run_separately(files(targets, tmp_path / "out", layers), DOCUMENTS, sys.executable)
    result = {int(path.stem): load_file(path) for path in (tmp_path / "out").glob("*.safetensors")}
    assert sorted(result) == sorted(DOCUMENTS)
    norm, inputs = (
        load_final_norm(targets["llama"], "model.norm.weight", torch.float32),
        captured_inputs(layers, LAYERS),
    )
    for number, ids in DOCUMENTS.items():
        rows = torch.tensor(ids, dtype=torch.float32)[:, None].expand(-1, HIDDEN)
        places = [inputs.index(layer + 1) for layer in layers]
        assert torch.equal(result[number]["aux"], torch.cat([rows + k for k in places], dim=-1))
        torch.testing.assert_close(result[number]["last"], norm(rows + len(inputs) - 1))
    # the longest first, two at a time
    assert (tmp_path / "out/batches.txt").read_text().splitlines() == ["1 9", "4 6", "2"]


@pytest.mark.parametrize(
    ("fake", "sentence"),
    [
        ("dies", r"vLLM's process ended with signal SIGKILL; its log is above$"),
        in_the_leg(
            "forgets", r"vLLM returned no states for 1 of 5 documents \(the first is 2, of 1 tokens"
        ),
        ("refuses", r"arguments \(resources\.capture\.vllm_arguments\): no such model; use"),
        ("unknown", r"vLLM's class for this target, Unknown, returns no hidden states; use hidden"),
        in_the_leg(
            "twice", r"document 1 came twice; check resources\.capture\.vllm_arguments, or use"
        ),
        in_the_leg(
            "caches", r"document 1 starts at its token 1, the rest is cached or in another batch"
        ),
        in_the_leg(
            "chunks", r"document 1 has 16 rows for its 17 tokens, .*\(gpu_memory_utilization"
        ),
        in_the_leg("other ids", r"document 1 has other tokens than were sent"),
        in_the_leg("skips", r"vLLM kept no states of a batch; use hidden_states\.backend hf$"),
        in_the_leg("no cache", r"vLLM has 0 caches of states, not one"),
        in_the_leg(
            "sizes", r"cache \[64, 4, 4, 32\], not in blocks of 8 tokens with 4 states each"
        ),
    ],
)
def test_a_failing_engine_is_one_sentence(targets, mark, tmp_path, fake, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        run_separately(files(targets, tmp_path / "out", fake=fake), DOCUMENTS, sys.executable)
    assert "\n" not in str(raised.value)


def test_an_old_vllm_is_refused(targets, mark, tmp_path):
    pretend(tmp_path / "installed", "vllm", "0.31.2")
    sentence = (
        r"has vllm 0\.31\.2; vLLM 0\.32\.0 .*envs/vllm\.yaml.* resources\.capture\.vllm_python$"
    )
    with pytest.raises(UserError, match=sentence):
        run_separately(files(targets, tmp_path / "out"), DOCUMENTS, sys.executable)


def test_an_interpreter_without_vllm_is_refused(targets, tmp_path):
    sentence = r"has no vllm; vLLM 0\.32\.0 .* resources\.capture\.vllm_python$"
    with pytest.raises(UserError, match=sentence):
        run_separately(files(targets, tmp_path / "out"), DOCUMENTS, sys.executable)


def test_the_environments_hold_one_vllm_that_is_new_enough():
    tested = set((ENVS / "vllm-cpu-test.txt").read_text().splitlines())
    environment = yaml.safe_load((ENVS / "vllm.yaml").read_text())
    pinned = {line for line in environment["dependencies"][-1]["pip"] if "==" in line}
    assert pinned - tested == {f"vllm=={VLLM.oldest}"}
    assert f"vllm-cpu=={VLLM.oldest}" in tested


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("model", "is set by the pipeline itself"),
        ("tensor_parallel_size", "is set by the pipeline itself"),
        ("enable_prefix_caching", "is set by the pipeline itself"),
        ("enable_chunked_prefill", "is set by the pipeline itself"),
        ("kv_transfer_config", "is set by the pipeline itself"),
        ("speculative_config", "is set by the pipeline itself"),
        ("quantization", "would change the states"),
        ("kv_cache_dtype", "would change the states"),
        ("mamba_ssm_cache_dtype", "would change the states"),
        ("enable_lora", "would change the states"),
        ("hf_overrides", "would change the states"),
        ("disable_sliding_window", "would change the states"),
        ("pipeline_parallel_size", "would keep rows"),
        ("data_parallel_size", "would keep rows"),
        ("decode_context_parallel_size", "would keep rows"),
        ("max_num_scheduled_tokens", "would keep rows"),
        ("long_prefill_token_threshold", "would keep rows"),
    ],
)
def test_arguments_that_are_not_the_users_are_refused(name, cause):
    request = engine_request("model", "consumers:Files", {name: 1}, engine="vllm")
    with pytest.raises(UserError, match=rf"vllm_arguments\.{name} {cause}"):
        VLLM.check_arguments(request)


def test_other_arguments_reach_the_engine():
    own = {"gpu_memory_utilization": 0.5, "max_num_seqs": 64, "disable_log_stats": False}
    own["enable_expert_parallel"] = True
    request = engine_request("model", "consumers:Files", own, 2, 4096, engine="vllm")
    VLLM.check_arguments(request)
    result = VLLM.arguments(request, 100, Path("/folder"))
    assert own.items() <= result.items()
    assert (result["tensor_parallel_size"], result["max_num_batched_tokens"]) == (2, 4096)
    long = VLLM.arguments(request, 5000, Path("/folder"))
    assert long["max_num_batched_tokens"] == long["max_model_len"] > 5000  # in one piece, alone


def test_layers_are_counted_by_their_inputs_and_the_last_state_is_behind_them():
    assert captured_inputs((1, 3, 4), 8) == [2, 4, 5, 8]
    assert captured_inputs((1, 3, 7), 8) == [2, 4, 8]  # kept once
