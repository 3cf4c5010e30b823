"""A proxy in front of object storage that delays, counts and, on request, corrupts responses."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Spoil = Callable[[bytes], bytes | int]  # an answer's body -> the body to send, or another status


class ObjectProxy:
    """Forwards to `upstream` (http://host:port) from a free port; use it as a context."""

    def __init__(self, upstream: str, latency: float = 0.0) -> None:
        self.latency, self.spoil = latency, list[Spoil]()  # one for each of the next range reads
        self.hold: threading.Event | None = None  # range reads wait for it
        self.running = self.most = self.ranges = 0
        self._lock = threading.Lock()
        host = urlsplit(upstream).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                """Log nothing."""

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                ranged = self.command == "GET" and "Range" in self.headers
                if ranged:
                    proxy.entered()
                time.sleep(proxy.latency)
                connection = http.client.HTTPConnection(host)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                status, data = answer.status, answer.read()
                headers = dict(answer.getheaders())
                connection.close()
                if self.command != "HEAD":
                    headers["Content-Length"] = str(len(data))
                if ranged:
                    result = proxy.spoiled(data)
                    if isinstance(result, int):
                        status, data, headers = result, b"", {"Content-Length": "0"}
                    else:
                        data = result
                    proxy.left()
                self.close_connection = len(data) < int(headers.get("Content-Length", 0))
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("connection", "transfer-encoding"):
                        self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def entered(self) -> None:
        """Count a range read, and block it until `hold`, if any, is set."""
        with self._lock:
            self.ranges += 1
            self.running += 1
            self.most = max(self.most, self.running)
        if self.hold is not None:
            self.hold.wait()

    def left(self) -> None:
        with self._lock:
            self.running -= 1

    def spoiled(self, data: bytes) -> bytes | int:
        with self._lock:
            spoil = self.spoil.pop(0) if self.spoil else None
        return data if spoil is None else spoil(data)

    def __enter__(self) -> ObjectProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.hold is not None:
            self.hold.set()
        self._server.shutdown()
        self._server.server_close()
