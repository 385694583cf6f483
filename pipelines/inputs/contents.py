"""What a collection holds: its images, and other files, which are only counted."""

from __future__ import annotations

import functools
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pipelines.inputs.layouts import UNREAD
from pipelines.inputs.names import hidden, without_suffix
from pipelines.inputs.rows import Row
from trainer import storage
from trainer.formats.images import SUFFIXES

LIKE_LABELS = re.compile(r"[-_. ](masks?|labels?|label(train)?ids|gt|ground_?truth|annotations?)$", re.IGNORECASE)
"""How names of labels end that lie beside their images, without the suffix."""


@dataclass
class Contents:
    """The files of a collection; complete once `images_among` is exhausted.

    Attributes:
      images: number of images.
      folders: the folders of the images.
      labels, first_label: number of images that are named like labels, as a_mask; the first of these by path.
      inside, inside_paths: number of files in the output folder; their paths, if they were named explicitly.
      others: number of files that are not images.
      unreadable, first_unreadable: number of those of them that cannot be read; the first of these by path.
      suffixes: the number of the readable ones, by suffix; of "hidden" files, and of "other" ones.
      first: the first file of all by path.
    """

    images: int = 0
    folders: set[str] = field(default_factory=set)
    labels: int = 0
    first_label: str = ""
    inside: int = 0
    inside_paths: list[str] = field(default_factory=list)
    others: int = 0
    unreadable: int = 0
    first_unreadable: str = ""
    suffixes: Counter[str] = field(default_factory=Counter)
    first: str = ""

    def notes(self) -> Iterator[str]:
        """Sentences on the files that were left out."""
        if self.inside and not self.inside_paths:
            yield f"files left out because they lie in the output folder: {self.inside}"
        if self.unreadable:
            yield f"broken links, FIFOs and the like, skipped: {self.unreadable}, such as {self.first_unreadable}"
        if self.suffixes:
            kinds = [f"{count} {suffix}" for suffix, count in sorted(self.suffixes.items())]
            yield f"files that are not read as images, skipped: {', '.join(kinds)}"


def images_among(files: Iterable[storage.File], kind: str, output: str, contents: Contents) -> Iterator[Row]:
    """Yields rows (stem, relative path, path, identity) of the images among the files, and counts all in `contents`.

    Args:
      kind: "folder", "glob", "list" or "image". Files of the last two were named explicitly, so they are images
        whatever their suffixes.
      output: folder of the masks; files in it are no images.
    """
    named, inside = kind in ("list", "image"), _inside(output)
    for file in files:
        contents.first = min(contents.first or file.relative, file.relative)
        if inside(file.path):
            contents.inside += 1
            contents.inside_paths += [file.path] * named
        elif named or _is_image(file.relative, kind):
            contents.images += 1
            contents.folders.add(posixpath.dirname(file.path))
            stem = without_suffix(file.relative)
            if LIKE_LABELS.search(stem):
                contents.labels += 1
                contents.first_label = min(contents.first_label or file.relative, file.relative)
            yield stem, file.relative, file.path, file.identity
        else:
            contents.others += 1
            if not file.modified and not storage.is_remote(file.path):
                contents.unreadable += 1
                contents.first_unreadable = min(contents.first_unreadable or file.relative, file.relative)
            else:
                contents.suffixes[_kind_of(file.relative, kind)] += 1


def _inside(output: str) -> Callable[[str], bool]:
    """Returns a function that tells whether a file lies in the folder `output`, or is a link to one that does."""
    if not output or not (storage.is_remote(output) or storage.is_dir(output)):
        return lambda path: False
    lies_in = functools.cache(lambda folder: storage.lies_in(folder, output))

    def inside(path: str) -> bool:
        linked = not storage.is_remote(path) and os.path.islink(path)
        return lies_in(posixpath.dirname(path)) or (linked and lies_in(path))

    return inside


def _is_image(relative: str, kind: str) -> bool:
    return relative.lower().endswith(SUFFIXES) and not _is_hidden(relative, kind)


def _is_hidden(relative: str, kind: str) -> bool:
    """Whether a file is hidden. Folders that a pattern matches are not, since only ".*" matches them."""
    return hidden(relative if kind == "folder" else posixpath.basename(relative))


def _kind_of(relative: str, kind: str) -> str:
    """The suffix of a file that is not an image, "hidden" or "other": image formats alone are worth a name."""
    suffix = posixpath.splitext(relative)[1].lower()
    return "hidden" if _is_hidden(relative, kind) else suffix if suffix in UNREAD else "other"
