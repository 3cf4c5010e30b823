"""A server that speaks as much of the hub's protocol as reading a dataset needs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FILE = "train.parquet"
JSON = {"Content-Type": "application/json"}


class Hub(ThreadingHTTPServer):
    """Datasets of one Parquet file each; `main` of each is its last commit."""

    def __init__(self, commits: Mapping[str, Mapping[str, Path]]) -> None:
        """`commits`: repository, then commit (oldest first), to the file it has."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits = commits
        self.read: list[tuple[str, str]] = []  # repository and commit of files sent whole

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        words = self.path.partition("?")[0].strip("/").split("/")
        api = words[0] == "api"
        repository, what = "/".join(words[1 + api : 3 + api]), words[3 + api :]
        commits = self.server.commits.get(repository) if "datasets" in words[:2] else None
        wanted = what[1] if len(what) > 1 else "main"
        if commits is None or wanted not in {*commits, "main"}:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        commit = [*commits][-1] if wanted == "main" else wanted
        whole = commits[commit].read_bytes()
        entry = {"type": "file", "path": FILE, "size": len(whole), "oid": commit}
        match what:
            case [] | ["revision", _]:
                about = {"id": repository, "sha": commit, "siblings": [{"rfilename": FILE}]}
                self._send(200, json.dumps(about).encode(), JSON)
            case ["tree", _]:
                self._send(200, json.dumps([entry]).encode(), JSON)
            case ["resolve", _, name] if name == FILE:
                if self.command == "GET":
                    self.server.read.append((repository, commit))
                self._send(200, whole, {"ETag": f'"{commit}"', "X-Repo-Commit": commit})
            case _:
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, code: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
