"""Show documents of a token shard with what is supervised in colour.

python -m workflow_scripts.show_masks results/demo/tokens/train/shard-00000.safetensors \
    --target results/demo/target
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from eagle3.artifact import write_text
from eagle3.errors import UserError
from eagle3.report.masks import for_browser, for_terminal
from eagle3.target.files import resolve_target
from eagle3.target.tokenizer import load_tokenizer
from eagle3.tokens.shards import read_token_shard
from workflow_scripts import ending


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("shard", type=Path)
    args.add_argument("--target", required=True, help="directory, or hub:<owner>/<name>")
    args.add_argument("--trust-remote-code", action="store_true")
    args.add_argument("--first", type=int, default=0, help="first document to show")
    args.add_argument("--count", type=int, default=3)
    args.add_argument("--html", type=Path, help="write a page instead of printing")
    given = args.parse_args()
    shard = read_token_shard(given.shard)
    if not 0 <= given.first < len(shard):
        raise UserError(f"--first is {given.first}, but {given.shard} has {len(shard)} documents")
    tokenizer = load_tokenizer(
        resolve_target(given.target, None, weights=False), given.trust_remote_code
    )
    numbers = range(given.first, min(given.first + given.count, len(shard)))
    if given.html:
        write_text(given.html, for_browser(shard, numbers, tokenizer))
        return
    for number in numbers:
        sys.stdout.write(for_terminal(shard, number, tokenizer) + "\n")


if __name__ == "__main__":
    ending.run(main)
