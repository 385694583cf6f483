"""What to say of a folder that has no known layout: which parts of it have one, and what else may pair it."""

from __future__ import annotations

import itertools
import posixpath
from collections import Counter
from collections.abc import Iterator

from pipelines.inputs.layouts import Folders, keyed, not_read, recognise
from trainer import storage
from trainer.formats.images import SUFFIXES
from trainer.options import InputError
from trainer.terminal import some, some_and_more

DEPTH = 3
"""Depth below the set at which a known layout is looked for: archives hold VOCdevkit/VOC2012, and may be unpacked into
a folder of their own."""
SHOWN = 6
"""Number of such places that a message names."""


class Unpaired(InputError):
    """A set in which no pairs are found.

    Attributes:
      fault: the message, without its end on what `deeplab doctor` does.
      is_elsewhere: whether the message says which folder to give instead.
    """

    def __init__(self, fault: str, help_of_doctor: str = "", is_elsewhere: bool = False) -> None:
        self.fault, self.is_elsewhere = fault, is_elsewhere
        super().__init__(fault + help_of_doctor)


def not_recognised(root: str, layout: str, folders: Folders, suffixes: Counter[str]) -> Unpaired:
    """The error for a folder that has none of the layouts, or not the requested one.

    Args:
      suffixes: as for `layouts.not_read`.
    """
    marks = {
        "voc": "JPEGImages + SegmentationClass",
        "cityscapes": "leftImg8bit + gtFine",
        "camvid": "images/train + labels/train, or train + trainannot",
        "paired": "images + labels, masks or annotations, or img_dir + ann_dir",
        "manifest": "manifest.csv or manifest.jsonl",
    }
    expected = [f"{name} ({text})" for name, text in marks.items() if layout in ("auto", name)]
    names = [f"{name}/" for name in folders if name] + [below for below, *_ in itertools.islice(folders.of(""), 9)]
    contents = f"found {some(names, 8)}" if names else "it is empty"
    message = f"{root} is not a raw set of a known layout; expected {'; '.join(expected)}; {contents}"
    inner = dict(_inner(root, folders, layout, DEPTH))
    if len(inner) > 1:
        several = (
            f"{some_and_more([*inner], SHOWN)} look like {', '.join(sorted(set(inner.values())))}, each on its own"
        )
        whole = f": `deeplab doctor {root}` writes a manifest of all of them, with their splits"
        return Unpaired(f"{message}. {several}", whole)
    for place, inner_layout in inner.items():
        return Unpaired(f"{message}. {place} looks like {inner_layout}: give that as --input", is_elsewhere=True)
    has_images = any(True for name in folders for _ in keyed(folders.of(name)))
    return Unpaired(message, not_read(suffixes) + other_pairs(root) if has_images else _no_images(folders))


def _inner(root: str, folders: Folders, layout: str, depth: int) -> Iterator[tuple[str, str]]:
    """Yields the path and the layout of the folders that have one, at most `depth` below the root."""
    for name in filter(None, folders):
        place = storage.join(root, name)
        below = Folders(place, ((below, size, modified) for below, _, size, modified in folders.of(name)))
        if found := recognise(below, layout):
            yield place, found[0]
        elif depth > 1:
            yield from _inner(place, below, layout, depth - 1)


def _no_images(folders: Folders) -> str:
    """The end of a message on a folder of which no file is an image by its suffix; "" if it has no files."""
    suffixes = Counter(posixpath.splitext(below)[1].lower() for name in folders for below, *_ in folders.of(name))
    kinds = [f"{count} {suffix}" for suffix, count in suffixes.most_common() if suffix]
    return (
        f". None of the files is an image: expected {', '.join(SUFFIXES)}, found {some(kinds, SHOWN)}" if kinds else ""
    )


def other_pairs(root: str) -> str:
    """The end of a message: what finds pairs in a set that `recognise` does not know."""
    return f"; `deeplab doctor {root}` looks for pairs of other names"
