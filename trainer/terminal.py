"""Text for a terminal: names from outside, such as those of files and classes, made safe; a few of many; tables."""

from __future__ import annotations

import contextlib
import errno
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
"""Characters that control a terminal, or end a line: tables and lists of names would show others than there are."""


def printable(text: str, keep: str = "") -> str:
    """`text` made safe for a terminal: characters that control it, or are invisible, are escaped: "\\x1b".

    These are control characters, line separators, marks that change the writing direction, and surrogates, which
    stand for bytes of names that are not UTF-8. Names in any language are unchanged.

    Args:
      keep: characters that are not escaped, such as the newlines of a table.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep or _is_harmless(one) else _escape(one) for one in text)


def _is_harmless(character: str) -> bool:
    # Spaces of other widths, and the joiners used in Persian and emoji.
    return unicodedata.category(character) == "Zs" or character in "\u200c\u200d"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def some(parts: Sequence[object], most: int) -> str:
    """The first of the parts, at most `most`: "a, b, ..."."""
    return ", ".join(map(str, parts[:most])) + ", ..." * (len(parts) > most)


def some_and_more(parts: Sequence[object], most: int) -> str:
    """The first of the parts, at most `most`, and the number of the others: "a, b and 3 more"."""
    return ", ".join(map(str, parts[:most])) + (f" and {len(parts) - most} more" if len(parts) > most else "")


def aligned(rows: Sequence[Sequence[str]], texts: int) -> str:
    """Rows as lines of aligned columns: the first `texts` columns to the left, the numbers to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < texts else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


class PrintableStream:
    """A stream that escapes characters which would control a terminal, or which it cannot encode.

    Names of files and classes may contain anything; tables and progress need the characters in `KEPT`. What is written
    to a terminal that was closed is lost: a training then writes its checkpoint before it ends. An error on writing
    has the `name` of the stream.
    """

    KEPT = "\n\r\t"

    def __init__(self, stream: TextIO, name: str | None = None) -> None:
        self._stream, self._name = stream, name
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._is_terminal = stream.isatty()

    def write(self, text: str) -> int:
        shown = printable(text, self.KEPT)
        with self._if_open():
            self._stream.write(shown.encode(self._encoding, "backslashreplace").decode(self._encoding))
        return len(text)

    def flush(self) -> None:
        with self._if_open():
            self._stream.flush()

    @contextlib.contextmanager
    def _if_open(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._is_terminal or error.errno != errno.EIO:
                error.filename = error.filename or self._name
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
