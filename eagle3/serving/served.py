"""Acceptance of a draft that is being served, from what the engine counts itself.

SGLang   every answer of /generate says how its verify passes went (`meta_info`)
vLLM     /metrics counts over the whole server, so it is read before and after some prompts, and
         nobody else may use the server meanwhile
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np

from eagle3.errors import UserError
from eagle3.serving.acceptance import acceptance, rows_acceptance

SECONDS = 600.0  # for one answer
GROUPS = 20  # of prompts, between which vLLM's counters are read: the interval resamples them
COUNTER = re.compile(
    r"^vllm:spec_decode_num_(drafts|accepted_tokens_per_pos)_total"
    r'\{(?:[^}\n]*position="(\d+)")?[^}\n]*\} (\S+)$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class Server:
    """An engine at an address such as http://localhost:30000."""

    url: str
    max_new: int
    temperature: float
    concurrency: int

    def sglang(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Figures over prompts of token ids, as `acceptance` has them, from SGLang.

        Raises UserError if the server cannot be reached or does not speculate.
        """
        sampling = {"temperature": self.temperature, "max_new_tokens": self.max_new}
        answers = self._ask(
            "/generate", [{"input_ids": list(ids), "sampling_params": sampling} for ids in prompts]
        )
        committed = []
        for answer in answers:
            histogram = answer["meta_info"].get("spec_correct_drafts_histogram")
            if histogram is None:
                raise UserError(
                    f"{self.url}: counts no verify passes; start SGLang with "
                    "--speculative-algorithm EAGLE3"
                )
            # place i: verify passes that accepted i drafts
            committed.append([i + 1 for i, n in enumerate(histogram) for _ in range(n)])
        depth = max((max(counts) - 1 for counts in committed if counts), default=0)
        return acceptance(committed, depth) | {"prompts": len(committed)}

    def vllm(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The same from vLLM, as `rows_acceptance` has them, with intervals over groups of prompts.

        Raises UserError if the server cannot be reached or does not speculate.
        """
        (model,) = json.loads(self._call("/v1/models"))["data"][:1]
        size = -(-len(prompts) // GROUPS)
        accepted, passes = [], []
        before = self._counters()
        for start in range(0, len(prompts), size):
            asked = [
                {
                    "model": model["id"],
                    "prompt": list(ids),
                    "max_tokens": self.max_new,
                    "temperature": self.temperature,
                }
                for ids in prompts[start : start + size]
            ]
            self._ask("/v1/completions", asked)
            after = self._counters()
            drafts, *positions = (after - before).tolist()
            accepted.append(positions)
            passes.append([drafts] * len(positions))
            before = after
        figures = rows_acceptance(np.array(accepted, np.int64), np.array(passes, np.int64))
        figures["verify_passes"] = figures.pop("rows")
        figures.pop("rows_at")
        return figures | {"prompts": len(prompts)}

    def _counters(self) -> np.ndarray:
        """Verify passes, and those whose first i + 1 drafts were accepted; [1 + K]"""
        drafts, positions = 0.0, dict[int, float]()
        for kind, position, value in COUNTER.findall(self._call("/metrics")):
            if kind == "drafts":
                drafts += float(value)
            else:
                positions[int(position)] = positions.get(int(position), 0.0) + float(value)
        if not positions:
            raise UserError(
                f"{self.url}: /metrics counts no drafts; start vLLM with --speculative-config"
            )
        return np.array([drafts, *(positions[i] for i in sorted(positions))])

    def _ask(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            return [json.loads(text) for text in pool.map(lambda b: self._call(path, b), bodies)]

    def _call(self, path: str, body: dict[str, Any] | None = None) -> str:
        """What the server answers. Raises UserError if it does not."""
        data = None if body is None else json.dumps(body).encode()
        address = self.url.rstrip("/") + path
        if not address.startswith(("http://", "https://")):
            raise UserError(f"{self.url} is no address of a server, such as http://localhost:30000")
        asked = Request(address, data, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urlopen(asked, timeout=SECONDS) as answer:  # noqa: S310
                return answer.read().decode()
        except HTTPError as fault:
            said = fault.read().decode(errors="replace")[:200]
            raise UserError(f"{address}: the server answers {fault.code}: {said}") from None
        except (URLError, HTTPException, OSError) as fault:
            raise UserError(f"{address}: cannot be reached ({fault})") from None
