"""Raw sets that are listed in a file: CSV with the header image,label[,split], or JSONL with the same names.

An image's key is its path, without the suffix, relative to the manifest's folder; its whole path if it is elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter

from pipelines.inputs.layouts import Candidates, Keyed, Splits, reject
from pipelines.inputs.lists import PATHS, ListEntry, entry_path, read_entries
from pipelines.inputs.names import BLANKS, by_composed, composed, name_of, normal, split_named
from pipelines.inputs.rows import Row, Rows, ordered
from trainer import storage
from trainer.accounts import Reject
from trainer.attempts import attempt
from trainer.options import InputError
from trainer.storage import File
from trainer.terminal import printable, some

MANIFESTS = ("manifest.csv", "manifest.jsonl")
"""Names of a manifest in a folder."""
SUFFIXES = (".csv", ".jsonl")
ABSENT = (errno.ENOENT, errno.ENOTDIR)
"""Errors of a path where nothing is, or a broken link."""
Others = dict[str, set[str] | None]
"""Column that is not read -> the splits that it names; None if it holds anything else."""


def read_manifest(path: str) -> Candidates:
    """Reads a manifest and looks up the files it lists.

    Raises InputError if it is not a manifest at all, or gives its splits in a column of another name.

    Unusable rows (missing files, images listed twice, no label) become rejects. The others are sorted on disk, since
    there may be more of them than fit in memory.
    """
    folder, rejects, others = posixpath.dirname(path), [], {}
    listed = Rows(_once(path, ordered(_listed(path, folder, rejects, others)), rejects))
    if not any(split for *_, split in listed):
        _check_no_splits(path, others)
    pairs = Rows(_paired(path, folder, listed, rejects))
    columns = some([printable(name) for name in sorted(others)], 4)  # a line break would forge a line of the output
    return Candidates(
        posixpath.basename(path) + (f" (columns not read: {columns})" if others else ""),
        Keyed((key, *image) for key, _, image, _ in pairs),
        Keyed((key, *label) for key, _, _, label in pairs),
        Splits(row[:2] for row in pairs).of,
        rejects,
    )


def _listed(path: str, folder: str, rejects: list[Reject], others: Others) -> Iterator[Row]:
    """Yields rows (image, line, label, split) of the usable entries, with whole paths; notes the `others` columns."""
    for entry in read_entries(path, PATHS):
        _note(others, entry)
        image, label, split = (str(entry.values.get(name) or "").strip(BLANKS) for name in (*PATHS, "split"))
        image_path = entry_path(folder, image) if image else ""
        fault = _fault(entry, image, label, split)
        if not fault and image_path == entry_path(folder, label):
            fault = "image and label are the same file"
        if fault:
            rejects.append(reject(image, image_path or path, f"{path} line {entry.line}: {fault}"))
        else:
            yield image_path, entry.line, entry_path(folder, label), split_named(split) or split


def _note(others: Others, entry: ListEntry) -> None:
    """Adds the columns of an entry that are not read, and the splits that they name."""
    for name in entry.values.keys() - {*PATHS, "split", ""}:  # pandas' column of row numbers has no name
        value, splits = entry.values[name], others.setdefault(name, set())
        if value and splits is not None:
            # Of anything else, such as the points of polygons, the text would be long.
            split = split_named(value.strip(BLANKS)) if isinstance(value, str) else None
            others[name] = splits | {split} if split else None


def _check_no_splits(path: str, others: Others) -> None:
    """Raises InputError if a column names splits, in a manifest without splits; the hash would give it new ones.

    A single one in all rows tells no rows apart: it may say where they are from, or that they show trains.
    """
    for name, splits in sorted(others.items()):
        if splits and len(splits) > 1:
            values = " and ".join(sorted(splits))
            raise InputError(
                f"{path}: its column {name!r}, which is not read, holds {values}, and no row has a split; name that "
                "column split, or remove it to have new splits made by the hash of the names"
            )


def _once(path: str, rows: Iterable[Row], rejects: list[Reject]) -> Iterator[Row]:
    """Yields the first row of every image; the rows must be sorted by image and line."""
    for image, group in itertools.groupby(rows, itemgetter(0)):
        first, *others = group
        yield first
        for _, line, *_ in others:
            rejects.append(reject(image, image, f"{path} line {line}: already listed in line {first[1]}"))


def _paired(path: str, folder: str, listed: Rows, rejects: list[Reject]) -> Iterator[Row]:
    """Yields rows (key, split, image, label), the last two as (path, size, modified), of entries whose files exist."""
    parts = ((part, line, kind, split) for *files, split in _parts(listed) for part, line, kind in files)
    files = ordered((line, kind, split, *file) for file, line, kind, split in _looked_up(ordered(parts), listed))
    for line, group in itertools.groupby(files, itemgetter(0)):
        (_, _, split, image, *image_file), (_, _, _, label, *label_file) = group
        key = _key(folder, image)
        missing = image if not image_file[0] else label if not label_file[0] else ""
        if missing:
            cure = "; write / in place of \\" if "\\" in missing else ""
            rejects.append(reject(key, image, f"{path} line {line}: {missing} not found{cure}"))
        else:
            yield key, split, tuple(image_file), tuple(label_file)


def _parts(listed: Rows) -> Iterator[tuple[tuple[str, int, int], tuple[str, int, int], str]]:
    for image, line, label, split in listed:
        yield (image, line, 0), (label, line, 1), split


def _fault(entry: ListEntry, image: str, label: str, split: str) -> str | None:
    if entry.fault:
        return entry.fault
    if not image or not label:
        values = {name: value for name, value in entry.values.items() if name}
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
        key = key[len(storage.SCHEME) :]
    elif key.startswith("../"):
        key = os.path.abspath(key)
    return normal(key.lstrip("/"))


def _looked_up(rows: Iterable[Row], listed: Rows) -> Iterator[tuple[Row, int, int, str]]:
    """Yields the rows (path, line, kind, split), sorted by path, with (path, file's path, size, modified) in front.

    The file's path is "" if there is none; the form of its accents may differ from the manifest's.
    """
    remote = _Remote(path for image, _, label, _ in listed for path in (image, label) if storage.is_remote(path))
    forms = functools.lru_cache(maxsize=1)(_forms)
    for path, group in itertools.groupby(rows, itemgetter(0)):
        file = remote.find(path) if storage.is_remote(path) else _local(path) or _other_form(path, forms)
        facts = (path, file.path, file.size, file.modified) if file else (path, "", 0, 0)
        for _, line, kind, split in group:
            yield facts, line, kind, split


class _Remote:
    """The objects in the folders of some paths; `find` must be called in the order of the paths."""

    def __init__(self, paths: Iterable[str]) -> None:
        folders = {f"{posixpath.dirname(path)}/" for path in paths}
        folders = set(filter(storage.is_remote, folders))  # of gs://a.png it is gs:/, the beginning of all others
        self._forms: dict[str, list[File]] = {}
        self._rows = ordered(self._walked(_tops(folders)))
        self._next = next(self._rows, None)

    def _walked(self, folders: Iterable[str]) -> Iterator[Row]:
        for folder in folders:
            try:
                for file in storage.walk(folder):
                    path = storage.join(folder, file.relative)
                    if not path.isascii():
                        self._forms.setdefault(composed(path), []).append(file)
                    yield path, file.size, file.modified
            except FileNotFoundError:  # there is no such folder
                continue
            except OSError as error:
                raise InputError(
                    f"{folder}, in which the manifest names files, cannot be listed: {error.strerror or error}; allow "
                    "that (roles/storage.objectViewer), or remove these rows"
                ) from None

    def find(self, path: str) -> File | None:
        while self._next and self._next[0] < path:
            self._next = next(self._rows, None)
        if self._next and self._next[0] == path:
            return File(path, path, *self._next[1:])
        alike = self._forms.get(composed(path), [])
        return alike[0] if len(alike) == 1 else None


def _other_form(path: str, forms: Callable[[str], dict[str, File]]) -> File | None:
    """The local file whose name differs only in the form of its accents. Looks in its folder, but does not recurse."""
    if path.isascii():
        return None
    with contextlib.suppress(OSError):  # a name that is too long
        return forms(posixpath.dirname(path)).get(composed(path))
    return None


def _forms(folder: str) -> dict[str, File]:
    """The files in a folder by their composed paths, without those that share one."""
    files = {storage.join(folder, file.relative): file for file in storage.glob(storage.join(folder, "*"))}
    return {form: files[name] for form, name in by_composed(files).items()}


def _tops(folders: Iterable[str]) -> list[str]:
    """The outermost of the folders, without the slash that their paths end in."""
    tops: list[str] = []
    for folder in sorted(folders):
        if not tops or not folder.startswith(tops[-1]):
            tops.append(folder)
    return [top[:-1] for top in tops]


def _local(path: str) -> File | None:
    """The local file at `path`; None if there is none. Of one that cannot be looked at, size and time are 0."""
    info = None
    try:
        info = attempt(path, lambda: os.stat(path))
    except OSError as error:
        # Reading it, as of a folder that may not be entered, gives the reason for its reject.
        if error.errno == errno.ENAMETOOLONG or (error.errno in ABSENT and not os.path.lexists(path)):
            return None
    if info and stat.S_ISDIR(info.st_mode):
        return None
    size, modified = (info.st_size, info.st_mtime_ns) if info and stat.S_ISREG(info.st_mode) else (0, 0)
    return File(path, posixpath.basename(path), size, modified)
