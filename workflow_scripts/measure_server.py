"""Measure acceptance at a running SGLang or vLLM server.

python -m workflow_scripts.measure_server --url http://localhost:30000 \
    --target models/my-llama --prompts mt_bench.jsonl
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path

from eagle3.artifact import write_text
from eagle3.data.templates import Renderer
from eagle3.errors import UserError
from eagle3.serving.asked import read_prompts
from eagle3.serving.measured import Asking, measure
from eagle3.target.files import resolve_target
from eagle3.target.tokenizer import load_tokenizer
from workflow_scripts import ending


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument(
        "--url", required=True, help="address of the server, such as http://localhost:30000"
    )
    args.add_argument("--target", required=True, help="directory, or hub:<owner>/<name>")
    args.add_argument("--trust-remote-code", action="store_true")
    args.add_argument("--prompts", type=Path, required=True, help=".jsonl, .json or .parquet")
    args.add_argument("--num-prompts", type=int, default=80)
    args.add_argument("--max-new-tokens", type=int, default=256)
    args.add_argument("--temperature", type=float, default=0.0)
    args.add_argument(
        "--ignore-eos", action="store_true", help="do not end answers at a stop token"
    )
    args.add_argument("--concurrency", type=int, default=8, help="simultaneous requests")
    args.add_argument("--system-prompt", help="system message of prompts without one")
    args.add_argument(
        "--template-options",
        type=json.loads,
        default={},
        help='JSON for the chat template, such as {"enable_thinking": false}',
    )
    args.add_argument("--json", type=Path, help="file to which the figures are written too")
    given = args.parse_args()
    for name in ("num_prompts", "max_new_tokens", "concurrency"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    folder = resolve_target(given.target, None, weights=False)
    renderer = Renderer(
        load_tokenizer(folder, given.trust_remote_code),
        "auto",
        given.template_options,
        system_prompt=given.system_prompt,
    )
    prompts = read_prompts(given.prompts, renderer, given.num_prompts)
    asking = Asking(given.max_new_tokens, given.temperature, given.ignore_eos, given.concurrency)
    found = json.dumps(measure(given.url, prompts, asking), indent=1) + "\n"
    sys.stdout.write(found)
    if given.json:
        write_text(given.json, found)


if __name__ == "__main__":
    ending.run(main)
