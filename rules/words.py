"""Words of shell commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from itertools import takewhile
from string import digits


def options(**given: object) -> str:
    """Options of a script that change no output, as one resource of a rule.

    In the shell text or in params they would re-run jobs; and each resource costs Snakemake time
    and a line for every job. None or False: not given; True: without a value.
    """
    words = []
    for name, value in given.items():
        if value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else [str(value)]
    return shlex.join(words)


def listed(paths: Sequence[str]) -> str:
    """Neighbouring files as one word, such as shard-{00000..01999}.safetensors: a shell command
    with all names of thousands of shards would be too long for the system."""
    first, last = paths[0], paths[-1]
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    common = "".join(letter for letter, _ in equal)
    if common == first:
        return first
    start = len(common.rstrip(digits))
    end = len(first) - len(first[start:].lstrip(digits))
    return f"{first[:start]}{{{first[start:end]}..{last[start:end]}}}{first[end:]}"


def listed_each(groups: Iterable[Sequence[str]]) -> str:
    """Several such words; none for an empty group."""
    return shlex.join(listed(paths) for paths in groups if paths)
