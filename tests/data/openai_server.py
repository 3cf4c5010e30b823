"""A real HTTP server that speaks OpenAI's protocol, with the faults that servers have."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeServer:
    """Answers `<last question> answered`; words in the question ask for faults:

    busy, broken: status 429 or 500 at the first try; hangs up: no reply at the first try; never:
    status 503 always; refuses: status 400; cut: ended by max_tokens; empty: no text; half: half a
    character; slow; waits for: <question>, which may be of another conversation.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.tries: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = ""
        self.models = ["target"]

    def reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Status and body; None to hang up."""
        question = body["messages"][-1]["content"]
        with self.lock:
            self.requests.append(body)
            self.tries[json.dumps(body["messages"])] += 1
            first = self.tries[json.dumps(body["messages"])] == 1
        if "slow" in question:
            time.sleep(0.05)
        if "waits for: " in question:
            self._wait_for(question.partition("waits for: ")[2])
        for word, status in (("busy", 429), ("broken", 500)):
            if word in question and first:
                return status, {"error": {"message": word}}
        if "hangs up" in question and first:
            return None
        if "never" in question:
            return 503, {"error": {"message": "never"}}
        if "refuses" in question:
            return 400, {"error": {"message": "too long"}}
        content = "" if "empty" in question else f"{question} answered"
        content += "\ud800" * ("half" in question)
        message = {"role": "assistant", "content": content}
        if "thinks" in question:
            message["reasoning_content"] = "Hm."
        reason = "length" if "cut" in question else "stop"
        return 200, {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        }

    def _wait_for(self, question: str) -> None:
        """Until somebody has asked it, for at most 20 seconds."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with self.lock:
                if any(body["messages"][-1]["content"] == question for body in self.requests):
                    return
            time.sleep(0.01)


@contextmanager
def running() -> Iterator[FakeServer]:
    """A server on a port of its own, until the end of the block."""
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": m} for m in fake.models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with fake.lock:
                fake.at_once += 1
                fake.most_at_once = max(fake.most_at_once, fake.at_once)
            try:
                result = fake.reply(body)
            finally:
                with fake.lock:
                    fake.at_once -= 1
            if result is None:
                self.close_connection = True
                self.connection.close()
                return
            self._send(*result)

        def _send(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("retry-after-ms", "5")  # which the client obeys
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
