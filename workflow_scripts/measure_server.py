"""Measure the acceptance of a draft that an engine serves, on a set of prompts.

python -m workflow_scripts.measure_server http://localhost:30000 --engine sglang \
    --target models/my-llama --prompts question.jsonl

Of questions with several turns only the first is asked.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

from eagle3.artifact import write_text
from eagle3.data.conversations import BadRow
from eagle3.data.prompts import Question, questions
from eagle3.data.sources import Source, read_rows
from eagle3.data.templates import Renderer
from eagle3.errors import UserError
from eagle3.serving.served import Server
from eagle3.target.files import load_tokenizer, resolve_target
from workflow_scripts import entry


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("server", help="its address, without /v1")
    args.add_argument("--engine", choices=("sglang", "vllm"), required=True)
    args.add_argument("--target", required=True, help="directory, or hub:<owner>/<name>")
    args.add_argument("--trust-remote-code", action="store_true")
    args.add_argument("--chat-template-options", type=json.loads, default={})
    args.add_argument("--prompts", required=True, help="a file; shapes: docs/evaluation.md")
    args.add_argument("--num-prompts", type=int, default=80)
    args.add_argument("--max-new-tokens", type=int, default=512)
    args.add_argument("--temperature", type=float, default=0.0)
    args.add_argument("--concurrency", type=int, default=8, help="requests at once")
    args.add_argument("--out", type=Path, help="JSON file; else it is printed")
    given = args.parse_args()
    directory = resolve_target(given.target, None, weights=False)
    tokenizer = load_tokenizer(directory, given.trust_remote_code)
    renderer = Renderer(tokenizer, "auto", given.chat_template_options)
    prompts: list[list[int]] = []
    for question in questions(read_rows(Source(given.prompts))):
        if isinstance(question, Question) and len(prompts) < given.num_prompts:
            try:
                text = renderer.prompt(question.messages, question.tools)
            except BadRow:
                continue
            prompts.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not prompts:
        raise UserError(f"{given.prompts}: no row can be a prompt; see docs/evaluation.md")
    server = Server(given.server, given.max_new_tokens, given.temperature, given.concurrency)
    figures = server.sglang(prompts) if given.engine == "sglang" else server.vllm(prompts)
    text = json.dumps({"engine": given.engine, **figures}, indent=1)
    if given.out:
        write_text(given.out, text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    entry.run(main)
