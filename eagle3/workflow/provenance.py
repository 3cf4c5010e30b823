"""What a rule's outputs depend on, as text: settings, code and files from outside.

Snakemake compares params as a set of values, so each rule has lines of settings that name their
keys, and `code` (one digest or version). Everything here is plain Python and knows no rule.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from eagle3.files.artifact import Settings, file_sha256
from eagle3.workflow.project import package_of

# packages whose versions may change a result; jobs run in the same ones with and without --sdm
NUMERIC = ("ml-dtypes", "numpy", "safetensors", "tokenizers", "torch", "transformers")
# what another process is told to load: "package.module" or "package.module:name"
LOADED_BY_NAME = re.compile(r"(eagle3(?:\.\w+)+)(?::\w+)?")
LARGE = 2**30  # bytes; hashing more takes seconds, and silence would look like a hang


def chained(
    stage: str, config: Mapping[str, Any], keys: Iterable[str], upstream: Mapping[str, Settings]
) -> Settings:
    """Settings of a stage: the named `keys` of the configuration and the stages above it.

    A key is a section (`train`) or one entry of it (`dataset.shard_size`).
    """
    values: dict[str, Any] = {}
    for key in keys:
        section, _, name = key.partition(".")
        if name:
            values.setdefault(section, {})[name] = config[section][name]
        else:
            values[section] = config[section]
    return Settings(stage, values, {name: above.digest for name, above in upstream.items()})


def sources(script: Path, root: Path) -> list[Path]:
    """The script and every module of ours that it imports or names in a text of its own, directly
    or not, in a fixed order."""
    files: set[Path] = set()
    queue = [script]
    while queue:
        path = queue.pop()
        if path in files:
            continue
        files.add(path)
        text = path.read_text(encoding="utf-8")
        for name in _imports(text):
            queue.extend(_modules(name, root))
        # a file next to a module that the module names, such as a page template, is part of it
        near = (p for p in path.parent.iterdir() if p.suffix not in (".py", "") and p.is_file())
        files |= {file for file in near if f'"{file.name}"' in text}
    return sorted(files)


def pinned(root: Path) -> list[str]:
    """The lines of constraints.txt for the `NUMERIC` packages."""
    lines = (root / "envs" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.split("==")[0] in NUMERIC]


def code_digest(script: Path, root: Path) -> str:
    """Digest over `sources` and `pinned`: a changed byte counts, a changed date does not."""
    total = hashlib.sha256("\n".join(pinned(root)).encode())
    # an installed library is not next to the scripts, but counts under the same names
    above = package_of(root).parent
    named = {
        path.relative_to(root if path.is_relative_to(root) else above): path
        for path in sources(script, root)
    }
    for name in sorted(named):
        total.update(f"{name} {file_sha256(named[name])}\n".encode())
    return total.hexdigest()[:16]


@cache  # by content: several scripts share most modules, and parsing takes most of the time
def _imports(source: str) -> list[str]:
    """Dotted names that a module imports, or has as a text; `from a import b` counts as a and
    a.b."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = LOADED_BY_NAME.fullmatch(node.value)
            names += [named[1]] if named else []
    return names


def _modules(name: str, root: Path) -> list[Path]:
    """Files of a dotted name of ours, with those of the packages above it."""
    parts = name.split(".")
    if parts[0] not in ("eagle3", "workflow_scripts"):
        return []
    above = package_of(root).parent if parts[0] == "eagle3" else root
    files = [above.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    files.append(above.joinpath(*parts).with_suffix(".py"))
    return [path for path in files if path.is_file()]


def file_digests(paths: Iterable[Path], memo: Path) -> list[str]:
    """SHA-256 of external files.

    Hashing a large model takes a while, so each file's hash is remembered by size, date, inode and
    the date of its inode, which no program can set: a touched or moved file costs one hash and
    never a re-run, and another file of the same size and date is not taken for it.
    """
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        known = {}
    hashes, added = [], False
    for path in paths:
        stat = path.stat()
        marks = (stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns)
        key = ":".join(map(str, (path.resolve(), *marks)))
        if key not in known:
            if stat.st_size > LARGE:
                print(f"reading {path} once for its digest", file=sys.stderr)
            known[key], added = file_sha256(path), True
        hashes.append(known[key])
    if added:
        memo.parent.mkdir(parents=True, exist_ok=True)
        beside = memo.with_suffix(f".{os.getpid()}.tmp")
        beside.write_text(json.dumps(known, indent=1), encoding="utf-8")
        beside.replace(memo)
    return hashes


def folder_digest(paths: Iterable[Path], memo: Path) -> str:
    """Digest of some files of one folder, by name and content; the folder may move."""
    paths = sorted(paths)
    pairs = zip(paths, file_digests(paths, memo), strict=True)
    text = "\n".join(f"{path.name} {digest}" for path, digest in pairs)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
