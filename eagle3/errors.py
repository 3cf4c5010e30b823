"""The only exception that is printed without a traceback, and a context that raises it."""

from __future__ import annotations

from types import TracebackType


class UserError(Exception):
    """An error that the user can fix: its text names the key or file, the value and the remedy."""


class Foreign:
    """A context in which another library reads an untrusted file.

    Such readers raise any exception for a bad file, even Rust panics. Raises UserError with
    `sentence` and the first line of the error instead.
    """

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if fault is None or isinstance(fault, UserError):
            return
        # a panic of pyo3 deliberately does not derive from Exception
        if isinstance(fault, Exception) or type(fault).__name__ == "PanicException":
            raise UserError(f"{self.sentence}: {first_line(fault)}") from None


def first_line(fault: BaseException) -> str:
    """The error in one line; with its type if the text is a single word, as of KeyError."""
    line = next((line.strip() for line in str(fault).splitlines() if line.strip()), "")[:400]
    return line if " " in line else f"{type(fault).__name__} {line}".strip()
