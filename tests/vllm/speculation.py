"""Engines that speculate with a draft, and what they answer."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from tests.builders.exports import reconfigured
from tests.builders.served import NEW, PROMPTS, Served

SERVE = Path(__file__).parent / "serve.py"
# float32: in half precision the two libraries' sums part ways at near-ties
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 256,
    "kv_cache_memory_bytes": 64 << 20,
    "max_num_seqs": 4,
    "seed": 0,
}


def speculating(target: Path, draft: Path, steps: int) -> dict[str, Any]:
    """Arguments of an engine that reports every verify pass of every prompt."""
    config = {"method": "eagle3", "model": str(draft), "num_speculative_tokens": steps}
    return ENGINE | {
        "model": str(target),
        "skip_tokenizer_init": True,
        "speculative_config": config,
        "per_request_spec_decode_metrics": "detailed",
        "disable_log_stats": False,
    }


def answered(python: str, folder: Path, engines: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What each of the engines answers to `PROMPTS`, by its name."""
    request, answers = folder / "request.json", folder / "answers.json"
    request.write_text(json.dumps({"engines": engines, "prompts": PROMPTS, "new": NEW}))
    done = subprocess.run(
        [python, SERVE, request, answers], capture_output=True, text=True, check=False
    )
    assert answers.is_file(), (done.stdout + done.stderr)[-4000:]
    return json.loads(answers.read_text())


def accepted_per_pass(answers: list[dict[str, Any]]) -> float:
    """Mean of committed tokens over all passes of all prompts."""
    return float(np.mean([n + 1 for one in answers for n in one["accepted"]]))


def agree(answers: list[dict[str, Any]], made: Served, steps: int) -> list[int]:
    """Tokens, passes, the histogram and the order of accepted drafts are ours, of every prompt;
    returns the committed tokens of all passes."""
    assert isinstance(answers, list), answers
    lengths = []
    for prompt, answer, one in zip(PROMPTS, made.answers, answers, strict=True):
        ours = made.ours(prompt, steps)
        histogram = np.bincount(np.array(ours.committed) - 1, minlength=steps + 1).tolist()
        assert one["tokens"] == ours.tokens == answer
        assert [n + 1 for n in one["accepted"]] == ours.committed
        assert one["passes"] == len(ours.committed)
        assert one["histogram"] == histogram
        lengths += ours.committed
    return lengths


def damaged(
    folder: Path, export: Path, change: Callable[[dict[str, Any]], None], of_tensors: bool = False
) -> Path:
    """A copy of an export in `folder` with its config.json or its tensors changed, and nothing that
    says so."""
    shutil.copytree(export, folder)
    if not of_tensors:
        reconfigured(folder, change)
        return folder
    path = folder / "model.safetensors"
    tensors = dict(load_file(path))
    change(tensors)
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(kept, path, metadata={"format": "pt"})
    return folder


def other_residual(config: dict[str, Any]) -> None:
    config["norm_before_residual"] = not config["norm_before_residual"]
