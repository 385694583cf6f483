"""Lists of files: a .csv with a header, a .jsonl with an object per line, or a .txt with a path per line.

Relative paths are relative to the list's folder; files may lie anywhere, local or gs://.
"""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer import storage
from trainer.options import InputError

SUFFIXES = (".csv", ".jsonl", ".txt")
"""How the names of lists end, in lower case."""


@dataclass(frozen=True)
class Row:
    """One entry of a list.

    Attributes:
      line: its number in the file, from 1 (the last one, where an entry of a .csv goes over several).
      values: what it holds, by column; the lines of a .txt have the single column "image".
      fault: why it could not be read, in words; empty when it could.
    """

    line: int
    values: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""


def is_list(path: str) -> bool:
    """Whether a file is a list, by its name."""
    return path.lower().endswith(SUFFIXES)


def read_rows(path: str, columns: Sequence[str] = ("image",)) -> Iterator[Row]:
    """Reads the entries of a list, without blank lines and, in a .txt, lines that begin with "#".

    Args:
      path: the list, local or gs://.
      columns: those that the header of a .csv must have.

    Raises:
      InputError: the file is not UTF-8 text, or a .csv without one of these columns.
    """
    try:
        text = storage.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}; save it in that encoding") from None
    if path.lower().endswith(".csv"):
        yield from _csv_rows(path, text, columns)
        return
    for line, content in enumerate(text.splitlines(), 1):
        if path.lower().endswith(".txt"):
            if content.strip() and not content.startswith("#"):
                yield Row(line, {"image": content.strip()})
        elif content.strip():
            yield _json_row(line, content)


def _csv_rows(path: str, text: str, columns: Sequence[str]) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        header = [name.strip() for name in reader.fieldnames or []]
        for name in columns:
            if name not in header:
                raise InputError(f"{path}: expected a column {name!r} in its first line, got {','.join(header)!r}")
        reader.fieldnames = header
        for values in reader:
            yield Row(reader.line_num, values)
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is not CSV: {error}") from None


def _json_row(line: int, content: str) -> Row:
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        return Row(line, fault=f"is not JSON: {error}")
    return Row(line, value) if isinstance(value, dict) else Row(line, fault=f"is not a JSON object: {content.strip()}")


def entry_path(folder: str, path: str) -> str:
    """What `path` stands for in a list of `folder`: local or gs://, without "." and ".."."""
    if storage.is_remote(path) or (storage.is_remote(folder) and not path.startswith("/")):
        whole = path if storage.is_remote(path) else storage.join(folder, path)
        return storage.SCHEME + posixpath.normpath("/" + whole[len(storage.SCHEME) :]).lstrip("/")
    return os.path.normpath(os.path.join(folder, path))
