"""The dataset artefact: every valid row of a source in a fixed order, and an index.

The order and the split are functions of (seed, row id) alone; with several sources, also of their
weights. So asking for more samples never moves a row, and a row once held out stays held out.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np

from eagle3.data.conversations import BadRow, Conversation, parse_row
from eagle3.data.row_files import Unreadable
from eagle3.errors import UserError
from eagle3.files.artifact import REMAKE, Manifest, Settings, atomic_path, write_json
from eagle3.files.tensor_file import load_tensors, save_tensors

LISTED = 100  # rejected rows listed in the report


@dataclass(frozen=True)
class Stream:
    """The rows of one source."""

    rows: Iterable[Any]
    name: str = ""  # prefix of ids where there are several sources
    weight: float = 1.0  # twice the weight: twice the rows in every stretch
    commits: set[str] = field(default_factory=set)  # of hub datasets, filled in as rows are read


@dataclass
class Census:
    """What happened to each row that was read."""

    read: int = 0
    read_of: Counter[int] = field(default_factory=Counter)  # by index of the source
    rejected: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    first_rejected: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, cause: str, row: Any) -> None:
        self.rejected[cause] += 1
        if len(self.first_rejected) < LISTED:
            identity = row.get("id") if isinstance(row, dict) else None
            row_id = identity if isinstance(identity, str | int) else None  # others may not be JSON
            self.first_rejected.append({"row": self.read, "id": row_id, "cause": cause})


def write_dataset(
    streams: Sequence[Stream], values: dict[str, Any], out: Path, settings: Settings, want: int
) -> dict[str, Any]:
    """Write `rows.jsonl`, `rows.index.safetensors` and `rows.report.json` into `out`.

    `values`: seed, eval_fraction, deduplicate, max_bad_fraction. `want`: training rows this run
    needs. Returns the report. Memory holds ids and offsets, never the text. Raises UserError when
    too many rows are bad or too few are valid.
    """
    census = Census()
    with TemporaryFile(dir=_ensure_folder(out)) as spool:
        keys, offsets, held_out, stream_of = _spool(streams, spool, census, values)
        valid = len(keys)
        _check_quality(census, valid, values["max_bad_fraction"])
        train = valid - int(held_out.sum())
        check_enough(train, want)
        order = _order(np.array(keys, dtype="S32"), stream_of, [s.weight for s in streams])
        checksum, index = _write_sorted(spool, offsets, order, out / "rows.jsonl")
    manifest = Manifest.of("dataset", settings, {"rows": checksum}, {"valid": valid})
    index["held_out"] = held_out[order]
    save_tensors(out / "rows.index.safetensors", index, manifest)
    report = {
        "rows_read": census.read,
        "valid": valid,
        "splits": {"train": train, "eval": valid - train},
        "sources": {
            stream.name: {
                "read": census.read_of[number],
                "valid": int((stream_of == number).sum()),
                "commits": sorted(stream.commits),
            }
            for number, stream in enumerate(streams)
        },
        "rejected": dict(census.rejected.most_common()),
        "repaired": dict(census.repaired.most_common()),
        "first_rejected": census.first_rejected,
    }
    write_json(out / "rows.report.json", report, manifest)
    return report


def check_enough(valid: int, want: int) -> None:
    """Raise UserError if fewer valid training rows exist than the run asks for."""
    if valid < want:
        raise UserError(
            f"dataset.num_samples is {want} but the source has only {valid} valid training rows; "
            f"lower num_samples to at most {valid}"
        )


def check_held_out(count: int) -> None:
    """Raise UserError if no row is held out: the draft could not be measured."""
    if count == 0:
        raise UserError(
            "dataset.eval_fraction holds out no row of this source, so the draft could not be "
            "measured; raise it or give more rows"
        )


def _ensure_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _spool(
    streams: Sequence[Stream], spool: BinaryIO, census: Census, values: dict[str, Any]
) -> tuple[list[bytes], np.ndarray, np.ndarray, np.ndarray]:
    """Write valid rows as they come; return order keys, byte offsets [N + 1], held-out flags and
    the source index of each row."""
    keys: list[bytes] = []
    offsets, held_out, stream_of = [0], [], []
    content_of: dict[str, bytes] = {}
    seen: set[bytes] = set()
    numbered = ((number, row) for number, stream in enumerate(streams) for row in stream.rows)
    for number, row in numbered:
        census.read += 1
        census.read_of[number] += 1
        try:
            if isinstance(row, Unreadable):
                raise BadRow(row.cause)
            conversation, repairs = parse_row(row)
            if len(streams) > 1:
                conversation = replace(conversation, id=f"{streams[number].name}/{conversation.id}")
            conversation = _with_unique_id(conversation, content_of)
            if values["deduplicate"]:
                _reject_duplicate(conversation, seen)
        except BadRow as fault:
            census.reject(str(fault), row)
            continue
        census.repaired.update(repairs)
        spool.write(conversation.to_json().encode() + b"\n")
        offsets.append(spool.tell())
        hashed = row_hash(values["seed"], conversation.id)
        keys.append(hashed)
        held_out.append(is_held_out(hashed, values["eval_fraction"]))
        stream_of.append(number)
    return (
        keys,
        np.array(offsets, dtype=np.int64),
        np.array(held_out, dtype=bool),
        np.array(stream_of, dtype=np.int64),
    )


def _order(keys: np.ndarray, stream_of: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """int64 [N]: rows sorted by key. Several sources are mixed so that every beginning of the order
    has rows of each in proportion to the weights, until one runs out."""
    if len(weights) == 1:
        return np.argsort(keys, kind="stable")
    position = np.empty(len(keys))
    for number, weight in enumerate(weights):
        rows = np.flatnonzero(stream_of == number)
        rows = rows[np.argsort(keys[rows], kind="stable")]
        position[rows] = (np.arange(len(rows)) + 0.5) / weight
    return np.lexsort((keys, position))


def _reject_duplicate(conversation: Conversation, seen: set[bytes]) -> None:
    """Refuse a conversation that equals an earlier one, whatever its id."""
    content = replace(conversation, id="").to_json().encode()
    digest = hashlib.sha256(content).digest()[:12]
    if digest in seen:
        raise BadRow("same content as an earlier row")
    seen.add(digest)


def row_hash(seed: int, identity: str) -> bytes:
    """32 bytes that decide a row's position and split."""
    return hashlib.sha256(f"{seed}\n{identity}".encode()).digest()


def is_held_out(hashed: bytes, eval_fraction: float) -> bool:
    """Whether a row with this hash is held out: its last 8 bytes decide, all 32 the order."""
    return int.from_bytes(hashed[24:], "big") < eval_fraction * 2**64


def _with_unique_id(conversation: Conversation, content_of: dict[str, bytes]) -> Conversation:
    """Refuse an exact repeat; give a different conversation with a used id a new id."""
    content = hashlib.sha256(conversation.to_json().encode()).digest()[:8]
    first_content = content_of.setdefault(conversation.id, content)
    if first_content is content:
        return conversation
    renamed = replace(conversation, id=f"{conversation.id}~{content.hex()}")
    if first_content == content or renamed.id in content_of:
        raise BadRow("same id and content as an earlier row")
    content_of[renamed.id] = content
    return renamed


def _check_quality(census: Census, valid: int, max_bad_fraction: float) -> None:
    bad = census.rejected.total()
    causes = "; ".join(f"{n} x {cause}" for cause, n in census.rejected.most_common(5))
    if census.read == 0 or valid == 0:
        raise UserError(f"dataset.source: no usable row among {census.read} ({causes or 'empty'})")
    if bad > max_bad_fraction * census.read:
        raise UserError(
            f"dataset.source: {bad} of {census.read} rows cannot be used ({causes}), more than "
            f"dataset.max_bad_fraction {max_bad_fraction} allows; first bad row: number "
            f"{census.first_rejected[0]['row']}"
        )


def _write_sorted(
    spool: BinaryIO, offsets: np.ndarray, order: np.ndarray, path: Path
) -> tuple[str, dict[str, np.ndarray]]:
    """Copy the spooled rows in their final order; return the checksum of all, and their index:
    `offsets` int64 [N + 1] in bytes, `crc32` uint32 [N]."""
    checksum, starts, crcs = hashlib.sha256(), [0], []
    with atomic_path(path) as temporary, open(temporary, "wb") as out:
        for row in order.tolist():
            spool.seek(offsets[row])
            line = spool.read(int(offsets[row + 1] - offsets[row]))
            out.write(line)
            checksum.update(line)
            starts.append(starts[-1] + len(line))
            crcs.append(zlib.crc32(line))
    offsets, crc32 = np.array(starts, dtype=np.int64), np.array(crcs, dtype=np.uint32)
    return checksum.hexdigest(), {"offsets": offsets, "crc32": crc32}


class DatasetFile:
    """Random access to the rows of one split, in their fixed order."""

    def __init__(self, folder: Path, split: str, settings_digest: str | None = None) -> None:
        """Raises UserError if the index is missing, damaged or of other settings."""
        self.path = folder / "rows.jsonl"
        index, self.manifest = load_tensors(
            folder / "rows.index.safetensors", "dataset", settings_digest
        )
        if not _is_index(index):
            raise UserError(f"{folder}: rows.index.safetensors is not an index of rows: {REMAKE}")
        if not self.path.is_file() or self.path.stat().st_size != index["offsets"][-1]:
            raise UserError(
                f"{self.path}: missing, or not the file its index was made for: {REMAKE}"
            )
        self.offsets, self.crc32 = index["offsets"], index["crc32"]
        self.rows = np.flatnonzero(index["held_out"] == (split == "eval"))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Conversation]:
        """All rows, read a few at a time."""
        for start in range(0, len(self), 256):
            yield from self.read(start, start + 256)

    def read(self, start: int, stop: int) -> list[Conversation]:
        """Rows [start, stop) of the split; fewer where the split ends.

        Raises UserError if one of them is damaged.
        """
        with open(self.path, "rb") as handle:
            conversations = []
            for row in self.rows[start:stop].tolist():
                handle.seek(self.offsets[row])
                line = handle.read(int(self.offsets[row + 1] - self.offsets[row]))
                if zlib.crc32(line) != self.crc32[row]:
                    raise UserError(
                        f"{self.path}: line {row + 1} does not match its checksum: {REMAKE}"
                    )
                conversations.append(Conversation.from_json(line))
        return conversations


def _is_index(index: dict[str, np.ndarray]) -> bool:
    """Whether every row has an offset, a checksum and a split."""
    forms = {"offsets": np.int64, "crc32": np.uint32, "held_out": np.bool_}
    if {name: array.dtype for name, array in index.items()} != forms:
        return False
    offsets, rows = index["offsets"], index["offsets"].size - 1
    if rows < 0 or any(index[name].shape != (rows,) for name in ("crc32", "held_out")):
        return False
    return offsets.ndim == 1 and offsets[0] == 0 and bool((offsets[1:] >= offsets[:-1]).all())
