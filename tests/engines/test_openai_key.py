"""The key of a server stays out of logs and sentences, even if the server sends it back."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from eagle3.config.dataset import Regenerate
from eagle3.data.answer_record import Request
from eagle3.engines.openai_answers import OpenAIEngine
from eagle3.errors import UserError

KEY = "sk-not-to-be-seen"


class Echo(BaseHTTPRequestHandler):
    """Refuses everything, and says with which key it was asked."""

    def _refuse(self, code: int) -> None:
        body = json.dumps({"error": {"message": f"no: {self.headers['Authorization']}"}}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._refuse(401)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._refuse(400)

    def log_message(self, *_: object) -> None:
        return


def test_a_key_that_a_server_sends_back_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = HTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = [f"http://127.0.0.1:{server.server_port}/v1"]
    sampling = Regenerate(temperature=0.0, top_p=1.0, top_k=None, max_tokens=4, seed=0)
    try:
        with pytest.raises(UserError, match=r"no: Bearer \[key\]") as said:
            OpenAIEngine(address, None, 1, sampling)
        engine = OpenAIEngine(address, "a model", 1, sampling)
        [(_, answer)] = engine([Request("row", [{"role": "user", "content": "Hi"}], None, 0)])
    finally:
        server.shutdown()
        server.server_close()
    assert answer.cause == "the server refuses the conversation"
    assert "no: Bearer [key]" in caplog.text
    assert KEY not in caplog.text + str(said.value)
