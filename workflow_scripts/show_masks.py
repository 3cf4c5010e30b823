"""Show conversations with the supervised tokens in colour.

eagle3 masks my-run --shard 3
eagle3 masks tokens/shard-00000.safetensors --target models/my-llama
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from eagle3.cli.places import base_of, run_folder, target_of
from eagle3.errors import UserError
from eagle3.files.artifact import write_text
from eagle3.report.masks import for_browser, for_terminal
from eagle3.run import load_run
from eagle3.target_model.files import resolve_target
from eagle3.target_model.tokenizer import load_tokenizer
from eagle3.tokens.shards import read_token_shard
from workflow_scripts import ending


def main() -> None:
    parser = ArgumentParser(
        prog="eagle3 masks", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("place", metavar="RUN", help="its name or folder; or a file of tokens")
    parser.add_argument(
        "--shard", type=int, default=0, metavar="N", help="of the run; the first if not given"
    )
    parser.add_argument(
        "--target", help="folder, or hub:<owner>/<name>; a run names its own, a file does not"
    )
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--first", type=int, default=0, help="first conversation to show")
    parser.add_argument("--count", type=int, default=3, help="conversations to show")
    parser.add_argument("--html", type=Path, help="write a page instead of printing")
    args = parser.parse_args()
    path, target, revision, trusted = located(args.place, args.shard, args.target)
    shard = read_token_shard(path)
    if not 0 <= args.first < len(shard):
        raise UserError(f"--first is {args.first}, but {path} has {len(shard)} documents")
    tokenizer = load_tokenizer(
        resolve_target(target, revision, weights=False), trusted or args.trust_remote_code
    )
    numbers = range(args.first, min(args.first + args.count, len(shard)))
    if args.html:
        write_text(args.html, for_browser(shard, numbers, tokenizer))
        return
    for number in numbers:
        sys.stdout.write(for_terminal(shard, number, tokenizer) + "\n")


def located(place: str, shard: int, target: str | None) -> tuple[Path, str, str | None, bool]:
    """The token file, its target and the target's revision, and whether code next to the target's
    weights is trusted.

    `place`: a run or a token file; `target`: replaces the run's own. Raises UserError if there is
    no such run, or if the target of a file is not given.
    """
    if place.endswith(".safetensors") or Path(place).is_file():
        if target is None:
            raise UserError(f"--target is missing: the target whose tokens {place} holds")
        return Path(place), target, None, False
    folder = run_folder(place)
    run, base = load_run(folder), base_of(folder)
    tokens, section = base / run.paths.tokens("train", shard), run.config.target
    if target is not None:
        return tokens, target, None, section.trust_remote_code
    return tokens, target_of(run, base), section.revision, section.trust_remote_code


if __name__ == "__main__":
    ending.run(main)
