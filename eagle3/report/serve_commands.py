"""How to serve a draft: a command for each format that an engine loads."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle3.files.hub import HUB
from eagle3.paths import Paths

ENGINES = {"sglang": "SGLang", "vllm": "vLLM", "speculators": "vLLM, speculators format"}


def serve_command(
    export_format: str,
    target: str,
    draft: str,
    draft_tokens: int,
    config: Mapping[str, Any],
    tensor_parallel: int = 1,
) -> str:
    """The shell command that serves `target` with the draft of this format in the folder `draft`.

    The speculators format itself names the target and the number of draft tokens. `config`: of the
    run. The target is split over `tensor_parallel` GPUs. Prompts should be rendered with the
    template options of the run; only vLLM takes them as a default. Raises KeyError for a format
    that no engine loads.
    """
    target, length = shlex.quote(target), draft_tokens
    template_options = config["tokens"]["chat_template_options"]
    options = json.dumps(template_options)
    trust_option = ["--trust-remote-code"] if config["target"].get("trust_remote_code") else []
    # a flag of both engines
    split = [f"--tensor-parallel-size {tensor_parallel}"] if tensor_parallel > 1 else []
    default = [f"--default-chat-template-kwargs {shlex.quote(options)}"] if template_options else []
    settings = {"method": "eagle3", "model": draft, "num_speculative_tokens": length}
    lines = {
        "sglang": [
            f"python -m sglang.launch_server --model {target}",
            *trust_option,
            *split,
            "--speculative-algorithm EAGLE3",
            f"--speculative-draft-model-path {shlex.quote(draft)}",
            f"--speculative-num-steps {length} --speculative-eagle-topk 1",
            f"--speculative-num-draft-tokens {length + 1}",
        ],
        "vllm": [
            f"vllm serve {target}",
            *trust_option,
            *split,
            f"--speculative-config {shlex.quote(json.dumps(settings))}",
            *default,
        ],
        "speculators": [f"vllm serve {shlex.quote(draft)}", *trust_option, *split, *default],
    }[export_format]
    if template_options and export_format == "sglang":
        lines[-1] += f'  # and "chat_template_kwargs": {options} in each request'
    return " \\\n    ".join(lines)


def serve_commands(
    config: Mapping[str, Any], draft_tokens: int, tensor_parallel: int = 1
) -> dict[str, str]:
    """Commands for the drafts of a run by engine; formats that no engine loads are left out.

    `config`: without `resources`, which no report depends on.
    """
    paths, model = Paths(config["run"]), config["target"]["model"]
    # quoted, a shell would not expand a home folder
    path = str(Path(model).expanduser()) if model.startswith("~") else model.removeprefix(HUB)
    target = paths.embedded_target if model == "embedded" else path
    adapter = config["target"].get("adapter")
    # engines do not merge adapters, and not all of them serve one together with a draft
    note = f"# the target with the adapter {adapter} merged into it\n" if adapter else ""
    return {
        ENGINES[name]: note
        + serve_command(
            name, target, f"{paths.drafts}/{name}", draft_tokens, config, tensor_parallel
        )
        for name in config["export"]["formats"]
        if name in ENGINES
    }
