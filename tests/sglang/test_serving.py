"""An exported draft in a real SGLang engine on the CPU, speculating, against our own decoding.

The engine's scheduler, workers, model class, loader, positions and counts are its own; the kernels
under them are those of the shim, so kernels, CUDA graphs and trees are not tested here. Float32:
in half precision the two libraries' sums part ways at near-ties.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from eagle3.evaluation.acceptance import acceptance
from eagle3.evaluation.server import RequestOptions, measure
from tests.builders.real_servers import real_server
from tests.builders.served import CUSTOM, EAGLE31, EOS, NEW, PROMPTS, served, telling

SERVE = Path(__file__).parent / "serve.py"
ENGINE = {
    "device": "cpu",
    "dtype": "float32",
    # without AMX the first is what SGLang falls back to, and only the other two speculate
    "attention_backend": "torch_native",
    "prefill_attention_backend": "intel_amx",
    "decode_attention_backend": "intel_amx",
    "skip_tokenizer_init": True,
    "disable_cuda_graph": True,
    "max_total_tokens": 2048,
    "max_running_requests": 4,
    "mem_fraction_static": 0.3,
    "random_seed": 0,
    "log_level": "warning",
}


@pytest.fixture(scope="module")
def default(targets, tmp_path_factory):
    return served(tmp_path_factory.mktemp("default"), targets["llama"], ["sglang"])


@pytest.fixture(scope="module")
def custom(targets, tmp_path_factory):
    return served(tmp_path_factory.mktemp("custom"), targets["qwen3"], ["sglang"], CUSTOM)


@contextmanager
def few_cores(ranks=1):
    """The environment of an engine: a core for each rank, and no compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        patch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "|".join("01"[:ranks]))
        yield


def answered(engine_python, folder, model, ranks=1, **arguments):
    """What SGLang answers and reports, prompt by prompt."""
    engine = ENGINE | {"model_path": str(model), "tp_size": ranks} | arguments
    request, answers = folder / "request.json", folder / "answers.json"
    request.write_text(json.dumps({"engine": engine, "prompts": PROMPTS, "new": NEW}))
    with few_cores(ranks):
        done = subprocess.run(
            [engine_python, SERVE, request, answers], capture_output=True, text=True, check=False
        )
    assert answers.is_file(), (done.stdout + done.stderr)[-4000:]
    return json.loads(answers.read_text())


def speculating(draft, steps):
    return {
        "speculative_algorithm": "EAGLE3",
        "speculative_draft_model_path": str(draft),
        "speculative_num_steps": steps,
        "speculative_eagle_topk": 1,
        "speculative_num_draft_tokens": steps + 1,
    }


def agree(found, made, steps):
    """Tokens, verify passes and the histogram of accepted drafts, exactly, of every prompt."""
    lengths = []
    for prompt, answer, one in zip(PROMPTS, made.answers, found, strict=True):
        ours = made.ours(prompt, steps)
        histogram = np.bincount(np.array(ours.committed) - 1).tolist()
        assert one["tokens"] == ours.tokens == answer
        assert one["spec_verify_ct"] == len(ours.committed)
        assert one["spec_correct_drafts_histogram"] == histogram
        assert one["spec_num_correct_drafts"] == sum(ours.committed) - len(ours.committed)
        lengths += ours.committed
    print(f"acceptance length {telling(lengths, steps):.4f} over {len(lengths)} passes")


def test_without_speculation_the_engine_says_the_targets_own_text(default, engine_python, tmp_path):
    result = answered(engine_python, tmp_path, default.target)
    assert [one["tokens"] for one in result] == default.answers


@pytest.mark.parametrize(("ranks", "steps"), [(1, 3), (2, 5)])
def test_speculation_counts_what_our_decoding_counts(
    default, engine_python, tmp_path, ranks, steps
):
    arguments = speculating(default.exports["sglang"], steps)
    agree(answered(engine_python, tmp_path, default.target, ranks, **arguments), default, steps)


@pytest.mark.parametrize(("ranks", "steps"), [(1, 5), (2, 3)])
def test_so_it_does_with_layers_of_ones_own(custom, engine_python, tmp_path, ranks, steps):
    arguments = speculating(custom.exports["sglang"], steps)
    agree(answered(engine_python, tmp_path, custom.target, ranks, **arguments), custom, steps)


def test_so_it_does_with_the_norms_of_eagle31(targets, engine_python, tmp_path):
    made = served(tmp_path, targets["llama"], ["sglang"], CUSTOM, EAGLE31)
    result = answered(
        engine_python, tmp_path, made.target, **speculating(made.exports["sglang"], 5)
    )
    agree(result, made, 5)


def test_so_it_does_with_two_layers_of_five_states(targets, engine_python, tmp_path):
    five = [0, 1, 3, 4, 6]
    made = served(tmp_path, targets["llama"], ["sglang"], five, {"num_hidden_layers": 2})
    result = answered(
        engine_python, tmp_path, made.target, **speculating(made.exports["sglang"], 5)
    )
    agree(result, made, 5)


@contextmanager
def server(engine_python, tokenizer=False, **arguments):
    """The address of a real server. With `tokenizer` it speaks text, as well as token ids."""
    command = [engine_python, "-m", "sglang.launch_server"]
    given = ENGINE | arguments | {"skip_server_warmup": True}
    if tokenizer:
        del given["skip_tokenizer_init"]
    with few_cores(), real_server(command, given) as url:
        yield url


def test_the_client_measures_at_a_server_what_our_decoding_counts(default, engine_python):
    """Over HTTP, answers that end at a stop token included."""
    arguments = speculating(default.exports["sglang"], 3) | {"model_path": str(default.target)}
    with server(engine_python, **arguments) as url:
        whole = measure(url, PROMPTS, RequestOptions(NEW, ignore_eos=True, concurrency=4))
        ended = measure(url, PROMPTS, RequestOptions(NEW, concurrency=4))
    for result, stop in ((whole, ()), (ended, (EOS,))):
        expected = acceptance(default.committed(3, stop), 3)
        for name in ("acceptance_length", "acceptance_length_ci95", "verify_passes"):
            assert result[name] == expected[name], name
    assert any(EOS in answer for answer in default.answers)
    assert ended["verify_passes"] < whole["verify_passes"]
    assert whole["accepted_histogram"] == acceptance(default.committed(3), 3)["accepted_histogram"]
