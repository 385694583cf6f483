"""The images that `segment` processes, from a folder, a glob or a list, and the names of their masks.

There may be a hundred million of them: they are named in three passes over rows that are sorted on disk, with only
eight bytes per image in memory.
"""

from __future__ import annotations

import functools
import itertools
import os
import posixpath
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from pipelines.inputs.layouts import UNREAD, labels_beside_images
from pipelines.inputs.lists import entry_path, is_list, read_rows
from pipelines.inputs.rows import Row, Rows, ordered
from trainer import prefetch, storage
from trainer.formats.images import SUFFIXES
from trainer.options import InputError

RESERVED = ("overlays", "confidence", "images.parquet")
"""Folders in the output that hold no masks."""
LONGEST_NAME, LONGEST_PATH, LONGEST_OBJECT = 255, 4000, 1000
"""Bytes of a file name, of a path, and of an object's name; the latter two leave room for temporary files."""


class SourceImage(NamedTuple):
    """One image to segment.

    Attributes:
      path: the path of the image, local or gs://.
      name: relative path of its mask without ".png", with forward slashes.
      identity: the identity of its contents, see `storage.identity`, if the listing includes it; else "".
    """

    path: str
    name: str
    identity: str = ""


class Images:
    """A sequence of images that is kept on disk."""

    def __init__(self, images: Iterable[SourceImage] = ()) -> None:
        self._rows = Rows(map(tuple, images))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[SourceImage]:
        return itertools.starmap(SourceImage, self._rows)

    def __getitem__(self, index: int) -> SourceImage:
        return SourceImage(*self._rows[index])


@dataclass(frozen=True)
class Listing:
    """The images of a collection.

    Attributes:
      images: in order of name.
      unusable: pairs (path, reason) for images whose masks cannot be written: their names are unsafe, reserved, too
        long or taken, or they are in the output folder.
      notes: sentences on files that were left out because they are not images, and on duplicates.
    """

    images: Images
    unusable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def find(source: str, output: str = "") -> Listing:
    """Lists the images of `source`.

    Args:
      source: a folder (searched recursively), an image, a glob, or a list: a .txt file with one path per line, or
        a .csv or .jsonl file with a column `image`. Paths in a list are relative to the list's folder. A path that
        exists is never taken for a glob, whatever characters it contains.
      output: folder of the masks; files in it, also through links, are not inputs.

    Masks are named after the image's path relative to the folder, to the fixed part of the glob, or to the folder that
    all images of a list share. If two images differ only in their suffix, both keep it in the name.

    Raises:
      InputError: `source` is missing, cannot be read, has no images, lies in the output folder, or is a folder that
        holds labels of a raw set beside its images, which would be segmented too.
    """
    try:
        files, kind, notes = _listed(source)
        contents = _Contents()
        rows = ordered(_chosen(files, kind, _inside(output), contents))
    except OSError as error:
        place = error.filename or source
        raise InputError(f"{place} cannot be read: {error.strerror or error}; fix that or leave it out") from None
    if kind == "folder" and output and storage.lies_in(source, output) and storage.lies_in(output, source):
        raise InputError(f"input and output are the same folder, {source}; masks would replace images")
    if contents.inside and not contents.images and not contents.others.count:
        raise InputError(f"{source} lies in the output folder {output}; choose another folder for the masks")
    if not contents.images:
        others = f"others, such as {contents.first}" if contents.first else "no files at all"
        raise InputError(f"no images in {source} ({kind}); expected {', '.join(SUFFIXES)}, found {others}")
    names = _Names()
    images, unusable = _name(rows, names, output)
    if kind == "folder":
        _check_no_labels(source, names.folders)
    if contents.inside and kind in ("list", "image"):
        reason = "it lies in the output folder; choose another one for the masks"
        unusable += [(path, reason) for path in contents.inside_paths]
    elif contents.inside:
        notes.append(f"files left out because they lie in the output folder: {contents.inside}")
    if contents.unreadable.count:
        notes.append(
            f"broken links, FIFOs and the like, skipped: {contents.unreadable.count}, "
            f"such as {contents.unreadable.first}"
        )
    if contents.suffixes:
        kinds = [f"{count} {suffix}" for suffix, count in sorted(contents.suffixes.items())]
        notes.append(f"files that are not read as images, skipped: {', '.join(kinds)}")
    return Listing(images, tuple(unusable), tuple(notes))


def _check_no_labels(source: str, folders: Iterable[str]) -> None:
    below = _posix(storage.join(source, ""))
    pair = labels_beside_images(folder[len(below) :] for folder in folders if folder.startswith(below))
    if pair:
        labels, images = (storage.join(source, name) for name in pair)
        raise InputError(
            f"{labels} has the labels of the images in {images}, and would be segmented like these; give {images} as "
            f"--input, or a pattern such as '{below}**' for everything"
        )


def _listed(source: str) -> tuple[Iterable[storage.File], str, list[str]]:
    """The files that `source` stands for, its kind ("folder", "glob", "image" or "list"), and notes on it."""
    is_folder = prefetch.ahead(source, functools.partial(storage.is_dir, source))
    if storage.exists(source):  # first, for who may read objects need not be allowed to list them
        if is_list(source):
            files, notes = _from_list(source)
            return files, "list", notes
        return [_file(source, posixpath.basename(_posix(source)))], "image", []
    if is_folder():
        return storage.walk(source), "folder", []
    if storage.is_pattern(source):
        return _once(storage.matching(source)), "glob", []
    raise InputError(f"{source} does not exist; expected a folder, a glob, an image or a list")


def _once(files: Iterable[storage.File]) -> Iterator[storage.File]:
    """The files in order of their relative paths, each once, even if a pattern matches it in two ways."""
    rows = ordered((file.relative, file.path, file.size, file.modified, file.identity) for file in files)
    for relative, group in itertools.groupby(rows, itemgetter(0)):
        path, size, modified, identity = next(group)[1:]
        yield storage.File(path, relative, size, modified, identity)


@dataclass
class _Some:
    """The number of files of a kind, and the first of them by path."""

    count: int = 0
    first: str = ""

    def add(self, relative: str) -> None:
        self.first = min(self.first or relative, relative)
        self.count += 1


@dataclass
class _Contents:
    """The contents of a collection.

    Attributes:
      images: number of images.
      inside, inside_paths: number of files in the output folder; their paths, if they were named explicitly.
      others, unreadable: files that are not images, and those of them that cannot be read.
      suffixes: the number of the former without the latter, by suffix; of "hidden" files, and of "other" ones.
      first: the first file of all by path.
    """

    images: int = 0
    inside: int = 0
    inside_paths: list[str] = field(default_factory=list)
    others: _Some = field(default_factory=_Some)
    unreadable: _Some = field(default_factory=_Some)
    suffixes: Counter[str] = field(default_factory=Counter)
    first: str = ""


def _chosen(
    files: Iterable[storage.File], kind: str, inside: Callable[[str], bool], contents: _Contents
) -> Iterator[Row]:
    """Yields rows (stem, relative path, path, identity) of the images among the files, and counts all in `contents`.

    Args:
      kind: "folder", "glob", "list" or "image". Files of the last two were named explicitly, so they are images
        whatever their suffixes.
      inside: whether a path is in the output folder.
    """
    named = kind in ("list", "image")
    for file in files:
        contents.first = min(contents.first or file.relative, file.relative)
        if inside(file.path):
            contents.inside += 1
            contents.inside_paths += [file.path] * named
        elif named or _is_image(file.relative, kind):
            contents.images += 1
            yield posixpath.splitext(file.relative)[0], file.relative, file.path, file.identity
        else:
            contents.others.add(file.relative)
            if not file.modified and not storage.is_remote(file.path):
                contents.unreadable.add(file.relative)
            else:
                contents.suffixes[_kind_of(file.relative, kind)] += 1


def _inside(output: str) -> Callable[[str], bool]:
    """Returns a function that tells whether a file lies in the folder `output`, or is a link to one that does."""
    if not output or not (storage.is_remote(output) or storage.is_dir(output)):
        return lambda path: False
    lies_in = functools.cache(lambda folder: storage.lies_in(folder, output))

    def inside(path: str) -> bool:
        linked = not storage.is_remote(path) and os.path.islink(path)
        return lies_in(_folder(path)) or (linked and lies_in(path))

    return inside


def _is_image(relative: str, kind: str) -> bool:
    return relative.lower().endswith(SUFFIXES) and not _is_hidden(relative, kind)


def _is_hidden(relative: str, kind: str) -> bool:
    """Whether a file is hidden. Folders that a pattern matches are not, since only ".*" matches them.

    Nor are the parts "." and "..", which objects may have in their names, and which are rejected later.
    """
    parts = relative.split("/") if kind == "folder" else [relative.rpartition("/")[2]]
    return any(part.startswith(".") and part not in (".", "..") for part in parts)


def _kind_of(relative: str, kind: str) -> str:
    """The suffix of a file that is not an image, "hidden" or "other": image formats alone are worth a name."""
    suffix = posixpath.splitext(relative)[1].lower()
    return "hidden" if _is_hidden(relative, kind) else suffix if suffix in UNREAD else "other"


def _folder(path: str) -> str:
    """The folder of a file; "" for the current one."""
    head, slash, _ = _posix(path).rpartition("/")
    return head or slash


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")


def _file(path: str, relative: str) -> storage.File:
    """A file that was named explicitly rather than listed, so that only its path is known."""
    return storage.File(path, relative, 0, 0)


def _from_list(source: str) -> tuple[Iterable[storage.File], list[str]]:
    """The files of a list, each once, and a note on duplicates."""
    once, lines, shared, kinds = Rows(), 0, None, set()

    def paths() -> Iterator[Row]:
        nonlocal lines, shared
        folder = _folder(storage.absolute(source))
        for row in read_rows(source):
            image = row.values.get("image")
            if row.fault or not isinstance(image, str) or not image.strip():
                fault = row.fault or f"expected an image, got {dict(row.values)}"
                raise InputError(f"{source} line {row.line}: {fault}; correct or remove the line")
            path = _posix(entry_path(folder, image))
            shared = _shared(shared, path)
            kinds.add(storage.is_remote(path))
            lines += 1
            yield (path,)

    once.extend(path for path, _ in itertools.groupby(ordered(paths())))
    if len(kinds) == 2:
        raise InputError(f"{source} lists local files and gs:// objects; expected one kind")
    again = lines - len(once)
    notes = [f"entries of {source} that repeat an image: {again}"] if again else []
    return (_file(path, path[len(shared or "") :]) for (path,) in once), notes


def _shared(folder: str | None, path: str) -> str:
    """The deepest folder, with a slash, that holds both `path` and `folder`; the folder of `path` if that is None."""
    own = path[: path.rfind("/") + 1]
    if folder is None or own.startswith(folder):
        return own if folder is None else folder
    ends = zip(folder.split("/")[:-1], own.split("/")[:-1], strict=False)
    return "".join(f"{part}/" for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))


def _name(rows: Iterable[Row], names: _Names, output: str) -> tuple[Images, list[tuple[str, str]]]:
    """Names the mask of every image.

    Args:
      rows: (stem, relative path, path, identity), sorted.
      names: filled with facts about all names.

    Returns:
      The images, and pairs (path, reason) for those whose masks have no valid name.
    """
    unusable: list[tuple[str, str]] = []
    named = ordered(_named(rows, names, unusable))
    return Images(_placed(named, names, output, unusable)), unusable


class _Names:
    """Facts about all images that are needed before the first mask can be placed.

    Attributes:
      folders: the folders of the images.
      parents: folders of masks that are themselves named like a mask, ending in ".png".
      hashes: the hashes of the folded names.
    """

    def __init__(self) -> None:
        self.folders: set[str] = set()
        self.parents: set[str] = set()
        self.hashes = array("q")

    def shared(self) -> frozenset[int]:
        """Hashes of names that are equal, or that a file system may not distinguish."""
        hashes = np.frombuffer(self.hashes or array("q", [0]), np.int64)
        hashes.sort()
        return frozenset(hashes[1:][hashes[1:] == hashes[:-1]].tolist())


def _named(rows: Iterable[Row], names: _Names, unusable: list[tuple[str, str]]) -> Iterator[Row]:
    """Yields rows (name, relative path, path, identity); images that differ only in their suffix keep it."""
    for stem, group in itertools.groupby(rows, itemgetter(0)):
        alike = list(group)
        for _, relative, path, identity in alike:
            names.folders.add(_folder(path))
            try:
                name = storage.safe_relative(stem if len(alike) == 1 else relative)
            except InputError as error:
                unusable.append((path, str(error)))
                continue
            if ".png/" in name:
                names.parents.update(parent for parent in _parents(name) if parent.endswith(".png"))
            names.hashes.append(hash(folded(name)))
            yield name, relative, path, identity


def _placed(rows: Iterable[Row], names: _Names, output: str, unusable: list[tuple[str, str]]) -> Iterator[SourceImage]:
    """Yields the images whose masks have a place, in order of name, like the rows."""
    fault, shared = _faults(names, output), names.shared()
    fold = folded if shared and storage.folds_case(output or ".") else str
    taken: dict[str, SourceImage] = {}
    for name, _, path, identity in rows:
        source = SourceImage(path, name, identity)
        if reason := fault(name):
            unusable.append((path, reason))
        elif shared and hash(folded(name)) in shared and (other := taken.setdefault(fold(name), source)) is not source:
            case = "" if other.name == name else ", since upper and lower case are the same in the output folder"
            unusable.append((path, f"its mask would overwrite that of {other.path}{case}; rename one"))
        else:
            yield source


def folded(name: str) -> str:
    """The common form of names that some file systems do not distinguish."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _faults(names: _Names, output: str) -> Callable[[str], str]:
    """Returns a function that gives the reason why a mask of some name cannot be written; "" if it can."""
    remote = storage.is_remote(output)
    length = len(os.fsencode(storage.join(storage.absolute(output), max(RESERVED, key=len), "")))
    # Cloud Storage can hold both "a.png" and "a.png/b.png"; on a disk a.png cannot be both a file and a folder.
    parents = frozenset() if remote else names.parents
    sources = {storage.real(folder) for folder in names.folders}

    @functools.cache
    def misled(folder: str) -> str:
        place = storage.real(storage.join(output, folder))
        return place if place in sources else ""

    def fault(name: str) -> str:
        top, _, below = name.partition("/")
        if below and (top in RESERVED or (top.casefold() in RESERVED and storage.folds_case(output))):
            return f"its mask would lie in {top}/, which is reserved; rename the image's folder"
        if f"{name}.png" in parents:
            return f"its mask would be called {name}.png, like a folder of other masks; rename the image"
        if too_long(name):
            return "the name of its mask would be too long; shorten the image's name"
        if remote and ("\n" in name or "\r" in name):
            return "Cloud Storage does not allow line breaks in names; rename the image"
        if output and (place := misled(_folder(name))):
            return f"its mask would lie in {place}, among the images; choose another output folder"
        return ""

    def too_long(name: str) -> bool:
        mask = f"{name}.png".encode()
        if remote:
            return length + len(mask) > LONGEST_OBJECT
        return length + len(mask) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in mask.split(b"/"))

    return fault


def _parents(name: str) -> Iterator[str]:
    """Yields the parent folders of a relative path: "a/b/c" -> "a/b", "a"."""
    while name := name.rpartition("/")[0]:
        yield name
