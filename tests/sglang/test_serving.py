"""An exported draft in a real SGLang engine on the CPU, speculating, against our own decoding.

The engine's scheduler, workers, model class, loader, positions and counts are its own; the kernels
under them are those of the shim, so kernels, CUDA graphs and trees are not tested here. Float32:
in half precision the two libraries' sums part ways at near-ties.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from eagle3.engines.hf import HFTarget
from eagle3.errors import UserError
from eagle3.evaluation.acceptance import acceptance
from eagle3.evaluation.http import get
from eagle3.evaluation.server import RequestOptions, measure
from eagle3.export.load import load_draft
from eagle3.target_model.reader import Head
from tests.builders.exports import write
from tests.builders.models import COMMON, VOCAB
from tests.builders.ports import held_port
from tests.builders.processes import kill_group
from tests.builders.shards import TRAIN, changed, open_target, train_draft, training_set
from tests.builders.waiting import wait_for
from tests.evaluation.chain import DraftChain, decode_plain, decode_speculative

NEW, EOS = 32, COMMON["eos_token_id"]
PROMPTS = [np.random.default_rng(i).integers(3, VOCAB, 4 + 2 * i).tolist() for i in range(12)]
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
CUSTOM = [0, 3, 6]
EAGLE31 = {"fc_norm": True, "norm_output": True}


@dataclass(frozen=True)
class Served:
    """A target, the export of a draft that has learned some of its text, and what it says."""

    target: Path
    export: Path
    engine: HFTarget
    head: Head
    embedding: torch.Tensor
    answers: list[list[int]]

    def ours(self, prompt, steps, stop=()):
        """Chain decoding with the draft as it is read back from the export."""
        draft, mapping = load_draft(self.export)
        chain = DraftChain(draft, self.embedding, torch.from_numpy(mapping.target_ids))
        return decode_speculative(self.engine, self.head, chain, prompt, NEW, set(stop), steps)


def served(folder, target, layers=None, switches=None):
    """Train a draft on the target's own answers to half of the prompts; export it in float32."""
    engine, head = open_target(target, layers=layers)
    texts, answers = [], []
    for prompt in PROMPTS:
        answer = decode_plain(engine, head, prompt, NEW, set()).tokens
        texts.append((prompt + answer, [0] * len(prompt) + [1] * len(answer)))
        answers.append(answer)
    train = changed(
        TRAIN, epochs=60, epochs_per_stage=60, learning_rate=1e-2, max_grad_norm=5.0, ttt_steps=6
    )
    made = training_set(folder, target, train, texts=texts[::2], layers=layers, switches=switches)
    draft, parts = train_draft(made, folder)
    export = folder / "export"
    write("sglang", export, draft.state_dict(), made.mapping, draft.config, "float32")
    return Served(target, export, engine, head, parts.embedding, answers)


@pytest.fixture(scope="module")
def default(targets, tmp_path_factory):
    return served(tmp_path_factory.mktemp("default"), targets["llama"])


@pytest.fixture(scope="module")
def custom(targets, tmp_path_factory):
    return served(tmp_path_factory.mktemp("custom"), targets["qwen3"], CUSTOM)


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
    # a draft that is never right, or always, would prove little
    assert 1.3 < np.mean(lengths) < steps + 0.9 and max(lengths) == steps + 1
    print(f"acceptance length {np.mean(lengths):.4f} over {len(lengths)} passes")


def test_without_speculation_the_engine_says_the_targets_own_text(default, engine_python, tmp_path):
    result = answered(engine_python, tmp_path, default.target)
    assert [one["tokens"] for one in result] == default.answers


@pytest.mark.parametrize(("ranks", "steps"), [(1, 3), (2, 5)])
def test_speculation_counts_what_our_decoding_counts(
    default, engine_python, tmp_path, ranks, steps
):
    arguments = speculating(default.export, steps)
    agree(answered(engine_python, tmp_path, default.target, ranks, **arguments), default, steps)


@pytest.mark.parametrize(("ranks", "steps"), [(1, 5), (2, 3)])
def test_so_it_does_with_layers_of_ones_own(custom, engine_python, tmp_path, ranks, steps):
    arguments = speculating(custom.export, steps)
    agree(answered(engine_python, tmp_path, custom.target, ranks, **arguments), custom, steps)


def test_so_it_does_with_the_norms_of_eagle31(targets, engine_python, tmp_path):
    made = served(tmp_path, targets["llama"], CUSTOM, EAGLE31)
    result = answered(engine_python, tmp_path, made.target, **speculating(made.export, 5))
    agree(result, made, 5)


def test_so_it_does_with_two_layers_of_five_states(targets, engine_python, tmp_path):
    made = served(tmp_path, targets["llama"], [0, 1, 3, 4, 6], {"num_hidden_layers": 2})
    result = answered(engine_python, tmp_path, made.target, **speculating(made.export, 5))
    agree(result, made, 5)


@contextmanager
def server(engine_python, tokenizer=False, **arguments):
    """A real HTTP server in a process group of its own; its address. With `tokenizer` it speaks
    text, as well as token ids."""
    command = [engine_python, "-m", "sglang.launch_server"]
    given = ENGINE | arguments | {"skip_server_warmup": True}
    if tokenizer:
        del given["skip_tokenizer_init"]
    for name, value in given.items():
        command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    with held_port() as port, few_cores():
        url = f"http://127.0.0.1:{port}"
        process = subprocess.Popen([*command, "--port", str(port)], start_new_session=True)

        def up():
            try:
                return get(f"{url}/health") is not None
            except UserError:
                return False

        def over():
            return None if process.poll() is None else f"it ended with {process.returncode}"

        try:
            wait_for(up, f"SGLang's server at {url}", limit=900, hopeless=over)
            yield url
        finally:
            kill_group(process)


def test_the_client_measures_at_a_server_what_our_decoding_counts(default, engine_python):
    """Over HTTP, answers that end at a stop token included."""
    arguments = speculating(default.export, 3) | {"model_path": str(default.target)}
    with server(engine_python, **arguments) as url:
        whole = measure(url, PROMPTS, RequestOptions(NEW, ignore_eos=True, concurrency=4))
        ended = measure(url, PROMPTS, RequestOptions(NEW, concurrency=4))
    for result, stop in ((whole, ()), (ended, (EOS,))):
        counts = [default.ours(prompt, 3, stop).committed for prompt in PROMPTS]
        expected = acceptance(counts, 3)
        for name in ("acceptance_length", "acceptance_length_ci95", "verify_passes"):
            assert result[name] == expected[name], name
    assert any(EOS in answer for answer in default.answers)
    assert ended["verify_passes"] < whole["verify_passes"]
    assert (
        whole["accepted_histogram"]
        == acceptance([default.ours(prompt, 3).committed for prompt in PROMPTS], 3)[
            "accepted_histogram"
        ]
    )
