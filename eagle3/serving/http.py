"""JSON and text over HTTP, with a server's faults put into one sentence."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from eagle3.errors import UserError

SECONDS = 600.0  # for one answer


def get(url: str) -> str | None:
    """The body, or None where the server has no such page. Raises UserError if it is not there."""
    try:
        return _body(Request(url))  # noqa: S310 - `_body` looks at the scheme
    except HTTPError:
        return None


def post(url: str, body: dict[str, Any]) -> Any:
    """What the server says to a JSON body. Raises UserError if it says no, or nothing."""
    data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
    asked = Request(url, data, kind)  # noqa: S310 - `_body` looks at the scheme
    try:
        return json.loads(_body(asked))
    except HTTPError as fault:
        said = fault.read(500).decode(errors="replace")
        raise UserError(f"{url}: refused with status {fault.code}: {said}") from None
    except ValueError as fault:
        raise UserError(f"{url}: answered with something else than JSON ({fault})") from None


def _body(asked: Request) -> str:
    if not asked.full_url.startswith(("http://", "https://")):
        raise UserError(f"--url: {asked.full_url} must start with http:// or https://")
    try:
        with urlopen(asked, timeout=SECONDS) as reply:  # noqa: S310 - checked above
            return reply.read().decode()
    except HTTPError:
        raise
    except (URLError, HTTPException, OSError) as fault:
        reason = getattr(fault, "reason", fault)
        raise UserError(f"{asked.full_url}: does not answer ({reason}); is it running?") from None
