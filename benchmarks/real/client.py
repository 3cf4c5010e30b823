"""Streamed answers of a server, token by token, with the times at which they came."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import httpx2

from eagle3.errors import UserError

SECONDS = 600.0  # for one answer


@dataclass(frozen=True)
class Answer:
    """Token ids, and seconds from the request to the first and to the last of them."""

    tokens: list[int]
    first: float
    last: float
    passes: int | None = None  # verify passes, where the server counts them by request

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def answers(
    url: str, kind: str, prompts: Sequence[Sequence[int]], most: int, concurrency: int
) -> tuple[list[Answer], float]:
    """Greedy answers of at most `most` tokens, in the order of the prompts, and the seconds that
    all of them took. `kind`: `vllm` or `sglang`.

    Raises UserError if the server refuses or goes away.
    """
    client = httpx2.Client(timeout=SECONDS)
    try:
        ask = _sglang if kind == "sglang" else partial(_vllm, _model(client, url))
        started = time.monotonic()
        with ThreadPoolExecutor(concurrency) as pool:
            result = list(pool.map(lambda prompt: ask(client, url, prompt, most), prompts))
        return result, time.monotonic() - started
    except httpx2.HTTPError as fault:
        raise UserError(f"{url}: stopped answering ({fault})") from None
    finally:
        client.close()


def _vllm(model: str, client: httpx2.Client, url: str, prompt: Sequence[int], most: int) -> Answer:
    body = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": most,
        "temperature": 0.0,
        "stream": True,
        "return_token_ids": True,
    }
    tokens: list[int] = []
    started, first, last = time.monotonic(), 0.0, 0.0
    for event in _events(client, f"{url}/v1/completions", body):
        for choice in event.get("choices", ()):
            new = choice.get("token_ids") or ()
            if new:
                last = time.monotonic() - started
                first = first or last
                tokens += new
    return Answer(tokens, first, last)


def _sglang(client: httpx2.Client, url: str, prompt: Sequence[int], most: int) -> Answer:
    sampling = {"max_new_tokens": most, "temperature": 0.0}
    body = {"input_ids": list(prompt), "sampling_params": sampling, "stream": True}
    tokens: list[int] = []
    passes: int | None = None
    started, first, last = time.monotonic(), 0.0, 0.0
    for event in _events(client, f"{url}/generate", body):
        new = event.get("output_ids") or []
        if new:
            last = time.monotonic() - started
            first = first or last
            # older versions send all tokens so far, newer ones those that are new
            whole = len(new) == event["meta_info"]["completion_tokens"]
            tokens = list(new) if whole else [*tokens, *new]
        passes = event["meta_info"].get("spec_verify_ct", passes)
    return Answer(tokens, first, last, passes)


def _model(client: httpx2.Client, url: str) -> str:
    return client.get(f"{url}/v1/models").json()["data"][0]["id"]


def _events(client: httpx2.Client, url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a stream, as server-sent events carry them."""
    with client.stream("POST", url, json=body) as reply:
        if not reply.is_success:
            reply.read()
            raise UserError(f"{url}: refused with status {reply.status_code}: {reply.text[:500]}")
        for line in reply.iter_lines():
            if (
                line.startswith("data:")
                and (text := line.removeprefix("data:").strip()) != "[DONE]"
            ):
                event = json.loads(text)
                if "error" in event:
                    raise UserError(f"{url}: {event['error']}")
                yield event
