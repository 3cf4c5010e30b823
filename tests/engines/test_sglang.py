"""The two sides of an SGLang capture, with a stand-in for SGLang itself: every fault is one
sentence, and no process outlives its job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from eagle3.engines.separate.request import read_documents, write_documents
from eagle3.engines.separate.run import run_separately
from eagle3.engines.sglang.engine import SGLANG
from eagle3.errors import UserError
from tests.builders.engine import alive, engine_request
from tests.builders.pretended_engine import file_request, pretend, pretended
from tests.builders.waiting import wait_for

TESTS = Path(__file__).resolve().parents[1]
DOCUMENTS = {4: [7, 8], 9: [5, 6, 7, 8, 9], 2: [3], 6: [9, 9]}


@pytest.fixture
def mark(monkeypatch, tmp_path):
    """The stand-in is installed; processes of this test bear the mark."""
    with pretended("sglang", SGLANG.oldest, monkeypatch, tmp_path) as chosen:
        yield chosen


def files(targets, folder, **arguments):
    return file_request(targets["llama"], folder, DOCUMENTS, arguments)


def test_every_document_reaches_the_consumer_and_nothing_stays_behind(targets, mark, tmp_path):
    run_separately(files(targets, tmp_path / "out"), DOCUMENTS, sys.executable)
    result = {int(path.stem): load_file(path) for path in (tmp_path / "out").glob("*.safetensors")}
    assert sorted(result) == sorted(DOCUMENTS)
    for number, ids in DOCUMENTS.items():
        assert result[number]["last"][:, 0].tolist() == ids
        assert result[number]["aux"].shape == (len(ids), 12)
    # the longest first, so that batches hold similar lengths
    assert (tmp_path / "out/batches.txt").read_text().split() == ["9", "4", "6", "2"]


def test_the_engine_knows_nothing_of_the_ranks_that_torchrun_made(
    targets, mark, tmp_path, monkeypatch
):
    """SGLang's own ranks would join our process group and wait for ever (seen with the rule)."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "7")
    sign = tmp_path / "environment"
    request = engine_request(targets["llama"], "consumers:Environment", {}, sign=str(sign))
    run_separately(request, DOCUMENTS, sys.executable)
    names = sign.read_text().split()
    assert "PATH" in names
    assert not {n for n in names if n in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    assert not [n for n in names if n.startswith("TORCHELASTIC")]


@pytest.mark.parametrize(
    ("fake", "sentence"),
    [
        ("dies", r"SGLang's process ended with signal SIGKILL; its log is above$"),
        ("forgets", r"no states for 1 of 4 documents \(the first is 2, of 1 tokens\); its log"),
        ("refuses", r"refuses its arguments \(resources\.capture\.sglang_arguments\): unexpected"),
    ],
)
def test_a_failing_engine_is_one_sentence(targets, mark, tmp_path, fake, sentence):
    with pytest.raises(UserError, match=sentence):
        run_separately(files(targets, tmp_path / "out", fake=fake), DOCUMENTS, sys.executable)


@pytest.mark.parametrize(
    ("consumer", "sentence"),
    [
        ("consumers:Failing", r"inside SGLang: ValueError: no room for 1 documents$"),
        ("consumers:Absent", r"inside SGLang: AttributeError: .*Absent"),
        ("absent:Files", r"inside SGLang: ModuleNotFoundError: .*absent"),
    ],
)
def test_a_failing_consumer_is_one_sentence(targets, mark, consumer, sentence):
    with pytest.raises(UserError, match=sentence):
        run_separately(engine_request(targets["llama"], consumer, {}), DOCUMENTS, sys.executable)


def test_an_old_sglang_is_refused(targets, mark, tmp_path):
    pretend(tmp_path / "installed", "sglang", "0.5.22.post1")
    sentence = r"has sglang 0\.5\.22\.post1; SGLang 0\.5\.23 .* resources\.capture\.sglang_python$"
    with pytest.raises(UserError, match=sentence):
        run_separately(files(targets, tmp_path / "out"), DOCUMENTS, sys.executable)


def test_an_interpreter_without_sglang_is_refused(targets, tmp_path):
    sentence = r"has no sglang; SGLang 0\.5\.23 .* resources\.capture\.sglang_python$"
    with pytest.raises(UserError, match=sentence):
        run_separately(files(targets, tmp_path / "out"), DOCUMENTS, sys.executable)


def test_an_interpreter_that_is_none_is_refused(targets, tmp_path):
    with pytest.raises(UserError, match=r"resources\.capture\.sglang_python: cannot run .*absent"):
        run_separately(files(targets, tmp_path / "out"), DOCUMENTS, str(tmp_path / "absent"))


def test_without_documents_nothing_starts(targets, tmp_path):
    run_separately(files(targets, tmp_path / "out"), {}, "no interpreter at all")


def test_the_last_layer_is_refused(targets):
    request = engine_request(targets["llama"], "consumers:Files", {}, layers=(1, 3, 7))
    with pytest.raises(UserError, match=r"hidden_states\.aux_layers is \[1, 3, 7\]; .*below 7"):
        run_separately(request, DOCUMENTS, sys.executable)


def test_the_environments_hold_one_sglang_that_is_new_enough():
    envs = TESTS.parent / "envs"
    tested = set((envs / "sglang-cpu-test.txt").read_text().splitlines())
    environment = yaml.safe_load((envs / "sglang.yaml").read_text())
    pinned = [line for line in environment["dependencies"][-1]["pip"] if "==" in line]
    assert f"sglang=={SGLANG.oldest}" in pinned
    assert set(pinned) <= tested


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("model_path", "is set by the pipeline itself"),
        ("tp_size", "is set by the pipeline itself"),
        ("disable_radix_cache", "is set by the pipeline itself"),
        ("forward_hooks", "is set by the pipeline itself"),
        ("speculative_algorithm", "is set by the pipeline itself"),
        ("quantization", "would change the states"),
        ("torchao_quantization", "would change the states"),
        ("kv_cache_dtype", "would change the states"),
        ("speculative_num_steps", "would change the states"),
        ("lora_paths", "would change the states"),
        ("dp_size", "would keep rows"),
        ("pp_size", "would keep rows"),
        ("enable_dp_attention", "would keep rows"),
        ("cuda_graph_backend_prefill", "would keep rows"),
        ("return_hidden_states_mode", "would keep rows"),
    ],
)
def test_arguments_that_are_not_the_users_are_refused(name, cause):
    request = engine_request("model", "consumers:Files", {name: 1})
    with pytest.raises(UserError, match=rf"sglang_arguments\.{name} {cause}"):
        SGLANG.check_arguments(request)


def test_other_arguments_reach_the_engine():
    own = {"mem_fraction_static": 0.5, "attention_backend": "triton", "log_level": "error"}
    request = engine_request("model", "consumers:Files", own | {"ep_size": 2}, 2, 4096)
    SGLANG.check_arguments(request)
    result = SGLANG.arguments(request, 100, Path("/folder"))
    assert own.items() <= result.items()
    assert (result["tp_size"], result["max_prefill_tokens"], result["context_length"]) == (
        2,
        4096,
        108,
    )
    assert result["return_aux_hidden_state_layer_ids"] == [1, 3, 4]


def test_documents_come_back_as_they_were_written(tmp_path):
    write_documents(tmp_path, DOCUMENTS)
    result = read_documents(tmp_path)
    assert list(result) == [9, 4, 6, 2]
    assert {number: ids.tolist() for number, ids in result.items()} == DOCUMENTS
    assert all(ids.dtype == np.int32 for ids in result.values())


JOB = """
import json, signal, sys
from eagle3.engines.separate.request import EngineRequest
from eagle3.engines.separate.run import run_separately
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a shell's `command &`
run_separately(EngineRequest(**json.loads(sys.argv[1])), {0: [5, 6, 7]}, sys.executable)
"""


@pytest.mark.parametrize("deadly", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_ends_takes_its_engine_along(targets, mark, tmp_path, deadly):
    """Whatever ends our process; the fixture looks for what is left."""
    sign = tmp_path / "sign"
    request = engine_request(targets["llama"], "consumers:Sleeping", {}, sign=str(sign))
    with subprocess.Popen([sys.executable, "-c", JOB, json.dumps(asdict(request))]) as job:
        wait_for(
            sign.exists,
            "a batch to reach the consumer",
            hopeless=lambda: None if job.poll() is None else f"the job ended with {job.returncode}",
        )
        assert len(alive(mark)) == 3  # our job, the engine's process, its scheduler
        job.send_signal(deadly)
        wait_for(lambda: job.poll() is not None, "the job to end", state=lambda: alive(mark))
    assert job.returncode != 0


def test_the_engines_process_sees_this_package_and_no_other_of_this_interpreter(
    targets, mark, tmp_path
):
    """Two versions of torch must not meet when the package is installed beside one of them."""
    script = tmp_path / "python"
    script.write_text(
        '#!/bin/sh\n(echo "$PYTHONPATH"; echo "$PATH"; ls "${PYTHONPATH%%:*}") > "$OUT"\n'
    )
    script.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUT", str(tmp_path / "seen"))
        with pytest.raises(UserError, match="no states for 4 of 4 documents"):
            run_separately(files(targets, tmp_path / "out"), DOCUMENTS, str(script))
    path, programs, listed = (tmp_path / "seen").read_text().splitlines()
    assert listed == "eagle3"
    assert programs.split(os.pathsep)[0] == str(tmp_path)  # the tools of its own environment
    assert path.split(os.pathsep)[1:] == os.environ["PYTHONPATH"].split(os.pathsep)
    assert torch.__file__.rpartition("/torch/")[0] not in path.split(os.pathsep)
