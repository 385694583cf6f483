"""What `segment` works on: the pictures of a folder, a glob or a manifest, and the name each mask gets."""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trainer import storage
from trainer.options import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MANIFESTS = (".txt", ".csv", ".jsonl")
RESERVED = ("overlays", "confidence")
"""Folders of the output that hold no masks."""


@dataclass(frozen=True)
class Picture:
    """One picture to segment.

    Attributes:
      path: where it is, local or gs://.
      name: relative path of its mask without ".png", with forward slashes.
      size: bytes, 0 when not known.
      modified: time of its last change in nanoseconds, 0 when not known.
    """

    path: str
    name: str
    size: int = 0
    modified: int = 0


@dataclass(frozen=True)
class Listing:
    """Attributes: `pictures` in order of name; `unusable` pairs (path, reason), for pictures whose mask has no place;
    `notes` for people, on what was left out because it is no picture."""

    pictures: tuple[Picture, ...]
    unusable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def find(source: str, output: str = "") -> Listing:
    """Lists the pictures of `source`.

    Args:
      source: a folder (searched recursively), a picture, a glob, or a manifest: a .txt file with one path per line, or
        a .csv or .jsonl file with a column `image`. Paths in a manifest are relative to the manifest's folder.
      output: folder of the masks; what lies in it is not an input.

    Masks are named by the picture's path below the folder, below the fixed part of the glob, or below the folder that
    all pictures of a manifest share. Where two pictures differ in their suffix only, both keep it in the name.

    Raises:
      InputError: `source` is missing, cannot be read, or has no pictures.
    """
    if any(character in source for character in "*?["):
        files, kind = _from_glob(source), "glob"
    elif storage.is_dir(source):
        if not storage.is_remote(source) and os.path.realpath(source) == os.path.realpath(output or "/"):
            raise InputError(f"input and output are the same folder, {source}; masks would replace pictures")
        files, kind = storage.files(source), "folder"
    elif not storage.exists(source):
        raise InputError(f"{source} does not exist; expected a folder, a glob, a picture or a manifest")
    elif source.lower().endswith(MANIFESTS):
        files, kind = _from_manifest(source), "manifest"
    else:
        files, kind = [_file(source, posixpath.basename(_posix(source)))], "file"
    inside = _posix(os.path.abspath(output) if output and not storage.is_remote(output) else output).rstrip("/") + "/"
    outside = [f for f in files if not output or not _posix(_absolute(f.path)).startswith(inside)]
    # What a person listed by name is taken at their word; a folder or glob may well hold other files.
    found = [f for f in outside if kind in ("manifest", "file") or _is_picture(f.relative)]
    notes = []
    if len(files) > len(outside):
        notes.append(f"{len(files) - len(outside)} files that lie in the output folder are left out")
    if len(outside) > len(found):
        notes.append(f"{len(outside) - len(found)} files that are no pictures by their name are left out")
    if not found:
        raise InputError(f"no pictures in {source} ({kind}); looked for {', '.join(SUFFIXES)}" + _seen(files))
    pictures, unusable = _name(found)
    return Listing(tuple(pictures), tuple(unusable), tuple(notes))


def _is_picture(relative: str) -> bool:
    return relative.lower().endswith(SUFFIXES) and not posixpath.basename(relative).startswith(".")


def _seen(files: list[storage.File]) -> str:
    return f" and saw {len(files)} other files such as {files[0].relative}" if files else " and saw no files at all"


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")


def _absolute(path: str) -> str:
    return path if storage.is_remote(path) else os.path.abspath(path)


def _file(path: str, relative: str) -> storage.File:
    """A file that was named rather than found in a listing; its size is known if it is local and exists."""
    if storage.is_remote(path):
        return storage.File(path, relative, 0, 0)
    try:
        stat = os.stat(path)
    except OSError:
        return storage.File(path, relative, 0, 0)
    return storage.File(path, relative, stat.st_size, stat.st_mtime_ns)


def _from_glob(pattern: str) -> list[storage.File]:
    fixed = _posix(re.split(r"[*?\[]", pattern, maxsplit=1)[0])
    root = fixed[: fixed.rfind("/") + 1]
    return [_file(path, _posix(path)[len(root) :].lstrip("/")) for path in storage.glob(pattern)]


def _from_manifest(source: str) -> list[storage.File]:
    folder = posixpath.dirname(_posix(_absolute(source)))
    paths = []
    for entry in _entries(source):
        path = entry if storage.is_remote(entry) else storage.join(folder, entry)
        # A gs:// address must keep its double slash.
        scheme = storage.SCHEME if storage.is_remote(path) else ""
        paths.append(scheme + posixpath.normpath(_posix(path[len(scheme) :])))
    paths = list(dict.fromkeys(paths))
    folders = {posixpath.dirname(path) for path in paths}
    try:
        shared = posixpath.commonpath(folders) if folders else ""
    except ValueError:
        raise InputError(f"{source} lists local files and gs:// objects; expected one kind") from None
    if any(map(storage.is_remote, paths)):
        shared = storage.SCHEME + shared.partition(":/")[2].lstrip("/")
    return [_file(path, path[len(shared) :].lstrip("/")) for path in paths]


def _entries(source: str) -> Iterator[str]:
    """The paths a manifest lists, as they stand there."""
    try:
        text = storage.read(source).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not a text file in UTF-8: {error}") from None
    lines = text.splitlines()
    if source.lower().endswith(".txt"):
        yield from (line.strip() for line in lines if line.strip() and not line.startswith("#"))
        return
    rows = _json_rows(source, lines) if source.lower().endswith(".jsonl") else _csv_rows(source, text)
    for number, row in enumerate(rows, 1):
        image = row.get("image") if isinstance(row, dict) else None
        if not isinstance(image, str) or not image.strip():
            shown = ", ".join(map(str, row)) if isinstance(row, dict) else row
            raise InputError(f"{source}: entry {number} has no 'image'; expected a column of that name, got: {shown}")
        yield image.strip()


def _json_rows(source: str, lines: Iterable[str]) -> Iterator[object]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{source}: line {number} is not JSON: {error}") from None


def _csv_rows(source: str, text: str) -> Iterator[dict]:
    try:
        yield from csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    except csv.Error as error:
        raise InputError(f"{source} is not CSV: {error}") from None


def _name(files: list[storage.File]) -> tuple[list[Picture], list[tuple[str, str]]]:
    """Gives every file its mask's name; the second list says for which files there is none, and why."""
    stems = Counter(posixpath.splitext(file.relative)[0] for file in files)
    pictures: dict[str, Picture] = {}
    unusable = []
    for file in sorted(files, key=lambda file: file.relative):
        stem = posixpath.splitext(file.relative)[0]
        name = stem if stems[stem] == 1 else file.relative
        try:
            storage.safe_relative(name)
        except InputError as error:
            unusable.append((file.path, str(error)))
            continue
        if name.split("/")[0] in RESERVED and "/" in name:
            unusable.append((file.path, f"its mask would lie in {name.split('/')[0]}/, where no masks are"))
        elif name in pictures:
            unusable.append((file.path, f"its mask would have the name of that of {pictures[name].path}"))
        else:
            pictures[name] = Picture(file.path, name, file.size, file.modified)
    return sorted(pictures.values(), key=lambda picture: picture.name), unusable
