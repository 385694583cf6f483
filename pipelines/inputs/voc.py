"""The lists of Pascal VOC, ImageSets/Segmentation/*.txt: which images they name, and the split of each.

Entries and files are rows that are sorted on disk and merged by their `composed` names, since the lists may be as long
as the set.
"""

from __future__ import annotations

import codecs
import io
import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from pipelines.inputs.names import BLANKS, composed, spellings
from pipelines.inputs.rows import Row, Rows, among, joined, ordered
from trainer import storage
from trainer.accounts import Reject
from trainer.options import InputError
from trainer.terminal import some

# An image in several lists goes to the first of these, so that none is used for both training and validation.
LISTS = {
    **{"test": "test", "val": "val", "train": "train", "trainaug": "train", "train_aug": "train", "trainval": None},
}


@dataclass(frozen=True)
class Listed:
    """The images that the lists of a set name.

    Attributes:
      splits: rows (key, split) of the images, in order; "" if the lists do not give a split.
      torn: the number of images in lists of several splits.
      repeated: the number of entries that name an image again which their list has named.
      rejects: entries that name no image.
    """

    splits: Rows
    torn: int
    repeated: int
    rejects: list[Reject]

    @property
    def note(self) -> str:
        """A note on repeated entries; "" without any."""
        return f" (entries that repeat an image of their list: {self.repeated})" if self.repeated else ""


@dataclass(frozen=True)
class Lists:
    """The lists of a set.

    Attributes:
      used: name, of those in LISTS -> path.
      note: a note on lists of other names; "" without any.
    """

    used: dict[str, str]
    note: str


def find_lists(rows: Iterable[Row]) -> Lists:
    """Finds the lists among rows (path below it, path, ...) of the files in ImageSets."""
    lists = {
        posixpath.splitext(posixpath.basename(below))[0]: path
        for below, path, *_ in rows
        if posixpath.dirname(below) == "Segmentation" and below.endswith(".txt")
    }
    others = sorted(f"{name}.txt" for name in lists.keys() - LISTS.keys())
    note = f" (lists of other names, not read: {some(others, 4)})" if others else ""
    return Lists({name: path for name, path in lists.items() if name in LISTS}, note)


def listed(lists: Iterable[tuple[str, str]], images: Iterable[Row], folder: str = "JPEGImages") -> Listed:
    """Looks up the images that lists name.

    Args:
      lists: (name, of those in LISTS, path); several may have one name.
      images: rows that begin with the key, in order; iterated over twice.
      folder: that of the images; "" if they have none of their own.

    Raises:
      InputError: a list cannot be read.
    """
    lists = sorted(lists, key=lambda each: [*LISTS].index(each[0]))
    entries = Rows((number, entry) for number, (_, path) in enumerate(lists) for entry in _entries(path))
    is_flat = not any("/" in row[0] for row in images)
    wanted = ordered(_wanted(entries, is_flat))
    forms = ordered((composed(key), key) for key, _ in itertools.groupby(images, itemgetter(0)))
    rejects: dict[str, Reject] = {}
    named = ordered(_named(lists, entries, ordered(_hits(wanted, forms)), folder, rejects))
    torn = repeated = 0

    def splits() -> Iterator[Row]:
        nonlocal torn, repeated
        for key, group in itertools.groupby(named, itemgetter(0)):
            numbers = [number for _, number in group]
            repeated += len(numbers) - len({*numbers})
            first, *others = (LISTS[lists[number][0]] for number in numbers)
            torn += bool(first) and any(split not in (first, None) for split in others)
            yield key, first or ""

    rows = Rows(splits())
    return Listed(rows, torn, repeated, [*rejects.values()])


def _wanted(entries: Iterable[Row], is_flat: bool) -> Iterator[Row]:
    """Yields rows (composed path, entry, rank, path) of the paths that entries may mean, best first."""
    for number, (_, entry) in enumerate(entries):
        paths = [_below_images(spelled) for spelled in spellings(entry)]
        paths += [posixpath.basename(path) for path in paths if is_flat]
        for rank, path in enumerate(dict.fromkeys(paths)):
            yield composed(path), number, rank, path


def _hits(wanted: Iterable[Row], forms: Iterable[Row]) -> Iterator[Row]:
    """Yields rows (entry, whether its accents have another form, rank, key) of the images that it may mean."""
    for _, paths, keys in joined(wanted, forms):
        known = {key for _, key in keys}
        for _, number, rank, path in paths:
            if path in known:
                yield number, False, rank, path
            elif len(known) == 1:
                yield number, True, rank, *known


def _named(
    lists: Sequence[tuple[str, str]],
    entries: Iterable[Row],
    hits: Iterable[Row],
    folder: str,
    rejects: dict[str, Reject],
) -> Iterator[Row]:
    """Yields rows (key, number of the list); entries without an image are added to `rejects`."""
    groups = itertools.groupby(hits, itemgetter(0))
    following = next(groups, None)
    for place, (number, entry) in enumerate(entries):
        if following and following[0] == place:
            yield next(following[1])[-1], number
            following = next(groups, None)
        elif not _is_comment(entry):
            where = f"in {folder}" if folder else "among the images"
            fault = f"listed in {posixpath.basename(lists[number][1])}, but not found {where}"
            missing = _below_images(spellings(entry)[-1])
            rejects.setdefault(missing, Reject(missing, posixpath.join(folder, missing), "scan", fault))


def labels_of(keys: Iterable[str], labels: Iterable[Row]) -> Iterator[Row]:
    """The labels of these images, paired as in `names.partners`.

    Args:
      keys: the keys of images, in order.
      labels: rows that begin with the key, in order; iterated over twice.
    """
    names = ordered((composed(key), key) for key in keys)
    others = ordered((composed(key), key) for key, _ in itertools.groupby(labels, itemgetter(0)))

    def meant() -> Iterator[Row]:
        for _, mine, theirs in joined(names, others):
            mine, theirs = {key for _, key in mine}, {key for _, key in theirs}
            yield from ((key,) for key in mine & theirs)
            if len(mine - theirs) == 1 == len(theirs - mine):
                yield (*(theirs - mine),)

    return among(labels, ordered(meant()))


def _entries(path: str) -> Iterator[str]:
    """Yields the lines of a list that are not blank. Raises InputError if it cannot be read."""
    try:
        with storage.reader(path) as file:
            mark = file.read(3)
            if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise InputError(f"{path} is UTF-16 text; save it as UTF-8")
            file.seek(len(codecs.BOM_UTF8) if mark == codecs.BOM_UTF8 else 0)
            # Names that are not UTF-8 are decoded as those of files are.
            for line in io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="\n"):
                if entry := line.strip(BLANKS):
                    yield entry
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _is_comment(entry: str) -> bool:
    """Whether a line of a list that names no image is a comment: "# ..."; "#1" and "#1 -1" are names."""
    return entry.startswith("#") and not re.fullmatch(f"#[^#{BLANKS}]+([{BLANKS}]+(-1|0|1))?", entry)


def _below_images(path: str) -> str:
    """The path below JPEGImages in an entry of a list, whatever folders are in front of it."""
    return posixpath.normpath("/" + path).lstrip("/").rpartition("JPEGImages/")[2]
