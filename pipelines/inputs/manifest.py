"""Raw sets that are listed in a file: CSV with the header image,label[,split], or JSONL with the same names.

Relative paths are relative to the manifest's folder; files may lie anywhere, local or gs://. A picture's key is its
path below the manifest's folder, or its whole path where it lies elsewhere, without the suffix.
"""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator

from pipelines.inputs.layouts import SPLIT_FOLDERS, Found, reject, without_suffix
from trainer import storage
from trainer.options import InputError
from trainer.storage import File


def read_manifest(path: str) -> Found:
    """Reads a manifest and looks up the files it lists. Raises InputError where it is no manifest at all.

    Rows that cannot be used (files that are missing, pictures listed twice, no label) are rejects.
    """
    found = Found(posixpath.basename(path), {}, {}, palette_hint=None)
    folder = posixpath.dirname(path)
    splits: dict[str, str | None] = {}
    listed: dict[str, int] = {}
    rows = []
    for line, row in _rows(path):
        image, label, split = (str(row.get(name) or "").strip() for name in ("image", "label", "split"))
        fault = _fault(row, image, label, split)
        image_path = _absolute(folder, image) if image else ""
        if not fault and image_path in listed:
            fault = f"listed already in line {listed[image_path]}"
        if fault:
            found.rejects.append(reject(image, image_path or path, f"{path} line {line}: {fault}"))
            continue
        listed[image_path] = line
        rows.append((line, image_path, _absolute(folder, label), split))
    files = _look_up(part for _, image, label, _ in rows for part in (image, label))
    for line, image, label, split in rows:
        key = _key(folder, image)
        missing = [part for part in (image, label) if part not in files]
        if missing:
            found.rejects.append(reject(key, image, f"{path} line {line}: there is no file {missing[0]}"))
            continue
        found.images.setdefault(key, []).append(files[image])
        found.labels.setdefault(key, []).append(files[label])
        splits[key] = SPLIT_FOLDERS.get(split, split) or None
    found.split_of = splits.get
    return found


def _rows(path: str) -> Iterator[tuple[int, dict]]:
    """Lines of the manifest as (line number, row); a JSONL line that is no object is a row without entries."""
    try:
        text = storage.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from None
    if path.lower().endswith(".jsonl"):
        for line, content in enumerate(text.splitlines(), 1):
            if content.strip():
                yield line, _json_object(content)
        return
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    header = [name.strip() for name in reader.fieldnames or []]
    if not {"image", "label"} <= set(header):
        raise InputError(f"{path}: expected the header image,label or image,label,split, got {','.join(header)!r}")
    reader.fieldnames = header
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is not CSV: {error}") from None


def _json_object(content: str) -> dict:
    try:
        value = json.loads(content)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _fault(row: dict, image: str, label: str, split: str) -> str | None:
    if not image or not label:
        return f"expected an image and a label, got {json.dumps({k: v for k, v in row.items() if k}, default=str)}"
    if "\0" in image + label:
        return "a path with a NUL character"
    if split and not re.fullmatch(r"[\w-]+", split):
        return f"a split is one word, got {split!r}"
    return None


def _absolute(folder: str, path: str) -> str:
    """The path a manifest entry stands for: local or gs://, without "." and ".."."""
    if storage.is_remote(path) or (storage.is_remote(folder) and not path.startswith("/")):
        whole = path if storage.is_remote(path) else storage.join(folder, path)
        return storage.SCHEME + posixpath.normpath("/" + whole[len(storage.SCHEME) :]).lstrip("/")
    return os.path.normpath(os.path.join(folder, path))


def _key(folder: str, image: str) -> str:
    below = _absolute("", folder) + "/" if folder else ""
    key = without_suffix(image.removeprefix(below) if below else image)
    if storage.is_remote(key):
        return key[len(storage.SCHEME) :]
    if key.startswith("../"):
        key = os.path.abspath(key)
    return key.lstrip("/")


def _look_up(paths: Iterable[str]) -> dict[str, File]:
    """The files that exist among `paths`, found by listing their folders, each once."""
    wanted = set(paths)
    tops: list[str] = []
    for folder in sorted({posixpath.dirname(path) + "/" for path in wanted}):
        if not tops or not folder.startswith(tops[-1]):
            tops.append(folder)
    found = {}
    for folder in (top[:-1] for top in tops):
        try:
            files = storage.files(folder or ".")
        except FileNotFoundError:
            continue
        for file in files:
            path = storage.join(folder, file.relative)
            if path in wanted:
                found[path] = file
    return found
