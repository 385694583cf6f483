"""Matches files with names: a file matches a name if its whole path, with or without the suffix, ends in the name.

Names and files are rows that are sorted on disk and merged. In memory there are only the hashes of the names, eight
bytes each, which rule out most of the endings of a path.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from pipelines.inputs.hashes import hashed, places_of
from pipelines.inputs.names import composed, name_of, split_named
from pipelines.inputs.rows import Row, Rows, joined, ordered
from trainer import storage

BLOCK = 1 << 12
"""Files whose paths are looked up together."""


@dataclass(frozen=True)
class Hits:
    """The files that match the names of images.

    Attributes:
      rows: (folder that the name is relative to, image, form, rank, file), sorted; images and files are numbers, and
        the lower form and rank, the better the match.
      images: the number of images with a file.
      is_shorter: bool [images], whether an image has a name that a file also ends in, which has matched a longer one.
    """

    rows: Rows
    images: int
    is_shorter: np.ndarray


def find(reading: Iterable[Row], addresses: Iterable[str]) -> Hits:
    """Finds the files that match a name; for a file that matches several, the longest.

    Args:
      reading: the spellings of every image's name, best first; iterated over several times.
      addresses: whole paths of the files, with forward slashes.
    """
    hashes = hashed(name for name, _, _ in _index(reading))
    hashes.sort()
    depth = max((name.count("/") + 1 for row in reading for name in row), default=0)
    ends = ordered(_known(_ends(addresses, depth), hashes))
    matches = ordered(_borne(ends, ordered(_index(reading))))
    has_file, is_shorter = np.zeros((2, len(reading)), bool)
    rows = Rows(ordered(_best(matches, is_shorter)))
    for _, image, *_ in rows:
        has_file[image] = True
    return Hits(rows, int(has_file.sum()), is_shorter)


def _index(reading: Iterable[Row]) -> Iterator[Row]:
    """Yields rows (name, rank, image)."""
    for image, spelled in enumerate(reading):
        for rank, name in enumerate(spelled):
            yield name, rank, image
            if not name.isascii() and composed(name) != name:
                yield composed(name), rank, image


def _ends(addresses: Iterable[str], depth: int) -> Iterator[list[Row]]:
    """Yields blocks of rows (ending, file, form, start, is without suffix, folder before it) of the files' paths."""
    numbered = enumerate(addresses)
    while block := list(itertools.islice(numbered, BLOCK)):
        rows: list[Row] = []
        for number, address in block:
            for form, path in enumerate(_forms(address)):
                start = path.rfind("/") + 1
                last = path[start:]
                stem = name_of(last)
                for _ in range(depth):
                    base = path[: max(start - 1, 0)]
                    rows.append((path[start:], number, form, start, False, base))
                    if stem != last:
                        rows.append((path[start : len(path) - len(last)] + stem, number, form, start, True, base))
                    if not start:
                        break
                    start = path.rfind("/", 0, start - 1) + 1
        yield rows


def _known(blocks: Iterable[list[Row]], hashes: np.ndarray) -> Iterator[Row]:
    """Yields the rows whose first column has one of these hashes, which are sorted."""
    for rows in blocks:
        _, is_known = places_of(hashed(row[0] for row in rows), hashes)
        yield from itertools.compress(rows, is_known)


def _borne(ends: Iterable[Row], index: Iterable[Row]) -> Iterator[Row]:
    """Yields rows (file, form, start, is without suffix, image, rank, folder) of the endings that are names."""
    for _, files, names in joined(ends, index):
        for _, number, form, start, is_bare, base in files:
            for _, rank, image in names:
                yield number, form, start, is_bare, image, 2 * rank + is_bare, base


def _best(matches: Iterable[Row], is_shorter: np.ndarray) -> Iterator[Row]:
    """Yields rows as in `Hits`, for the first form of every file that matches a name, and the longest name.

    Fills `is_shorter`, see `Hits`.
    """
    for number, group in itertools.groupby(matches, itemgetter(0)):
        (_, rows), *others = ((fit, [*rows]) for fit, rows in itertools.groupby(group, itemgetter(1, 2, 3)))
        for _, form, _, _, image, rank, base in rows:
            yield base, image, form, rank, number
        longest = {image for _, _, _, _, image, *_ in rows}
        for _, _, _, _, image, *_ in itertools.chain.from_iterable(rows for _, rows in others):
            # Spelled in several ways, a name is among the longest and the shorter ones.
            is_shorter[image] |= image not in longest


def _forms(address: str) -> list[str]:
    """The forms of a path: as it is; with composed accents; with SegNet's label folders ("valannot") as splits."""
    exact = bare(address)
    forms = [exact, composed(exact)]
    if "annot" in exact:
        parts = [(part, part.removesuffix("annot")) for part in forms[1].split("/")]
        forms.append("/".join(split if split_named(split) else part for part, split in parts))
    return [*dict.fromkeys(forms)]


def bare(path: str) -> str:
    return path.removeprefix(storage.SCHEME).lstrip("/")
