"""The client of a served model, against HTTP servers that answer in the engines' forms."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from models import save_model, save_tokenizer

from eagle3.errors import UserError
from eagle3.serving.acceptance import acceptance
from eagle3.serving.served import Server

DEPTH = 3
# by length of the prompt: verify passes by accepted drafts
HISTOGRAMS = {1: [4, 0, 1], 2: [1], 3: [0, 0, 0, 2], 4: []}


class Engine:
    """Answers as SGLang 0.5 and vLLM 0.11 do, and counts."""

    def __init__(self, speculates=True):
        self.speculates, self.asked = speculates, []
        self.histogram = [0] * (DEPTH + 1)
        self.lock = threading.Lock()

    def reply(self, path, body):
        if path == "/generate":
            self.asked.append(body)
            meta = {"completion_tokens": 9}
            if self.speculates:
                found = HISTOGRAMS[1 + (len(body["input_ids"]) - 1) % 4]
                meta |= {"spec_verify_ct": sum(found), "spec_correct_drafts_histogram": found}
            return 200, json.dumps({"text": "", "meta_info": meta})
        if path == "/v1/models":
            return 200, json.dumps({"data": [{"id": "target"}]})
        if path == "/v1/completions" and body["model"] == "target":
            with self.lock:
                self.asked.append(body)
                for accepted, n in enumerate(HISTOGRAMS[len(body["prompt"])]):
                    self.histogram[accepted] += n
            return 200, json.dumps({"choices": [{"text": ""}]})
        if path == "/metrics":
            return 200, self.metrics() if self.speculates else "vllm:num_requests_running 0.0\n"
        return 404, "no such page"

    def metrics(self):
        passes = 7 + sum(self.histogram)  # of others, before
        label = 'engine="0",model_name="target"'
        lines = ["# HELP vllm:spec_decode_num_drafts_total Number of drafts.",
                 f"vllm:spec_decode_num_drafts_total{{{label}}} {float(passes)}",
                 f"vllm:spec_decode_num_drafts_created{{{label}}} 1.7e+09",
                 f"vllm:spec_decode_num_accepted_tokens_total{{{label}}} 5.0"]  # fmt: skip
        for position in range(DEPTH):
            value = float(5 + sum(self.histogram[position + 1 :]))
            name = "vllm:spec_decode_num_accepted_tokens_per_pos"
            lines.append(f'{name}_total{{{label},position="{position}"}} {value}')
            lines.append(f'{name}_created{{{label},position="{position}"}} 1.7e+09')
        return "\n".join(lines) + "\n"


@contextmanager
def served(engine):
    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            size = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(size)) if size else None
            status, text = engine.reply(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


PROMPTS = [[5] * length for length in (1, 2, 3, 4, 1)]
COMMITTED = [[1, 1, 1, 1, 3], [1], [4, 4], [], [1, 1, 1, 1, 3]]


def test_sglangs_histograms_are_the_counts_of_decoding():
    engine = Engine()
    with served(engine) as url:
        found = Server(url, 20, 0.0, 3).sglang(PROMPTS)
    assert found == acceptance(COMMITTED, DEPTH) | {"prompts": 5}
    assert {len(body["input_ids"]) for body in engine.asked} == {1, 2, 3, 4}
    assert engine.asked[0]["sampling_params"] == {"temperature": 0.0, "max_new_tokens": 20}


def test_vllms_counters_before_and_after_give_the_same_figures():
    with served(Engine()) as url:
        found = Server(url + "/", 20, 0.5, 2).vllm(PROMPTS)
    expected = acceptance(COMMITTED, DEPTH)
    for key in ("acceptance_length", "per_position_acceptance", "verify_passes"):
        assert found[key] == pytest.approx(expected[key]), key
    low, high = found["acceptance_length_ci95"]
    assert low < found["acceptance_length"] < high and found["prompts"] == 5


@pytest.mark.parametrize(
    ("kind", "sentence"), [("sglang", "--speculative-algorithm"), ("vllm", "--speculative-config")]
)
def test_a_server_without_speculation_is_named(kind, sentence):
    with served(Engine(speculates=False)) as url, pytest.raises(UserError, match=sentence):
        getattr(Server(url, 20, 0.0, 1), kind)(PROMPTS)


def test_a_server_that_is_not_there_or_refuses_is_a_sentence():
    with served(Engine()) as url:
        pass
    with pytest.raises(UserError, match="cannot be reached"):
        Server(url, 20, 0.0, 1).sglang(PROMPTS)
    with pytest.raises(UserError, match="is no address of a server"):
        Server("localhost", 20, 0.0, 1).vllm(PROMPTS)
    with served(Engine()) as url, pytest.raises(UserError, match=r"answers 404: no such page"):
        Server(url + "/v1", 20, 0.0, 1).sglang(PROMPTS)


def test_the_command_prints_figures_of_a_file_of_prompts(tmp_path):
    save_tokenizer(save_model(tmp_path / "target", "llama"))
    rows = [{"question": "w1"}, {"text": "no prompt"}, {"question": "w1 w2"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served(Engine()) as url:
        command = [sys.executable, "-m", "workflow_scripts.measure_server", url]
        command += ["--engine", "sglang", "--target", str(tmp_path / "target")]
        command += ["--prompts", str(tmp_path / "p.jsonl")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["engine"], found["prompts"]) == ("sglang", 2)
