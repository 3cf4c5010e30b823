"""Why a row cannot be used."""

from __future__ import annotations


class BadRow(Exception):
    """A row that cannot be used; the text is the cause it is counted under."""

    def __init__(self, cause: str, detail: str = "", remedy: str = "") -> None:
        """`detail`: what is wrong in this row. `remedy`: how to fix the cause."""
        super().__init__(cause)
        self.detail, self.remedy = detail, remedy


def clean(text: str) -> str:
    """The text. Raises BadRow for lone surrogates: they cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow("text is not valid Unicode") from None
    return text
