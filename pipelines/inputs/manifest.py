"""Raw sets that are listed in a file: CSV with the header image,label[,split], or JSONL with the same names.

An image's key is its path below the manifest's folder, or its whole path where it lies elsewhere, without the suffix.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
from collections.abc import Iterable, Mapping

from pipelines.inputs.layouts import Candidates, Keyed, reject
from pipelines.inputs.lists import Row, entry_path, read_rows
from pipelines.inputs.names import BLANKS, by_composed, composed, name_of, split_named
from trainer import storage
from trainer.storage import File

MANIFESTS = ("manifest.csv", "manifest.jsonl")
"""Names under which a manifest is looked for in a folder."""
SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("image", "label")


def read_manifest(path: str) -> Candidates:
    """Reads a manifest and looks up the files it lists. Raises InputError where it is no manifest at all.

    Rows that cannot be used (files that are missing, images listed twice, no label) are rejects.
    """
    folder = posixpath.dirname(path)
    rejects = []
    lines: dict[str, int] = {}
    rows = []
    for row in read_rows(path, COLUMNS):
        image, label, split = (str(row.values.get(name) or "").strip(BLANKS) for name in (*COLUMNS, "split"))
        image_path = entry_path(folder, image) if image else ""
        fault = _fault(row, image, label, split)
        if not fault and image_path == entry_path(folder, label):
            fault = "one file is image and label"
        if not fault and image_path in lines:
            fault = f"already listed in line {lines[image_path]}"
        if fault:
            rejects.append(reject(image, image_path or path, f"{path} line {row.line}: {fault}"))
            continue
        lines[image_path] = row.line
        rows.append((row.line, image_path, entry_path(folder, label), split))
    images, labels = [], []
    splits: dict[str, str | None] = {}
    files = _look_up(part for _, image, label, _ in rows for part in (image, label))
    for line, image, label, split in rows:
        key = _key(folder, image)
        missing = [part for part in (image, label) if part not in files]
        if missing:
            rejects.append(reject(key, image, f"{path} line {line}: {missing[0]} not found"))
            continue
        for keyed, file in ((images, files[image]), (labels, files[label])):
            keyed.append((key, file.path, file.size, file.modified))
        splits[key] = split_named(split) or split or None
    return Candidates(posixpath.basename(path), Keyed(images), Keyed(labels), splits.get, rejects)


def _fault(row: Row, image: str, label: str, split: str) -> str | None:
    if row.fault:
        return row.fault
    if not image or not label:
        values = {name: value for name, value in row.values.items() if name}
        return f"expected an image and a label, got {json.dumps(values, default=str)}"
    if "\0" in image + label:
        return "a path with a NUL character"
    if split and not re.fullmatch(r"[\w-]+", split):
        return f"a split is one word, got {split!r}"
    return None


def _key(folder: str, image: str) -> str:
    below = entry_path("", folder) + "/" if folder else ""
    key = name_of(image.removeprefix(below) if below else image)
    if storage.is_remote(key):
        return key[len(storage.SCHEME) :]
    if key.startswith("../"):
        key = os.path.abspath(key)
    return key.lstrip("/")


def _look_up(paths: Iterable[str]) -> dict[str, File]:
    """The files that exist among `paths`."""
    paths = set(paths)
    remote = {path for path in paths if storage.is_remote(path)}
    existing = {path: file for path in paths - remote if (file := _local(path))}
    # Locally, whoever writes accents in another way; a folder may be the root of a disk, and is not walked.
    for folder in sorted({posixpath.dirname(path) for path in paths - remote - existing.keys() if not path.isascii()}):
        with contextlib.suppress(OSError):  # a name that is too long
            listed = storage.glob(storage.join(folder, "*"))
            existing |= _found(paths - existing.keys(), {storage.join(folder, file.relative): file for file in listed})
    for folder in _tops(remote):
        with contextlib.suppress(OSError):  # there is no such folder
            listed = {storage.join(folder, file.relative): file for file in storage.files(folder)}
            existing |= _found(paths, listed)
    return existing


def _tops(paths: Iterable[str]) -> list[str]:
    """The folders of `paths`, without those that lie in others of them."""
    tops: list[str] = []
    for folder in sorted({posixpath.dirname(path) + "/" for path in paths}):
        if not tops or not folder.startswith(tops[-1]):
            tops.append(folder)
    return [top[:-1] for top in tops]


def _found(paths: Iterable[str], files: Mapping[str, File]) -> dict[str, File]:
    """Those of `paths` that are among `files`, whichever way accents are written."""
    forms = by_composed(files)
    names = {path: path if path in files else forms.get(composed(path)) for path in paths}
    return {path: files[name] for path, name in names.items() if name}


def _local(path: str) -> File | None:
    """The local file at `path`, where there is one; of a link that leads nowhere nothing but its name is known."""
    if not os.path.lexists(path) or os.path.isdir(path):
        return None
    info = os.stat(path) if os.path.isfile(path) else None
    size, modified = (info.st_size, info.st_mtime_ns) if info else (0, 0)
    return File(path, posixpath.basename(path), size, modified)
