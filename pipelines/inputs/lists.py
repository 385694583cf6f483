"""Lists of files: a .csv with a header, a .jsonl with an object per line, or a .txt with a path per line.

Relative paths are relative to the list's folder; files may lie anywhere, local or gs://.
"""

from __future__ import annotations

import codecs
import csv
import functools
import io
import itertools
import json
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from pipelines.inputs.names import BLANKS
from trainer import storage
from trainer.options import FOREIGN_ADDRESS, InputError, cure_of_address

SUFFIXES = (".csv", ".jsonl", ".txt")
"""Suffixes of lists, in lower case."""
LONGEST_VALUE = 1 << 24
"""Bound on the characters of a value in a .csv. Columns that are not read may hold polygons, or masks as text; of
itself Python takes 131,072."""
PATHS = ("image", "label")
"""Columns that hold the path of a file."""


@dataclass(frozen=True)
class ListEntry:
    """One entry of a list.

    Attributes:
      line: its number in the file, from 1; the last one, if an entry of a .csv spans several.
      values: the values by column; the lines of a .txt have the single column "image".
      fault: the reason, for humans, why it could not be read; "" if it could.
    """

    line: int
    values: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""


def is_list(path: str) -> bool:
    """Whether a file is a list, by its name."""
    return path.lower().endswith(SUFFIXES)


def read_entries(path: str, columns: Sequence[str] = ("image",)) -> Iterator[ListEntry]:
    """Reads the entries of a list, skipping blank lines and, in a .txt, lines that begin with "#".

    Blanks around a path are part of it only in a .jsonl. A line of a .txt that names an existing file is never a
    comment.

    Args:
      path: the list, local or gs://.
      columns: the columns that the header of a .csv must have.

    Raises:
      InputError: the file cannot be read, is not UTF-8 text (or UTF-16 with a byte order mark), or is a .csv without
        one of these columns.
    """
    try:
        with storage.reader(path) as file:
            marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            encoding = "utf-16" if file.read(2) in marks else "utf-8-sig"
            file.seek(0)
            # Names may contain Python's other line separators, such as U+2028; some CSV files use CR alone.
            newline = "" if path.lower().endswith(".csv") else "\n"
            yield from _entries(path, io.TextIOWrapper(file, encoding, newline=newline), columns)
    except UnicodeDecodeError as error:
        raise InputError(_undecodable(path, error)) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def image_of(path: str, entry: ListEntry) -> str:
    """The image that an entry of the list at `path` names. Raises InputError if it names none, or is faulty."""
    image = entry.values.get("image")
    if entry.fault or not isinstance(image, str) or not image.strip(BLANKS):
        fault = entry.fault or f"expected an image, got {dict(entry.values)}"
        raise InputError(f"{path} line {entry.line}: {fault}; correct or remove the line")
    return image


def _entries(path: str, text: TextIO, columns: Sequence[str]) -> Iterator[ListEntry]:
    if path.lower().endswith(".csv"):
        yield from _csv_entries(path, text, columns)
        return
    for line, content in enumerate((content.removesuffix("\n") for content in text), 1):
        if path.lower().endswith(".txt"):
            name = content.strip(BLANKS)
            if name and not (content.startswith("#") and not _names_file(path, name)):
                yield _checked(ListEntry(line, {"image": name}))
        elif content.strip():
            yield _json_entry(line, content)


def _undecodable(path: str, error: UnicodeDecodeError) -> str:
    """The message for a list that is not text; `error` covers only the block that was being decoded."""
    data = storage.read(path)
    try:
        data.decode(error.encoding)
    except UnicodeDecodeError as whole:
        error = whole
    line = data.count(b"\n", 0, error.start) + 1
    return f"{path} is not UTF-8 text: {error} (line {line}); save it in that encoding"


def _names_file(path: str, name: str) -> bool:
    try:
        return storage.exists(entry_path(posixpath.dirname(path), name))
    except OSError:
        return False


def _checked(entry: ListEntry) -> ListEntry:
    """The entry, or one with a fault if a value contains what no path can."""
    if any("\0" in value for value in entry.values.values() if isinstance(value, str)):
        return ListEntry(entry.line, fault="holds a NUL character, which no path can; save the list as UTF-8 text")
    for path in (path for path in map(entry.values.get, PATHS) if isinstance(path, str)):
        if foreign := FOREIGN_ADDRESS.match(path):
            cure = cure_of_address(foreign[0], "copy the files here or to gs://")
            return ListEntry(entry.line, fault=f"names {path}: {cure}")
        try:
            os.fsencode(path)
        except UnicodeEncodeError as error:  # as JSON can escape it
            half = path[error.start : error.end]
            return ListEntry(
                entry.line, fault=f"holds half a character, {half!r}, which no path can; write it as UTF-8"
            )
    return entry


def _csv_entries(path: str, text: TextIO, columns: Sequence[str]) -> Iterator[ListEntry]:
    csv.field_size_limit(LONGEST_VALUE)
    # Without `strict`, a quote that is never closed would swallow all rows after it.
    rows, begun = csv.reader(text, skipinitialspace=True, strict=True), 1
    try:
        header = [name.strip() for name in next(rows, ())]
        for name in columns:
            if header.count(name) != 1:
                got = ",".join(header)
                cure = _cure_of_header(name, header)
                raise InputError(f"{path}: expected a column {name!r} in its first line, got {got!r}; {cure}")
        if (split := _misspelt_split(header)) is not None:
            raise InputError(f"{path}: its column {split!r} would not be read; write its name in lower case")
        begun = rows.line_num + 1
        for row in rows:
            begun = rows.line_num + 1
            if any(value.strip() for value in row[len(header) :]):
                fault = (
                    f"has more values than the {len(header)} columns; put quotes around values that contain a comma"
                )
                yield ListEntry(rows.line_num, fault=fault)
            elif row:
                values = itertools.zip_longest(header, row[: len(header)])
                stripped = {name: value and value.strip(BLANKS) for name, value in values}
                yield _checked(ListEntry(rows.line_num, stripped))
    except csv.Error as error:
        cures = {"end of data": "; a quote is never closed", "field limit": "; close its quote, or remove the column"}
        cure = next((cure for words, cure in cures.items() if words in str(error)), "")
        raise InputError(f"{path} line {begun} is not CSV: {error}{cure}") from None


def _cure_of_header(name: str, header: Sequence[str]) -> str:
    """How to mend the first line of a .csv file, which has no column `name`, or several."""
    if name in header:
        return "keep one of them"
    if any(name in (part.strip(BLANKS) for part in re.split("[;\t|]", one)) for one in header):
        return "separate columns by commas"
    if name in (one.lower() for one in header):
        return "write its name in lower case"
    return "name the columns there"


def _misspelt_split(names: Collection[str]) -> str | None:
    """The name that is "split" apart from capitals: as it is optional, images would silently be split anew."""
    return None if "split" in names else next((name for name in names if name.lower() == "split"), None)


def _json_entry(line: int, content: str) -> ListEntry:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        return ListEntry(line, fault=f"is not JSON: {error}")
    if isinstance(value, dict):
        if (split := _misspelt_split(value)) is not None:
            return ListEntry(line, value, f"has {split!r} in place of 'split'; write it in lower case")
        return _checked(ListEntry(line, value))
    return ListEntry(line, fault=f"is not a JSON object: {content.strip()}")


def entry_path(folder: str, path: str) -> str:
    """The path that an entry `path` of a list in `folder` means: local or gs://, without "." and "..".

    Behind a link to a folder, ".." is the folder above the one that it leads to, as for the file system, if the file
    is there; else the one above the link.
    """
    if storage.is_remote(path) or (storage.is_remote(folder) and not path.startswith("/")):
        whole = path if storage.is_remote(path) else storage.join(folder, path)
        names: list[str] = []
        for name in whole[len(storage.SCHEME) :].split("/"):
            # An empty name is one like any other in the name of an object.
            if name == "..":
                names = names[:-1]
            elif name != ".":
                names.append(name)
        return storage.SCHEME + "/".join(names)
    whole = os.path.join(folder, path)
    above, ups, rest = whole.rpartition("/../")
    if ups and (real := _behind_links(above + ups)) and os.path.lexists(os.path.join(real, rest)):
        return os.path.normpath(os.path.join(real, rest))
    return os.path.normpath(whole)


@functools.lru_cache(maxsize=1 << 10)
def _behind_links(folder: str) -> str:
    """The folder that a path with ".." leads to; "" if it is the same without regard to links."""
    real = os.path.realpath(folder)
    return "" if real == os.path.realpath(os.path.normpath(folder)) else real
