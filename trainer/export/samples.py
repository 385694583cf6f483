"""Reads the images for the calibration and the check of an export, one by one."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from trainer import storage
from trainer.formats import images, label_images
from trainer.formats.dataset import Dataset, open_shard
from trainer.formats.examples import Record, decode
from trainer.formats.frames import read_frames
from trainer.options import InputError

COUNT = 100
"""Maximum number of images for the calibration, and for the check."""

LARGEST = 2048
"""The longest side of what is checked of an image, in pixels: the check takes memory for every pixel and class."""


@dataclass(frozen=True)
class Sample:
    """An image, uint8 [H, W, 3] RGB, and its class ids, uint8 [H, W], or None if it has no label."""

    image: np.ndarray
    label: np.ndarray | None = None

    def resized(self, size: tuple[int, int]) -> Sample:
        """The sample at `size`, (height, width) in pixels."""
        if self.image.shape[:2] == size:
            return self
        smaller = self.image.shape[0] * self.image.shape[1] > size[0] * size[1]
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        label = self.label
        if label is not None:
            label = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return Sample(cv2.resize(self.image, size[::-1], interpolation=method), label)

    def cut(self) -> Sample:
        """The middle of a large sample, of at most LARGEST x LARGEST pixels."""
        top, left = (max(0, side - LARGEST) // 2 for side in self.image.shape[:2])
        part = slice(top, top + LARGEST), slice(left, left + LARGEST)
        return Sample(self.image[part], None if self.label is None else self.label[part])


def _evenly_spaced(count: int) -> list[int]:
    """At most COUNT of the numbers below `count`, evenly spaced."""
    kept = min(count, COUNT)
    return [number * count // kept for number in range(kept)]


def _records(folder: str, dataset: Dataset, split: str) -> Iterator[Record]:
    """At most COUNT records of a split, without augmented copies, from as many shards as possible."""
    shards = dataset.of_split(split)
    shards = [shards[number] for number in _evenly_spaced(len(shards))]
    each = math.ceil(COUNT / len(shards))
    for shard in shards:
        with open_shard(folder, shard.name) as file:
            originals = (one for one in map(decode, (frame.data for frame in read_frames(file))) if not one.copy)
            yield from itertools.islice(originals, each)


def of_records(folder: str, dataset: Dataset, split: str) -> Iterator[Sample]:
    """At most COUNT samples of a split, without augmented copies.

    Raises InputError for a damaged record.
    """
    try:
        for record in itertools.islice(_records(folder, dataset, split), COUNT):
            image, label = images.decode_image(record.image), label_images.decode_label(record.label)
            if image.shape[:2] != label.shape:
                raise ValueError(f"image and label of {record.key!r} differ in size")
            yield Sample(image, label)
    except (ValueError, FileNotFoundError) as error:
        raise InputError(
            f"{folder}: a record of split {split!r} cannot be used ({error}); `deeplab records verify {folder}` "
            "reports all such records"
        ) from None


def image_paths(path: str) -> list[str]:
    """At most COUNT of the image files at `path`: a folder, a glob or an image.

    Raises InputError if there are none, or none of them can be read.
    """
    files = storage.glob(path) if storage.is_pattern(path) else storage.files(path) if storage.is_dir(path) else []
    paths = [file.path for file in files if file.path.lower().endswith(images.SUFFIXES)]
    paths += [path] if storage.exists(path) else []
    if not paths:
        raise InputError(f"--images {path}: found no image; expected a folder of them, a glob in quotes, or an image")
    chosen = [paths[number] for number in _evenly_spaced(len(paths))]
    if next(of_files(chosen), None) is None:
        raise InputError(f"--images {path}: no image of it can be read, such as {chosen[0]}; give others")
    return chosen


def of_files(paths: list[str]) -> Iterator[Sample]:
    """The images that can be read, without labels."""
    for path in paths:
        with contextlib.suppress(images.ImageError):
            yield Sample(images.decode_image(storage.read(path)))


def drawn(sizes: list[tuple[int, int]]) -> Iterator[Sample]:
    """Synthetic images, one of each size (height, width) in pixels: smooth colours with sharp rectangles."""
    for seed, (height, width) in enumerate(sizes):
        rng = np.random.default_rng(seed)
        colors = rng.integers(0, 256, (6, 8, 3), np.uint8)
        image = cv2.resize(colors, (width, height), interpolation=cv2.INTER_CUBIC)
        for color in rng.integers(0, 256, (5, 3)).tolist():
            x, y = rng.integers(0, width), rng.integers(0, height)
            cv2.rectangle(image, (int(x), int(y)), (int(x) + width // 4, int(y) + height // 3), color, cv2.FILLED)
        yield Sample(image)
