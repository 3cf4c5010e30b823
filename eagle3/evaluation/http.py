"""JSON and text over HTTP, with one-sentence errors. A key is read from OPENAI_API_KEY."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import httpx2

from eagle3.errors import UserError

SECONDS = 600.0  # for one answer


def get(url: str) -> str | None:
    """The body, or None if the server has no such page. Raises UserError if it does not answer."""
    reply = _reply("GET", url)
    return reply.text if reply.is_success else None


def post(url: str, body: dict[str, Any]) -> Any:
    """The server's reply to a JSON body. Raises UserError if it refuses or does not answer."""
    reply = _reply("POST", url, body)
    if not reply.is_success:
        raise UserError(f"{url}: refused with status {reply.status_code}: {reply.text[:500]}")
    try:
        return reply.json()
    except ValueError as fault:
        raise UserError(f"{url}: did not answer with JSON ({fault})") from None


def _reply(method: str, url: str, body: dict[str, Any] | None = None) -> httpx2.Response:
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        reply = _client().request(method, url, json=body, headers=headers)
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL):
        raise UserError(f"--url: {url} must start with http:// or https://") from None
    except httpx2.HTTPError as fault:
        raise UserError(f"{url}: does not answer ({fault}); is it running?") from None
    if reply.status_code in (401, 403):
        problem = "refuses the key in OPENAI_API_KEY" if key else "needs a key; set OPENAI_API_KEY"
        raise UserError(f"{url}: {problem}")
    return reply


@cache
def _client() -> httpx2.Client:
    """One client for all threads, with a connection for each request: a server may close a
    kept-alive connection at the moment of its reuse."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx2.Client(timeout=SECONDS, limits=limits, follow_redirects=True)
