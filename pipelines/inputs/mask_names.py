"""The names of masks: every image of a collection gets one of its own, or a reason why it cannot have a mask."""

from __future__ import annotations

import functools
import itertools
import os
import posixpath
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import itemgetter

from pipelines.inputs.hashes import Hashes
from pipelines.inputs.rows import Row, ordered
from trainer import storage
from trainer.options import InputError

RESERVED = ("overlays", "confidence", "images.parquet")
"""Folders in the output that hold no masks."""
LONGEST_NAME, LONGEST_PATH, LONGEST_OBJECT = 255, 4000, 1000
"""Bytes of a file name, of a path, and of an object's name; the latter two leave room for temporary files."""


def with_mask_names(
    rows: Iterable[Row], folders: Collection[str], output: str, unusable: list[tuple[str, str]]
) -> Iterator[Row]:
    """Yields rows (path, name, identity) of the images whose masks have a valid name, in order of name.

    Args:
      rows: (stem, relative path, path, identity), sorted.
      folders: the folders of these images.
      output: folder of the masks.
      unusable: filled with pairs (path, reason) for the other images.
    """
    names = _Names()
    named = ordered(_named(rows, names, unusable))
    return _placed(named, names, _faults(names, folders, output), output, unusable)


class _Names:
    """Facts about all names that are needed before the first mask can be placed.

    Attributes:
      parents: folders of masks that are themselves named like a mask, ending in ".png".
      hashes: the hashes of the folded names; those that are repeated are of names that are equal, or that a file
        system may not distinguish.
    """

    def __init__(self) -> None:
        self.parents: set[str] = set()
        self.hashes = Hashes()


def _named(rows: Iterable[Row], names: _Names, unusable: list[tuple[str, str]]) -> Iterator[Row]:
    """Yields rows (name, relative path, path, identity); images that differ only in their suffix keep it."""
    for stem, group in itertools.groupby(rows, itemgetter(0)):
        alike = list(group)
        for _, relative, path, identity in alike:
            try:
                name = storage.safe_relative(stem if len(alike) == 1 else relative)
            except InputError as error:
                unusable.append((path, str(error)))
                continue
            if ".png/" in name:
                names.parents.update(parent for parent in _parents(name) if parent.endswith(".png"))
            names.hashes.add(folded(name))
            yield name, relative, path, identity


def _placed(
    rows: Iterable[Row],
    names: _Names,
    fault: Callable[[str], str],
    output: str,
    unusable: list[tuple[str, str]],
) -> Iterator[Row]:
    """Yields rows (path, name, identity) of the images whose masks have a place, in order of name, like the rows."""
    shared = names.hashes.repeated()
    fold = folded if shared and storage.folds_case(output or ".") else str
    taken: dict[str, tuple[str, str]] = {}
    for name, _, path, identity in rows:
        mine = (name, path)
        if reason := fault(name):
            unusable.append((path, reason))
        elif shared and hash(folded(name)) in shared and (other := taken.setdefault(fold(name), mine)) is not mine:
            case = "" if other[0] == name else ", since upper and lower case are the same in the output folder"
            unusable.append((path, f"its mask would overwrite that of {other[1]}{case}; rename one"))
        else:
            yield path, name, identity


def folded(name: str) -> str:
    """The common form of names that some file systems do not distinguish."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _faults(names: _Names, folders: Collection[str], output: str) -> Callable[[str], str]:
    """Returns a function that gives the reason why a mask of some name cannot be written; "" if it can."""
    remote = storage.is_remote(output)
    length = len(os.fsencode(storage.join(storage.absolute(output), max(RESERVED, key=len), "")))
    # Cloud Storage can hold both "a.png" and "a.png/b.png"; on a disk a.png cannot be both a file and a folder.
    parents = frozenset() if remote else names.parents
    sources = {storage.real(folder) for folder in folders}

    @functools.lru_cache(1000)  # names of a folder come one after another
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
        if output and (place := misled(posixpath.dirname(name))):
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
