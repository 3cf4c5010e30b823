"""Measure acceptance on a running SGLang or vLLM server.

eagle3 serve-check --url http://gpu-3:30000 --target models/my-llama --prompts mt_bench.jsonl
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from eagle3.data.templates import Renderer
from eagle3.errors import UserError
from eagle3.evaluation.server import RequestOptions, measure
from eagle3.evaluation.server_prompts import read_prompts
from eagle3.files.artifact import write_text
from eagle3.target_model.files import resolve_target
from eagle3.target_model.tokenizer import load_tokenizer
from workflow_scripts import ending


def main() -> None:
    parser = ArgumentParser(
        prog="eagle3 serve-check", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--url", required=True, help="address of the server, such as http://localhost:30000"
    )
    parser.add_argument("--target", required=True, help="directory, or hub:<owner>/<name>")
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--prompts", type=Path, required=True, help=".jsonl, .json or .parquet")
    parser.add_argument("--num-prompts", type=int, default=80)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument(
        "--ignore-eos", action="store_true", help="do not end answers at a stop token"
    )
    parser.add_argument("--concurrency", type=int, default=8, help="simultaneous requests")
    parser.add_argument("--system-prompt", help="system message of prompts without one")
    parser.add_argument(
        "--template-options",
        type=_object,
        default={},
        help='JSON for the chat template, such as {"enable_thinking": false}',
    )
    parser.add_argument("--json", type=Path, help="file to which the figures are written too")
    args = parser.parse_args()
    for name in ("num_prompts", "max_new_tokens", "concurrency"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    folder = resolve_target(args.target, None, weights=False)
    renderer = Renderer(
        load_tokenizer(folder, args.trust_remote_code),
        "auto",
        args.template_options,
        system_prompt=args.system_prompt,
    )
    prompts = read_prompts(args.prompts, renderer, args.num_prompts)
    options = RequestOptions(
        args.max_new_tokens, args.temperature, args.ignore_eos, args.concurrency
    )
    figures = json.dumps(measure(args.url, prompts, options), indent=1) + "\n"
    sys.stdout.write(figures)
    if args.json:
        write_text(args.json, figures)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ArgumentTypeError('must be a JSON object, such as {"enable_thinking": false}')
    return value


if __name__ == "__main__":
    ending.run(main)
