"""What a rule's outputs depend on, as text: settings, code and external files.

Snakemake compares params as a set of values, so each rule has lines of settings that name their
keys, and `code` (one digest or version). This module is plain Python and independent of the rules.
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

# packages whose versions may change a result; they are the same with and without --sdm
NUMERIC = ("ml-dtypes", "numpy", "safetensors", "tokenizers", "torch", "transformers")
# names that another process loads: "package.module" or "package.module:name"
LOADED_BY_NAME = re.compile(r"(eagle3(?:\.\w+)+)(?::\w+)?")
LARGE = 2**30  # bytes; hashing more takes seconds and is announced


def chained(
    stage: str, config: Mapping[str, Any], keys: Iterable[str], upstream: Mapping[str, Settings]
) -> Settings:
    """Settings of a stage: the given `keys` of the configuration and the upstream stages.

    A key is a section (`train`) or one entry of it (`dataset.shard_size`).
    """
    values: dict[str, Any] = {}
    for key in keys:
        section, _, name = key.partition(".")
        if name:
            values.setdefault(section, {})[name] = config[section][name]
        else:
            values[section] = config[section]
    return Settings(stage, values, {name: settings.digest for name, settings in upstream.items()})


def sources(script: Path, root: Path) -> list[Path]:
    """The script and every module of the project that it imports or names in a string, directly or
    not, in a fixed order."""
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
        # a file that a module next to it names, such as a page template, is part of the module
        siblings = (p for p in path.parent.iterdir() if p.suffix not in (".py", "") and p.is_file())
        files |= {file for file in siblings if f'"{file.name}"' in text}
    return sorted(files)


def pinned(root: Path) -> list[str]:
    """The lines of constraints.txt for the `NUMERIC` packages."""
    lines = (root / "envs" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.split("==")[0] in NUMERIC]


def code_digest(script: Path, root: Path) -> str:
    """Digest of `sources` and `pinned`, by content; dates do not matter."""
    hasher = hashlib.sha256("\n".join(pinned(root)).encode())
    # an installed library is not next to the scripts, but has the same names in the digest
    library = package_of(root).parent
    files = {
        path.relative_to(root if path.is_relative_to(root) else library): path
        for path in sources(script, root)
    }
    for name in sorted(files):
        hasher.update(f"{name} {file_sha256(files[name])}\n".encode())
    return hasher.hexdigest()[:16]


@cache  # by content: several scripts share most modules, and parsing takes most of the time
def _imports(source: str) -> list[str]:
    """Dotted names that a module imports or has as a string; `from a import b` gives a and a.b."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = LOADED_BY_NAME.fullmatch(node.value)
            names += [match[1]] if match else []
    return names


def _modules(name: str, root: Path) -> list[Path]:
    """Files of a module of the project, with those of its parent packages; empty for others."""
    parts = name.split(".")
    if parts[0] not in ("eagle3", "workflow_scripts"):
        return []
    parent = package_of(root).parent if parts[0] == "eagle3" else root
    files = [parent.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    files.append(parent.joinpath(*parts).with_suffix(".py"))
    return [path for path in files if path.is_file()]


def file_digests(paths: Iterable[Path], memo: Path) -> list[str]:
    """SHA-256 of external files.

    Hashing a large model takes a while, so each hash is cached in `memo` by path, size, mtime,
    inode and ctime, which no program can set. A touched or moved file is hashed again and re-runs
    nothing; another file of the same size and date is not mistaken for it.
    """
    try:
        remembered = json.loads(memo.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        remembered = {}
    hashes, added = [], False
    for path in paths:
        stat = path.stat()
        identity = (stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns)
        key = ":".join(map(str, (path.resolve(), *identity)))
        if key not in remembered:
            if stat.st_size > LARGE:
                print(f"reading {path} once for its digest", file=sys.stderr)
            remembered[key], added = file_sha256(path), True
        hashes.append(remembered[key])
    if added:
        memo.parent.mkdir(parents=True, exist_ok=True)
        temporary = memo.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(remembered, indent=1), encoding="utf-8")
        temporary.replace(memo)
    return hashes


def folder_digest(paths: Iterable[Path], memo: Path) -> str:
    """Digest of some files of one folder, by name and content; the folder may move."""
    paths = sorted(paths)
    pairs = zip(paths, file_digests(paths, memo), strict=True)
    text = "\n".join(f"{path.name} {digest}" for path, digest in pairs)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
