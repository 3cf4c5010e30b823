"""How to serve a draft: one command for each form that it was exported in."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence


def commands(formats: Sequence[str], target: str, folder: str, draft_tokens: int) -> dict[str, str]:
    """Shell commands by the engine's name. `folder` has the draft in a subfolder per format."""
    target, every = shlex.quote(target), {}
    if "sglang" in formats:
        every["SGLang"] = [
            f"python -m sglang.launch_server --model {target}",
            "--speculative-algorithm EAGLE3",
            f"--speculative-draft-model-path {shlex.quote(f'{folder}/sglang')}",
            f"--speculative-num-steps {draft_tokens} --speculative-eagle-topk 1",
            f"--speculative-num-draft-tokens {draft_tokens + 1}",
        ]
    if "vllm" in formats:
        draft = {
            "method": "eagle3",
            "model": f"{folder}/vllm",
            "num_speculative_tokens": draft_tokens,
        }
        every["vLLM"] = [
            f"vllm serve {target}",
            f"--speculative-config {shlex.quote(json.dumps(draft))}",
        ]
    return {engine: " \\\n    ".join(lines) for engine, lines in every.items()}
