"""What the job and an engine's processes exchange: the files of a temporary folder.

    request.json   the EngineRequest
    documents.npy  int64 [D, 2]: number and length of each document, in the order of sending
    ids.npy        int32 [T]: their tokens, one document after another
    seen.txt       the numbers of the documents that the consumer has taken
    fault.txt      one sentence, if something failed

Imports only the standard library at first: the interpreter of the engine may have nothing else,
which must be reported in a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3.errors import UserError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class EngineRequest:
    """One run of an engine."""

    engine: str  # as in hidden_states.backend
    model: str  # a Hugging Face directory
    layers: Sequence[int]  # 0-based decoder layers whose outputs are captured, ascending
    dtype: str  # float32, bfloat16, float16 or auto
    trust_remote_code: bool
    tensor_parallel: int
    batch_tokens: int  # of a prefill; a longer document runs alone
    arguments: Mapping[str, Any]  # further engine arguments, by their Python names
    consumer: str  # "module:function" that makes the consumer of the states
    consumer_arguments: Mapping[str, Any]  # JSON-able, passed to that function by name
    num_layers: int  # of the target
    final_norm_key: str  # tensor of the target, for engines that return no normed state

    def write(self, folder: Path) -> None:
        """Raises TypeError if the arguments are not JSON-able."""
        (folder / "request.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> EngineRequest:
        return cls(**json.loads((folder / "request.json").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class SeparateEngine:
    """An engine, as far as the job knows it before its process runs."""

    name: str  # as in hidden_states.backend, its environment and its keys
    title: str  # as its makers spell it
    packages: tuple[str, ...]  # distributions, one of which provides it
    oldest: str  # version
    own_arguments: Callable[[EngineRequest, int, Path], dict[str, Any]]  # fixed by the pipeline
    default_arguments: Mapping[str, Any]  # users may change these
    change_states: tuple[str, ...]  # shell patterns of arguments that would change the states
    hide_states: tuple[str, ...]  # patterns of those that would keep rows from the capture
    cache_arguments: str  # arguments that decide whether a document fits the cache
    program: str  # "module:function" that sends documents through it

    @property
    def arguments_key(self) -> str:
        return f"resources.capture.{self.name}_arguments"

    @property
    def python_key(self) -> str:
        return f"resources.capture.{self.name}_python"

    def check_arguments(self, request: EngineRequest) -> None:
        """Raise UserError for an argument that must not be given."""
        fixed = self.own_arguments(request, 0, Path())
        for name in request.arguments:
            if name in fixed:
                cause = "is set by the pipeline itself"
            elif any(fnmatchcase(name, pattern) for pattern in self.change_states):
                cause = "would change the states"
            elif any(fnmatchcase(name, pattern) for pattern in self.hide_states):
                cause = "would keep rows of the states from the capture"
            else:
                continue
            raise UserError(f"{self.arguments_key}.{name} {cause}; remove it")

    def arguments(self, request: EngineRequest, longest: int, folder: Path) -> dict[str, Any]:
        """All arguments of the engine: defaults, the user's, fixed ones. `longest`: tokens of the
        longest document."""
        fixed = self.own_arguments(request, longest, folder)
        return {**self.default_arguments, **request.arguments, **fixed}

    def missing(self, why: str) -> UserError:
        """The error of an interpreter that cannot run it."""
        return UserError(
            f"{why}; {self.title} {self.oldest} or newer is needed (envs/{self.name}.yaml); set "
            f"{self.python_key}"
        )


def write_documents(folder: Path, documents: Mapping[int, Sequence[int] | np.ndarray]) -> None:
    """Store documents by number, the longest first, so that a batch holds similar lengths."""
    import numpy as np

    order = sorted(documents, key=lambda number: (-len(documents[number]), number))
    table = np.array([(n, len(documents[n])) for n in order], dtype=np.int64).reshape(-1, 2)
    parts = [np.asarray(documents[n], dtype=np.int32) for n in order]
    np.save(folder / "documents.npy", table)
    np.save(folder / "ids.npy", np.concatenate([np.empty(0, np.int32), *parts]))


def read_documents(folder: Path) -> dict[int, np.ndarray]:
    """int32 [L] of each document, in the order of sending."""
    import numpy as np

    table, ids = np.load(folder / "documents.npy"), np.load(folder / "ids.npy")
    pieces = np.split(ids, np.cumsum(table[:-1, 1]))
    return dict(zip(table[:, 0].tolist(), pieces, strict=True))


def note_seen(folder: Path, documents: Sequence[int]) -> None:
    with open(folder / "seen.txt", "a", encoding="utf-8") as file:
        file.writelines(f"{number}\n" for number in documents)


def read_seen(folder: Path) -> set[int]:
    path = folder / "seen.txt"
    return {int(line) for line in path.read_text().split()} if path.exists() else set()


@contextmanager
def fault_noted(folder: Path, title: str) -> Iterator[None]:
    """Pass the first fault to the job as one sentence, and raise it again; `title`: the
    engine's."""
    try:
        yield
    except BaseException as fault:
        text = str(fault)
        if not isinstance(fault, UserError):
            first = (text.splitlines() or [""])[0]
            text = f"the capture failed inside {title}: {type(fault).__name__}: {first}"
        with suppress(FileExistsError), open(folder / "fault.txt", "x", encoding="utf-8") as file:
            file.write(text)
        raise


def read_fault(folder: Path) -> str | None:
    path = folder / "fault.txt"
    return path.read_text(encoding="utf-8") if path.exists() else None
