"""Acceptance of a served draft as counted by the server, in the terms of `acceptance`.

SGLang returns with every answer the number of verify passes and of draft tokens that each accepted.
vLLM does so, pass by pass, if it is started with `--per-request-spec-decode-metrics detailed`; else
it keeps totals over all requests (Prometheus counters), so nobody else may send requests between
two readings.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

from eagle3.errors import UserError
from eagle3.evaluation.acceptance import acceptance
from eagle3.evaluation.http import get, post

DRAFTS = "vllm:spec_decode_num_drafts"
PER_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos"
FINISHED = "vllm:request_success"
SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*?)(?:_total)?(?:\{(.*)\})? ([^ ]+)$")
SETTLED = 0.3  # seconds between two equal readings
MAX_READINGS = 30  # readings


@dataclass(frozen=True)
class RequestOptions:
    """Options of the requests."""

    max_new_tokens: int
    temperature: float = 0.0
    ignore_eos: bool = False
    concurrency: int = 8


def measure(url: str, prompts: Sequence[Sequence[int]], options: RequestOptions) -> dict[str, Any]:
    """Acceptance over the answers to `prompts` (token ids), and throughput.

    Raises UserError if the server is of an unknown kind, does not speculate, or serves others too.
    """
    url = url.rstrip("/").removesuffix("/v1")
    engine = engine_of(url)
    started = time.monotonic()
    figures = (_sglang if engine == "sglang" else _vllm)(url, prompts, options)
    seconds = time.monotonic() - started
    return {
        "engine": engine,
        **figures,
        "prompts": len(prompts),
        "temperature": options.temperature,
        "ignore_eos": options.ignore_eos,
        "concurrency": options.concurrency,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(figures["new_tokens"] / seconds, 1),
    }


def engine_of(url: str) -> str:
    """`sglang` or `vllm`, by the page that only one of them has."""
    if get(f"{url}/server_info") is not None:
        return "sglang"
    if get(f"{url}/version") is not None:
        return "vllm"
    raise UserError(
        f"{url}: has neither /server_info (SGLang) nor /version (vLLM); give the server's own "
        "address, such as http://localhost:30000"
    )


def _in_parallel(ask: Any, prompts: Sequence[Sequence[int]], concurrency: int) -> list[Any]:
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            return list(pool.map(ask, prompts))
        finally:
            pool.shutdown(cancel_futures=True)


def _sglang(url: str, prompts: Sequence[Sequence[int]], options: RequestOptions) -> dict[str, Any]:
    sampling = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "ignore_eos": options.ignore_eos,
    }

    def ask(prompt: Sequence[int]) -> dict[str, Any]:
        body = {"input_ids": list(prompt), "sampling_params": sampling}
        return post(f"{url}/generate", body)["meta_info"]

    replies = _in_parallel(ask, prompts, options.concurrency)
    drafts = {info["spec_num_proposed_drafts"] // info["spec_verify_ct"] for info in replies if
              info.get("spec_verify_ct")}  # fmt: skip
    if not drafts:
        raise UserError(
            f"{url}: reports no verify pass; start SGLang with --speculative-algorithm EAGLE3"
        )
    figures = acceptance([committed(info) for info in replies], max(drafts))
    return {
        **figures,
        "num_speculative_tokens": max(drafts),
        "new_tokens": sum(info["completion_tokens"] for info in replies),
    }


def committed(meta_info: Mapping[str, Any]) -> list[int]:
    """Tokens that each verify pass of one answer committed, from SGLang's `meta_info`.

    In the pass that reaches a stop token, SGLang also counts the drafts after it; they are not part
    of the answer and are subtracted. SGLang does not report which pass it was, so they are taken
    from the longest: the acceptance length is right, and the histogram is off by at most one pass.
    """
    histogram = meta_info.get("spec_correct_drafts_histogram") or []
    counts = list(chain.from_iterable([n + 1] * passes for n, passes in enumerate(histogram)))
    if counts and meta_info["finish_reason"]["type"] == "stop":
        # the token of the prompt's own pass is in no verify pass
        after_stop = sum(counts) - (meta_info["completion_tokens"] - 1)
        counts[-1] -= after_stop
    return counts


def _vllm(url: str, prompts: Sequence[Sequence[int]], options: RequestOptions) -> dict[str, Any]:
    models = json.loads(get(f"{url}/v1/models") or '{"data": []}')["data"]
    if len(models) != 1:
        raise UserError(f"{url}: serves {len(models)} models; measure a server that serves one")

    def ask(prompt: Sequence[int]) -> dict[str, Any]:
        body = {
            "model": models[0]["id"],
            "prompt": list(prompt),
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
            "ignore_eos": options.ignore_eos,
        }
        return post(f"{url}/v1/completions", body)

    before = _stable_counters(url)
    replies = _in_parallel(ask, prompts, options.concurrency)
    new_tokens = sum(reply["usage"]["completion_tokens"] for reply in replies)
    counts = [committed_by_pass(reply) for reply in replies]
    if any(counts) and None not in counts:
        reported = [metrics for metrics in map(_reported, replies) if metrics is not None]
        drafts = max(metrics["num_spec_tokens"] for metrics in reported)
        figures = acceptance([count for count in counts if count is not None], drafts)
        return {**figures, "num_speculative_tokens": drafts, "new_tokens": new_tokens}
    after = _stable_counters(url)
    for name in (DRAFTS, FINISHED):
        if name not in after:
            raise UserError(
                f"{url}/metrics: has no counter {name}; start vLLM with --speculative-config and "
                "without --disable-log-stats"
            )
    increase = {name: after[name] - before.get(name, 0.0) for name in after}
    if increase[FINISHED] != len(prompts):
        raise UserError(
            f"{url}: finished {increase[FINISHED]:.0f} requests while {len(prompts)} were asked; "
            "its totals can be read only while nobody else uses it"
        )
    at_least = [increase[name] for name in sorted(_positions(increase), key=_position)]
    passes = int(increase[DRAFTS])
    reached = [passes, *(int(count) for count in at_least), 0]  # passes that accepted n or more
    totals = [n + 1 for n in range(len(at_least) + 1) for _ in range(reached[n] - reached[n + 1])]
    figures = acceptance([totals], len(at_least))
    figures["acceptance_length_ci95"] = None  # needs the counts of each prompt
    return {**figures, "num_speculative_tokens": len(at_least), "new_tokens": new_tokens}


def committed_by_pass(reply: Mapping[str, Any]) -> list[int] | None:
    """Tokens that each verify pass of one answer committed, from vLLM's completion; None if the
    server does not report its passes one by one.

    In the pass that reaches a stop token, the last one, vLLM also counts the drafts after it; they
    are not part of the answer and are subtracted.
    """
    reported, new_tokens = _reported(reply), reply["usage"]["completion_tokens"]
    if reported is None:
        return [] if new_tokens <= 1 else None  # the pass over the prompt gives the first token
    accepted = reported.get("per_step_accepted") or []
    if len(accepted) != reported["num_spec_steps"]:
        return None  # only the summary
    counts = [count + 1 for count in accepted]
    if counts and reply["choices"][0]["finish_reason"] == "stop":
        # the token of the prompt's own pass is in no verify pass
        counts[-1] -= sum(counts) - (new_tokens - 1)
    return counts


def _reported(reply: Mapping[str, Any]) -> dict[str, Any] | None:
    return (reply.get("metrics") or {}).get("speculative_decoding")


def _stable_counters(url: str) -> dict[str, float]:
    """Counters once two readings agree: the last requests are counted with a delay."""
    previous = counters(get(f"{url}/metrics") or "")
    for _ in range(MAX_READINGS):
        time.sleep(SETTLED)
        reading = counters(get(f"{url}/metrics") or "")
        if reading == previous:
            return reading
        previous = reading
    raise UserError(f"{url}/metrics: keeps changing; somebody else is using the server")


def counters(text: str) -> dict[str, float]:
    """Counters from Prometheus' text format, summed over all engines of a server; counters of draft
    positions are named `name[position]`."""
    totals: dict[str, float] = {}
    for line in text.splitlines():
        sample = SAMPLE.match(line.strip())
        if sample and sample[1] in (DRAFTS, PER_POSITION, FINISHED):
            name = sample[1]
            if name == PER_POSITION:
                position = re.search(r'position="(\d+)"', sample[2] or "")
                name = f"{name}[{position[1] if position else 0}]"
            totals[name] = totals.get(name, 0.0) + float(sample[3])
    return totals


def _positions(names: Mapping[str, float]) -> Iterator[str]:
    return (name for name in names if name.startswith(f"{PER_POSITION}["))


def _position(name: str) -> int:
    return int(name.partition("[")[2].rstrip("]"))
