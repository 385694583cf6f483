"""The existing files of the output folder, and a check that none of them is an input image.

There may be very many, so only the hash of a file's name, its size and a number that changes with it are kept.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from pipelines.inputs.collection import SourceImage
from pipelines.inputs.hashes import hashed, places_of
from pipelines.inputs.mask_names import folded
from trainer import storage
from trainer.options import InputError

BLOCK = 1 << 12
"""Number of images that are looked up together."""


class ExistingFiles:
    """The files in the output folder.

    Attributes:
      outdated: names of files that are named like plans or parts of the table.
      leftovers: unfinished files of killed processes, by the names of the files being written (`storage.unfinished`).

    Args:
      is_plan: whether a name is that of a plan or a part.
    """

    def __init__(self, folder: str, is_plan: Callable[[str], object] = lambda name: False) -> None:
        self.outdated: list[str] = []
        self.leftovers: dict[str, list[str]] = {}
        self._are_objects = storage.is_remote(folder)
        # On a case-insensitive file system, A.png and a.png are the same file; as objects they never are.
        self._form = str if self._are_objects else folded
        hashes, sizes, numbers = array("q"), array("q"), array("q")
        with contextlib.suppress(FileNotFoundError):
            for file in storage.walk(folder):
                if whole := storage.unfinished(file.relative):
                    self.leftovers.setdefault(whole, []).append(file.relative)
                if is_plan(file.relative):
                    self.outdated.append(file.relative)
                hashes.append(hash(self._form(file.relative)))
                sizes.append(file.size)
                numbers.append(self._number(file))
        order = np.argsort(np.array(hashes, np.int64), kind="stable")
        self._hashes, self._sizes, self._numbers = (
            np.array(column, np.int64)[order] for column in (hashes, sizes, numbers)
        )

    def _number(self, file: storage.File) -> int:
        if not self._are_objects:
            return file.modified
        return int(file.identity.partition("-")[0], 16) if file.identity else -1

    def __bool__(self) -> bool:
        return bool(self._hashes.size)

    def signatures(self, names: Sequence[str]) -> list[str]:
        """The signature of each file, which changes whenever the file does; "" for files that do not exist."""
        places, are_there = places_of(hashed(map(self._form, names)), self._hashes)
        columns = zip(are_there.tolist(), self._sizes[places].tolist(), self._numbers[places].tolist(), strict=True)
        return [signature(size, number, self._are_objects) if is_there else "" for is_there, size, number in columns]


def signature(size: int, number: int, is_object: bool) -> str:
    """The signature of a file: the `storage.identity` of an object, or size and modification time of a local file.

    Args:
      number: the object's CRC-32C, -1 if it is not known; or the modification time in nanoseconds.
    """
    return f"{number:08x}-{size}" if is_object else f"{size}-{number}"


def blocks(images: Iterable[SourceImage]) -> Iterator[list[SourceImage]]:
    images = iter(images)
    while block := list(itertools.islice(images, BLOCK)):
        yield block


def check_inputs_stay(images: Iterable[SourceImage], targets: Callable[[], Iterable[tuple[str, SourceImage]]]) -> None:
    """Raises InputError if an existing file that would be replaced is one of the images.

    Args:
      targets: returns the files that would be replaced, each with the image that it would be written for.
    """
    taken = np.sort(hashed(key for target, _ in targets() if (key := _key(target))))
    for block in blocks(images) if taken.size else ():
        _, are_taken = places_of(hashed(_key(image.path) for image in block), taken)
        for index in np.flatnonzero(are_taken):
            image = block[index]
            for target, source in targets():
                if (key := _key(target)) and key == _key(image.path):
                    raise InputError(
                        f"{target} would be written for {source.path}, but is the image {image.path}; give another "
                        "--output"
                    )


def _key(path: str) -> object:
    """The identity of a file, the same through links of any kind; None for a file that does not exist."""
    if storage.is_remote(path):
        return path
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
