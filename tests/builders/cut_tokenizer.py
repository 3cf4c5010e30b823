"""Cut a published byte-level tokenizer to a few hundred tokens, so that tests can carry its shape.

    python -m tests.builders.cut_tokenizer FOLDER OUT [--merges 300] [--template]

Kept are all that the file says but most of its vocabulary: the single bytes, what its first merges
make of them, and its added tokens but those reserved for nothing. Ids run on as they do in the
whole file. Without --template the chat template, which has a licence of its own, is left out.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel


def main() -> None:
    args = ArgumentParser(description=__doc__)
    args.add_argument("folder", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--merges", type=int, default=300)
    args.add_argument("--template", action="store_true")
    given = args.parse_args()
    file, settings = (
        json.loads((given.folder / name).read_text(encoding="utf-8"))
        for name in ("tokenizer.json", "tokenizer_config.json")
    )
    if not given.template:
        settings.pop("chat_template", None)
    cut(file, settings, given.merges)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, content in (("tokenizer.json", file), ("tokenizer_config.json", settings)):
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        (given.out / name).write_text(text + "\n", encoding="utf-8")


def cut(file: dict[str, Any], settings: dict[str, Any], merges: int) -> None:
    """Cut both files in place."""
    model = file["model"]
    whole = sorted(model["vocab"], key=model["vocab"].__getitem__)
    kept = {token for token in whole if token in ByteLevel.alphabet()}
    first = []
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if left in kept and right in kept and left + right in model["vocab"]:
            first.append(merge)
            kept.add(left + right)
        if len(first) == merges:
            break
    model["merges"] = first
    model["vocab"] = {token: n for n, token in enumerate(t for t in whole if t in kept)}
    added = [t for t in file["added_tokens"] if not reserved(t["content"])]
    inside = [t for t in added if t["content"] in whole]
    for token in inside:  # of the vocabulary itself, as in DeepSeek's
        model["vocab"].setdefault(token["content"], len(model["vocab"]))
    numbers = dict(model["vocab"])
    for token in added:
        numbers.setdefault(token["content"], len(numbers))
        token["id"] = numbers[token["content"]]
    file["added_tokens"] = sorted(added, key=lambda token: token["id"])
    if "added_tokens_decoder" in settings:
        flags = {t["content"]: t for t in settings["added_tokens_decoder"].values()}
        settings["added_tokens_decoder"] = {
            str(t["id"]): flags[t["content"]] for t in file["added_tokens"] if t["content"] in flags
        }
    renumber(file.get("post_processor"), numbers)


def reserved(content: str) -> bool:
    return "reserved" in content or "place▁holder" in content


def renumber(part: Any, numbers: dict[str, int]) -> None:
    """The ids that a post-processor adds."""
    if isinstance(part, list):
        for each in part:
            renumber(each, numbers)
    elif isinstance(part, dict):
        for name, token in part.get("special_tokens", {}).items():
            token["ids"] = [numbers[name]]
        for value in part.values():
            renumber(value, numbers)


if __name__ == "__main__":
    sys.exit(main())
