"""A real HTTP server that speaks what SGLang and vLLM say of speculation, over counts that a test
gives: of each prompt the tokens that its verify passes committed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


class SpecServer:
    """`committed[first token of the prompt]`: counts of one answer; `behind`: drafts accepted
    behind its stop token, which engines count; `metrics`: what vLLM reports with every answer,
    "detailed" or "summary"."""

    def __init__(
        self, engine, committed, drafts, behind=None, speculates=True, metrics=None
    ) -> None:
        self.engine, self.committed, self.drafts = engine, committed, drafts
        self.behind, self.speculates = behind or {}, speculates
        self.of_answers = metrics
        self.key: str | None = None  # that requests must have
        self.bodies: list[dict[str, Any]] = []
        self.done = [7, 0, np.array([5.0] * drafts)]  # requests, passes, accepted by position
        self.late: list[list[int]] = []  # answers that the counters do not have yet
        self.others = 0
        self.lock = threading.Lock()
        self.url = ""

    def passes(self, prompt):
        """Counts as the engine has them."""
        counts = list(self.committed[prompt[0]])
        if counts:
            counts[-1] += self.behind.get(prompt[0], 0)
        return counts

    def post(self, path, body):
        with self.lock:
            self.bodies.append(body)
        if path == "/generate" and self.engine == "sglang":
            return self.generate(body)
        if path == "/v1/completions" and self.engine == "vllm":
            counts = self.passes(body["prompt"])
            with self.lock:
                self.late.append(counts)
            tokens = 1 + sum(self.committed[body["prompt"][0]])
            reason = "stop" if body["prompt"][0] in self.behind else "length"
            reply = {
                "choices": [{"finish_reason": reason}],
                "usage": {"completion_tokens": tokens},
            }
            return 200, reply | self.reported(counts)
        return 404, {"error": "no such page"}

    def reported(self, counts):
        """vLLM's metrics of one answer; none of an answer without a verify pass."""
        if self.of_answers is None or not counts:
            return {"metrics": None}
        own = {
            "num_spec_tokens": self.drafts,
            "num_spec_steps": len(counts),
            "acceptance_histogram": np.bincount(np.array(counts) - 1).tolist(),
        }
        if self.of_answers == "detailed":
            own["per_step_accepted"] = [count - 1 for count in counts]
        return {"metrics": {"speculative_decoding": own}}

    def generate(self, body):
        first = body["input_ids"][0]
        counts, kept = self.passes(body["input_ids"]), self.committed[first]
        info: dict[str, Any] = {
            "completion_tokens": 1 + sum(kept),
            "finish_reason": {"type": "stop" if first in self.behind else "length"},
        }
        if counts and self.speculates:
            histogram = np.bincount(np.array(counts) - 1).tolist()
            info |= {
                "spec_verify_ct": len(counts),
                "spec_num_proposed_drafts": len(counts) * self.drafts,
                "spec_num_correct_drafts": sum(counts) - len(counts),
                "spec_correct_drafts_histogram": histogram,
            }
        return 200, {"output_ids": [], "meta_info": info}

    def get(self, path):
        if path == "/server_info" and self.engine == "sglang":
            return "{}"
        if path == "/version" and self.engine == "vllm":
            return '{"version": "0.22.0"}'
        if path == "/v1/models" and self.engine == "vllm":
            return json.dumps({"data": [{"id": "target"}]})
        if path == "/metrics" and self.engine == "vllm":
            return self.metrics()
        return None

    def metrics(self):
        """As the Prometheus client writes it: two engines, and one more answer at every look."""
        with self.lock:
            if self.late:
                counts = np.array(self.late.pop(0))
                self.done[0] += 1
                self.done[1] += len(counts)
                self.done[2] += [(counts >= i + 2).sum() for i in range(self.drafts)]
            elif self.others:
                self.done[0] += self.others
                self.others = 0
        lines = ["# HELP vllm:request_success_total Count", "# TYPE vllm:request_success counter"]
        for reason, count in (("stop", 2), ("length", self.done[0] - 2)):
            label = f'engine="0",finished_reason="{reason}",model_name="target"'
            lines.append(f"vllm:request_success_total{{{label}}} {float(count)}")
        if self.speculates:
            label = 'engine="{}",model_name="target"'
            drafts = "vllm:spec_decode_num_drafts"
            lines.append(f"{drafts}_total{{{label.format(0)}}} {float(self.done[1])}")
            lines.append(f"{drafts}_total{{{label.format(1)}}} 3.0")
            lines.append(f"{drafts}_created{{{label.format(0)}}} 1.7e+09")
            for i, count in enumerate(self.done[2]):
                place = f'{label.format(0)},position="{i}"'
                name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
                lines.append(f"{name}{{{place}}} {float(count)}")
        return "\n".join(lines) + "\n"


@contextmanager
def spec_server(*args, **named) -> Iterator[SpecServer]:
    server = SpecServer(*args, **named)

    class Handler(BaseHTTPRequestHandler):
        def say(self, status, text):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def locked(self):
            if server.key is None or self.headers["Authorization"] == f"Bearer {server.key}":
                return False
            self.say(401, json.dumps({"error": "Unauthorized"}))
            return True

        def do_GET(self):
            if self.locked():
                return
            text = server.get(self.path)
            self.say(404 if text is None else 200, text or "")

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            if self.locked():
                return
            status, body = server.post(self.path, request)
            self.say(status, json.dumps(body))

        def log_message(self, *_args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
