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
) -> str:
    """The shell command that serves `target` with the draft of this format in the folder `draft`.

    The speculators format holds its target and the number of draft tokens itself. `config`: of the
    run. The target is split over as many GPUs as it was for its capture. Prompts should be rendered
    with the template options of the run, and only vLLM takes them as a default. Raises KeyError for
    a format of no engine.
    """
    target, length = shlex.quote(target), draft_tokens
    template_options = config["tokens"]["chat_template_options"]
    options = json.dumps(template_options)
    trusted = ["--trust-remote-code"] if config["target"].get("trust_remote_code") else []
    ranks = config["resources"]["capture"]["tensor_parallel"]
    split = [f"--tensor-parallel-size {ranks}"] if ranks > 1 else []  # a flag of both engines
    default = [f"--default-chat-template-kwargs {shlex.quote(options)}"] if template_options else []
    settings = {"method": "eagle3", "model": draft, "num_speculative_tokens": length}
    lines = {
        "sglang": [
            f"python -m sglang.launch_server --model {target}",
            *trusted,
            *split,
            "--speculative-algorithm EAGLE3",
            f"--speculative-draft-model-path {shlex.quote(draft)}",
            f"--speculative-num-steps {length} --speculative-eagle-topk 1",
            f"--speculative-num-draft-tokens {length + 1}",
        ],
        "vllm": [
            f"vllm serve {target}",
            *trusted,
            *split,
            f"--speculative-config {shlex.quote(json.dumps(settings))}",
            *default,
        ],
        "speculators": [f"vllm serve {shlex.quote(draft)}", *trusted, *split, *default],
    }[export_format]
    if template_options and export_format == "sglang":
        lines[-1] += f'  # and "chat_template_kwargs": {options} in each request'
    return " \\\n    ".join(lines)


def serve_commands(config: Mapping[str, Any], draft_tokens: int) -> dict[str, str]:
    """Commands for the drafts of a run by the engine's name, none for a format of no engine."""
    paths, model = Paths(config["run"]), config["target"]["model"]
    # quoted, a shell would not expand a home folder
    local = str(Path(model).expanduser()) if model.startswith("~") else model.removeprefix(HUB)
    target = paths.embedded_target if model == "embedded" else local
    adapter = config["target"].get("adapter")
    # engines merge no adapter at loading, and not every one takes it beside a draft
    before = f"# the target with the adapter {adapter} merged into it\n" if adapter else ""
    return {
        ENGINES[name]: before
        + serve_command(name, target, f"{paths.drafts}/{name}", draft_tokens, config)
        for name in config["export"]["formats"]
        if name in ENGINES
    }
