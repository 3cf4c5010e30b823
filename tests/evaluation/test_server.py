"""The client that measures a served draft, against servers that speak the engines' protocols."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3.data.templates import Renderer
from eagle3.errors import UserError
from eagle3.evaluation import server as measured
from eagle3.evaluation.acceptance import acceptance
from eagle3.evaluation.server import RequestOptions, committed, counters, measure
from eagle3.evaluation.server_prompts import read_prompts
from eagle3.target_model.tokenizer import load_tokenizer
from tests.builders.models import save_model, save_tokenizer
from tests.builders.spec_server import SpecServer, spec_server

DRAFTS = 3
COUNTS = {3: [4, 1, 2], 4: [2, 2, 4, 4], 5: [1], 6: []}
PROMPTS = [[first, 9, 9] for first in COUNTS]
ASKING = RequestOptions(max_new_tokens=12, concurrency=2)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(measured, "SETTLED", 0.01)


@pytest.mark.parametrize("behind", [{}, {3: 1, 5: 3}])
def test_sglangs_figures_are_those_of_our_own_decoding(behind):
    """Whether or not an answer ended at a stop token with accepted drafts behind it."""
    with spec_server("sglang", COUNTS, DRAFTS, behind) as server:
        result = measure(f"{server.url}/", PROMPTS, ASKING)
    expected = acceptance(list(COUNTS.values()), DRAFTS)
    assert result["engine"] == "sglang" and result["num_speculative_tokens"] == DRAFTS
    for name in ("acceptance_length", "acceptance_length_ci95", "verify_passes"):
        assert result[name] == expected[name], name
    if not behind:
        assert result["per_position_acceptance"] == expected["per_position_acceptance"]
        assert result["accepted_histogram"] == expected["accepted_histogram"]
    assert result["new_tokens"] == sum(1 + sum(counts) for counts in COUNTS.values())
    sampling = {"max_new_tokens": 12, "temperature": 0.0, "ignore_eos": False}
    assert {b["input_ids"][0] for b in server.bodies} == set(COUNTS)
    assert all(body["sampling_params"] == sampling for body in server.bodies)


@given(
    st.lists(st.integers(1, DRAFTS + 1), min_size=1, max_size=12),
    st.integers(0, DRAFTS),
    st.booleans(),
)
def test_drafts_behind_a_stop_token_are_no_part_of_the_answer(counts, behind, stopped):
    behind = min(behind, DRAFTS + 1 - counts[-1]) if stopped else 0
    server = SpecServer("sglang", {0: counts}, DRAFTS, {0: behind} if stopped else {})
    _, reply = server.generate({"input_ids": [0]})
    result = committed(reply["meta_info"])
    assert (sum(result), len(result)) == (sum(counts), len(counts))
    assert all(1 <= count <= DRAFTS + 1 for count in result)
    if not behind:
        assert sorted(result) == sorted(counts)


@pytest.mark.parametrize("behind", [{}, {3: 1, 5: 3}])
def test_vllms_figures_of_every_pass_are_exact(behind):
    """Whether or not an answer ended at a stop token with accepted drafts behind it."""
    with spec_server("vllm", COUNTS, DRAFTS, behind, metrics="detailed") as server:
        result = measure(server.url, PROMPTS, ASKING)
    expected = acceptance(list(COUNTS.values()), DRAFTS)
    assert {name: result[name] for name in expected} == expected
    assert result["num_speculative_tokens"] == DRAFTS
    assert result["new_tokens"] == sum(1 + sum(counts) for counts in COUNTS.values())


@pytest.mark.parametrize("metrics", [None, "summary"])
def test_vllms_totals_are_those_of_our_requests_alone(metrics):
    """What stood in the counters before is not ours; what is counted late is waited for."""
    with spec_server("vllm", COUNTS, DRAFTS, metrics=metrics) as server:
        result = measure(f"{server.url}/v1", PROMPTS, ASKING)
    expected = acceptance(list(COUNTS.values()), DRAFTS)
    assert result["engine"] == "vllm" and result["num_speculative_tokens"] == DRAFTS
    for name in (
        "acceptance_length",
        "verify_passes",
        "per_position_acceptance",
        "accepted_histogram",
    ):
        assert result[name] == expected[name], name
    assert result["acceptance_length_ci95"] is None
    assert all(body["model"] == "target" for body in server.bodies)


def test_a_server_that_others_use_is_refused():
    with spec_server("vllm", COUNTS, DRAFTS) as server:
        server.post = lambda path, body, own=server.post: (
            setattr(server, "others", 1) or own(path, body)
        )
        with pytest.raises(UserError, match=r"finished 5 requests while 4 were asked"):
            measure(server.url, PROMPTS, ASKING)


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_a_server_without_speculation_is_told_how_to_start(engine):
    said = pytest.raises(UserError, match="--speculative-")
    with spec_server(engine, COUNTS, DRAFTS, speculates=False) as server, said:
        measure(server.url, PROMPTS, ASKING)


def test_other_servers_and_none_are_a_sentence():
    with spec_server("other", COUNTS, DRAFTS) as server:
        with pytest.raises(UserError, match=r"neither /server_info \(SGLang\) nor /version"):
            measure(server.url, PROMPTS, ASKING)
        gone = server.url
    with pytest.raises(UserError, match=r"/server_info: does not answer .*is it running\?"):
        measure(gone, PROMPTS, ASKING)
    with pytest.raises(UserError, match="must start with http"):
        measure("file:///etc", PROMPTS, ASKING)


def test_a_server_with_a_key_is_asked_with_that_of_the_environment(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with spec_server("sglang", COUNTS, DRAFTS) as server:
        server.key = "secret"
        with pytest.raises(UserError, match="/server_info: needs a key; set OPENAI_API_KEY"):
            measure(server.url, PROMPTS, ASKING)
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        with pytest.raises(UserError, match="refuses the key in OPENAI_API_KEY"):
            measure(server.url, PROMPTS, ASKING)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        assert measure(server.url, PROMPTS, ASKING)["prompts"] == len(PROMPTS)


def test_a_refused_prompt_is_said_with_the_servers_own_words():
    with spec_server("sglang", COUNTS, DRAFTS) as server:
        server.post = lambda path, body: (400, {"error": "prompt is too long"})
        with pytest.raises(UserError, match=r"/generate: refused with status 400.*too long"):
            measure(server.url, PROMPTS, ASKING)


def test_counters_are_read_by_name_and_summed_over_engines():
    text = SpecServer("vllm", COUNTS, DRAFTS).metrics() + "vllm:other_total 4.0\n"
    result = counters(text)
    assert result == {
        "vllm:request_success": 7.0,
        "vllm:spec_decode_num_drafts": 3.0,
        **{f"vllm:spec_decode_num_accepted_tokens_per_pos[{i}]": 5.0 for i in range(DRAFTS)},
    }


USER = [{"role": "user", "content": "w1 w2"}]
SHAPES = {
    "openai, answered": {"messages": [*USER, {"role": "assistant", "content": "w3"}]},
    "openai, open": {"messages": USER},
    "sharegpt": {"conversations": [{"from": "human", "value": "w1 w2"}]},
    "mt-bench": {"question_id": 81, "turns": ["w1 w2", "w3"]},
    "humaneval": {"task_id": "0", "prompt": "w1 w2", "canonical_solution": "w4"},
    "gsm8k": {"question": "w1 w2", "answer": "w5"},
    "alpaca": {"instruction": "w1 w2", "input": "", "output": "w3"},
}


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("target"), "llama")
    save_tokenizer(folder)
    return folder


def test_prompts_are_what_a_chat_endpoint_would_send(target, tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [*SHAPES.values(), {"nothing": 1}, "no row"]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    renderer = Renderer(load_tokenizer(target), "auto")
    prompts = read_prompts(path, renderer, 99)
    words = renderer.tokenizer.convert_ids_to_tokens(prompts[0])
    assert words == ["<|im_start|>user", "w1", "w2", "<|im_end|>", "<|im_start|>assistant"]
    assert prompts == [prompts[0]] * len(SHAPES)
    assert len(read_prompts(path, renderer, 2)) == 2
    path.write_text('{"nothing": 1}\n')
    with pytest.raises(UserError, match=r"holds no prompt .*no conversations, messages, turns"):
        read_prompts(path, renderer, 1)


def test_the_command_prints_and_writes_the_figures(target, tmp_path):
    path, out = tmp_path / "prompts.jsonl", tmp_path / "out.json"
    path.write_text(json.dumps({"prompt": "w1"}) + "\n")
    with spec_server("sglang", {3: [2, 4]}, DRAFTS) as server:
        command = [sys.executable, "-m", "workflow_scripts.measure_server", "--url", server.url]
        command += ["--target", str(target), "--prompts", str(path), "--json", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(out.read_text())
    assert json.loads(done.stdout)["acceptance_length"] == 3.0


@pytest.mark.parametrize("given", ["{", "[1]", "enable_thinking"])
def test_options_of_a_template_that_are_no_object_are_one_sentence(tmp_path, given):
    command = [sys.executable, "-m", "workflow_scripts.measure_server", "--url", "http://x"]
    command += ["--target", str(tmp_path), "--prompts", "x.jsonl", "--template-options", given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "argument --template-options: must be a JSON object, such as" in done.stderr
