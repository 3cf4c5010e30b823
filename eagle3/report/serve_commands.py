"""How to serve a draft: a command for each format that an engine loads."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from eagle3.files.hub import HUB
from eagle3.paths import Paths

ENGINES = {"sglang": "SGLang", "vllm": "vLLM", "speculators": "vLLM, speculators format"}


def serve_command(export_format: str, target: str, draft: str, draft_tokens: int) -> str:
    """The shell command that serves `target` with the draft of this format in the folder `draft`.

    The speculators format holds its target and the number of draft tokens itself. Raises KeyError
    for a format of no engine.
    """
    target, length = shlex.quote(target), draft_tokens
    settings = {"method": "eagle3", "model": draft, "num_speculative_tokens": length}
    lines = {
        "sglang": [
            f"python -m sglang.launch_server --model {target}",
            "--speculative-algorithm EAGLE3",
            f"--speculative-draft-model-path {shlex.quote(draft)}",
            f"--speculative-num-steps {length} --speculative-eagle-topk 1",
            f"--speculative-num-draft-tokens {length + 1}",
        ],
        "vllm": [
            f"vllm serve {target}",
            f"--speculative-config {shlex.quote(json.dumps(settings))}",
        ],
        "speculators": [f"vllm serve {shlex.quote(draft)}"],
    }[export_format]
    return " \\\n    ".join(lines)


def serve_commands(config: Mapping[str, Any], draft_tokens: int) -> dict[str, str]:
    """Commands for the drafts of a run by the engine's name, none for a format of no engine."""
    paths, model = Paths(config["run"]), config["target"]["model"]
    target = paths.embedded_target if model == "embedded" else model.removeprefix(HUB)
    adapter = config["target"].get("adapter")
    # engines merge no adapter at loading, and not every one takes it beside a draft
    before = f"# the target with the adapter {adapter} merged into it\n" if adapter else ""
    return {
        ENGINES[name]: before + serve_command(name, target, f"{paths.drafts}/{name}", draft_tokens)
        for name in config["export"]["formats"]
        if name in ENGINES
    }
