"""File names and patterns, for local files and objects alike. No file is accessed here."""

from __future__ import annotations

import dataclasses
import errno
import fnmatch
import os
import re
from collections.abc import Sequence

import google_crc32c

from trainer.attempts import SCHEME
from trainer.options import InputError

LARGEST = 2 << 30
"""Bytes of the largest file that is read whole. An image with the maximum number of pixels is smaller in any
format."""

_UNFINISHED = re.compile(r"(?P<folder>(?:.*/)?)\.(?P<name>[^/]+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class File:
    """One file below a folder.

    Attributes:
      path: local or gs://.
      relative: its path below that folder, with forward slashes.
      size: in bytes.
      modified: a number that differs after each change: the modification time in nanoseconds, or the object's
        generation, which is not a time. 0 if it cannot be read: a broken link, or something other than a file, such as
        a FIFO.
      identity: the id of its contents, see `identity`, if the listing includes it (Cloud Storage); else "".
    """

    path: str
    relative: str
    size: int
    modified: int
    identity: str = ""


def identity(data: bytes) -> str:
    """An id of contents: CRC-32C as 8 hexadecimal digits, a hyphen, and the number of bytes."""
    return crc32c_and_size(google_crc32c.value(data), len(data))


def crc32c_and_size(crc32c: int, size: int) -> str:
    """The identity of contents with that checksum and size."""
    return f"{crc32c:08x}-{size}"


def check_size(path: str, size: int) -> None:
    """Raises OSError if a file of `size` bytes is too large to be read whole."""
    if size > LARGEST:
        raise OSError(errno.EFBIG, f"its {size:,} bytes are more than the {LARGEST:,} that are read into memory", path)


def is_remote(path: str) -> bool:
    return str(path).startswith(SCHEME)


def join(root: str, *parts: str) -> str:
    """Joins `parts` to `root`, which is a local folder or a gs:// address."""
    if is_remote(root):
        return "/".join([str(root).rstrip("/"), *parts])
    return os.path.join(root, *parts)


def absolute(path: str) -> str:
    """The absolute path; gs:// addresses are absolute already."""
    return path if is_remote(path) else os.path.abspath(path)


def safe_relative(name: str) -> str:
    """`name` if it is UTF-8 and a relative path that stays below the folder it is joined to; InputError otherwise."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"its name is not UTF-8: {name!r}; rename it") from None
    parts, fault = name.split("/"), ""
    if "\\" in name or name[1:2] == ":":
        what = "a backslash" if "\\" in name else "a colon after its first letter"
        fault = f"has {what}, which other systems read as a folder"
    elif name[:1] == "/":
        fault = "begins with a slash, so its folder has no name"
    elif not name:
        fault = "is empty, as where an address ends with a slash and names a folder"
    elif "\0" in name or ".." in parts:
        fault = "would leave the output folder"
    if fault:
        raise InputError(
            f"the name {name!r} {fault}; expected a path below that folder, such as 'train/a'; rename the file or the "
            "record"
        )
    return "/".join(part for part in parts if part not in ("", ".")) or "."


def shortened(relative: str) -> str:
    """A path whose name is short enough for the temporary name under which the file is written."""
    folder, slash, name = relative.rpartition("/")
    data = os.fsencode(name)
    return folder + slash + (data[:100].decode("utf-8", "ignore") if len(data) > 100 else name)


def unfinished(relative: str) -> str:
    """The `shortened` path of the file that a killed process was writing when it left this one; "" for others."""
    parts = _UNFINISHED.fullmatch(relative)
    return parts["folder"] + parts["name"] if parts else ""


def is_pattern(path: str) -> bool:
    """Whether `path` contains wildcards."""
    return any(character in path for character in "*?[")


def fits(name: str, part: str) -> bool:
    """Whether a name matches one part of a pattern."""
    return name == part or ((name[:1] != "." or part[:1] == ".") and fnmatch.fnmatchcase(name, part))


def match(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the names in a path match the parts of a pattern, the last of which is not ``**``."""
    if not names or not parts:
        return not names and not parts
    if parts[0] == "**":
        return match(names, parts[1:]) or (names[0][:1] != "." and match(names[1:], parts))
    return fits(names[0], parts[0]) and match(names[1:], parts[1:])
