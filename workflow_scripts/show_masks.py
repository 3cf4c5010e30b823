"""Show documents of a token shard with the supervised tokens in colour.

python -m workflow_scripts.show_masks results/demo/tokens/train/shard-00000.safetensors \
    --target results/demo/target
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from eagle3.errors import UserError
from eagle3.files.artifact import write_text
from eagle3.report.masks import for_browser, for_terminal
from eagle3.target_model.files import resolve_target
from eagle3.target_model.tokenizer import load_tokenizer
from eagle3.tokens.shards import read_token_shard
from workflow_scripts import ending


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("shard", type=Path)
    parser.add_argument("--target", required=True, help="directory, or hub:<owner>/<name>")
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--first", type=int, default=0, help="first document to show")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--html", type=Path, help="write a page instead of printing")
    args = parser.parse_args()
    shard = read_token_shard(args.shard)
    if not 0 <= args.first < len(shard):
        raise UserError(f"--first is {args.first}, but {args.shard} has {len(shard)} documents")
    tokenizer = load_tokenizer(
        resolve_target(args.target, None, weights=False), args.trust_remote_code
    )
    numbers = range(args.first, min(args.first + args.count, len(shard)))
    if args.html:
        write_text(args.html, for_browser(shard, numbers, tokenizer))
        return
    for number in numbers:
        sys.stdout.write(for_terminal(shard, number, tokenizer) + "\n")


if __name__ == "__main__":
    ending.run(main)
