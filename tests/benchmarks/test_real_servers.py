"""Servers that `make real` starts and asks: what they stream, and that they never outlive it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import yaml

from benchmarks.real import pipeline
from benchmarks.real.client import answers
from benchmarks.real.engines import Engine, held, serving
from eagle3.errors import UserError
from tests.builders.processes import living
from tests.builders.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
# an engine: a process with a child, as both have; it answers /health
ENGINE = """
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"up")

subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", "{mark}"])
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def engine(tmp_path):
    """An interpreter that starts the engine above whatever it is asked to."""
    script, python = tmp_path / f"engine-{tmp_path.name}.py", tmp_path / "python"
    script.write_text(ENGINE.format(mark=tmp_path))
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    python.chmod(0o755)
    return Engine("vllm", python)


def processes(mark: Path) -> list[psutil.Process]:
    """Those of the engine in this folder."""
    every = psutil.process_iter(["cmdline"])
    return [p for p in living(every) if any(str(mark) in w for w in p.info["cmdline"] or ())]


def test_a_server_and_its_children_end_with_the_context(engine, tmp_path):
    with serving(engine, tmp_path, tmp_path / "log") as server:
        assert server.alive and len(processes(tmp_path)) == 2
        assert server.cpu_seconds() > 0
    wait_for(lambda: not processes(tmp_path), "both to be gone")
    assert "--port" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_server_ends_with_the_process_that_started_it(engine, tmp_path, number):
    script = f"""
import signal, time
from pathlib import Path
from benchmarks.real.engines import Engine, held, serving
folder = Path({str(tmp_path)!r})
with held(folder), serving(Engine("vllm", folder / "python"), folder, folder / "log"):
    (folder / "up").touch()
    time.sleep(1000)
"""
    owner = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    wait_for((tmp_path / "up").exists, "the server", hopeless=owner.poll)
    busy = pytest.raises(UserError, match="another call is still at work")
    with busy, held(tmp_path, patience=0):
        pass
    owner.send_signal(getattr(__import__("signal"), number))
    owner.wait()
    wait_for(lambda: not [p for p in processes(tmp_path) if p.pid != owner.pid], "all to be gone")
    with held(tmp_path):
        pass


def test_a_server_that_does_not_start_is_shown(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such option >&2; exit 2\n")
    python.chmod(0o755)
    with (
        pytest.raises(UserError, match=r"(?s)did not start .*no such option"),
        serving(Engine("sglang", python), tmp_path, tmp_path / "log"),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"nowhere/python is missing: `make real`"),
        serving(Engine("vllm", Path("nowhere/python")), tmp_path, tmp_path / "log"),
    ):
        pass


@contextmanager
def streaming(events):
    """A server that streams these events to every request; its address and the bodies it got."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "the-target"}]}')

        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if events else 503)
            self.end_headers()
            for event in events:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n" if events else b"busy")

        def log_message(self, *_args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", bodies
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


VLLM = [
    {"choices": [{"token_ids": [5]}]},
    {"choices": [{"token_ids": [6, 7]}]},
    {"choices": [{"token_ids": None}]},
    {"choices": [], "usage": {}},
]
SGLANG = [
    {"output_ids": [5], "meta_info": {"completion_tokens": 1}},
    {"output_ids": [5, 6, 7], "meta_info": {"completion_tokens": 3, "spec_verify_ct": 1}},
]
SGLANG_NEW_ONLY = [SGLANG[0], {**SGLANG[1], "output_ids": [6, 7]}]


@pytest.mark.parametrize(
    ("kind", "events", "passes"),
    [("vllm", VLLM, None), ("sglang", SGLANG, 1), ("sglang", SGLANG_NEW_ONLY, 1)],
)
def test_streamed_tokens_are_put_together(kind, events, passes):
    with streaming(events) as (url, bodies):
        result, seconds = answers(url, kind, [[1], [2, 3]], 8, 2)
    assert [answer.tokens for answer in result] == [[5, 6, 7]] * 2
    assert [answer.passes for answer in result] == [passes] * 2
    assert all(0 < answer.first <= answer.last <= seconds for answer in result)
    prompts = [body.get("prompt", body.get("input_ids")) for body in bodies]
    assert sorted(prompts) == [[1], [2, 3]]


def test_a_server_that_refuses_is_named():
    with streaming([]) as (url, _), pytest.raises(UserError, match="refused with status 503: busy"):
        answers(url, "sglang", [[1]], 8, 1)
    with streaming([{"error": "overflow"}]) as (url, _), pytest.raises(UserError, match="overflow"):
        answers(url, "vllm", [[1]], 8, 1)
    with pytest.raises(UserError, match="stopped answering"):
        answers("http://127.0.0.1:9", "sglang", [[1]], 8, 1)


@pytest.mark.parametrize(("deaths", "starts"), [(0, 1), (2, 3), (3, None)])
def test_a_server_that_dies_is_started_again(engine, tmp_path, monkeypatch, deaths, starts):
    """The pipeline fails when its server is gone, and is called again with the next one."""
    urls = []

    def call(work, goal, servers, concurrency, cores, lock):
        urls.extend(servers)
        if len(urls) > deaths:
            return 0
        leader = next(p for p in processes(tmp_path) if "--port" in p.cmdline())
        leader.kill()
        wait_for(lambda: not living([leader]), "its end")
        return 1

    monkeypatch.setattr(pipeline, "call", call)
    if starts is None:
        with pytest.raises(UserError, match="died 3 times; the answers so far are kept"):
            pipeline.answer(engine, tmp_path, tmp_path, 4, 1, 0)
    else:
        assert pipeline.answer(engine, tmp_path, tmp_path, 4, 1, 0)["starts"] == starts
    assert len(set(urls)) == len(urls)


def test_a_pipeline_that_fails_beside_a_living_server_is_not_repeated(
    engine, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(pipeline, "call", lambda *arguments: calls.append(arguments) or 1)
    with pytest.raises(UserError, match="failed; its own message is above"):
        pipeline.answer(engine, tmp_path, tmp_path, 4, 1, 0)
    assert len(calls) == 1


def test_the_pipelines_configuration_names_what_was_made(tmp_path):
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    for name in ("train", "talk", "problems"):
        (prompts / f"{name}.jsonl").touch()
    overlay = {"run": "r", "target": {"dtype": "float32"}, "evaluation": {"num_prompts": 3}}
    pipeline.write_config(tmp_path / "work", overlay, tmp_path / "target", prompts)
    written = yaml.safe_load((tmp_path / "work" / pipeline.CONFIG).read_text())
    assert written["target"] == {"dtype": "float32", "model": str(tmp_path / "target")}
    assert written["dataset"]["source"] == str(prompts / "train.jsonl")
    sets = written["evaluation"]["prompts"]
    assert [entry["name"] for entry in sets] == ["problems", "talk"]
    assert overlay["evaluation"] == {"num_prompts": 3}
