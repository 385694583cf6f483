"""Finds and decodes records, for the verbs that need them intact."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from pipelines.inputs.names import composed
from pipelines.runner.isolation import Failed, Isolated, attempt
from trainer import storage
from trainer.formats import images, label_images
from trainer.formats.dataset import Dataset, Shard
from trainer.formats.examples import Record
from trainer.formats.frames import Frame
from trainer.formats.labels import Palette
from trainer.formats.records import read_records
from trainer.options import InputError

T = TypeVar("T")

SUFFIXES = {"jpeg": ".jpg", "jpg": ".jpg", "png": ".png"}
"""`Record.image_format` -> suffix of the image's file."""

_idle: deque[Isolated] = deque()
"""Idle subprocesses, kept for the next call; they end with this process."""


def apart(function: Callable[..., T], *args: Any) -> T:
    """Calls `function(*args)` in a subprocess, since an image may crash the process that decodes it.

    Unlike jobs, verbs keep no notes of such images from earlier runs: they read every record once.

    Returns:
      The result of the function. Its ValueErrors are raised as they are.

    Raises:
      Failed: it crashed two subprocesses, or raised an exception other than ValueError twice.
    """
    try:
        isolated = _idle.pop()
    except IndexError:
        isolated = Isolated()
    try:
        return attempt(lambda: isolated(function, *args), known=ValueError)
    finally:
        _idle.append(isolated)


@contextlib.contextmanager
def undisturbed(folder: str) -> Iterator[None]:
    """Raises InputError if another command removes files of `folder` while the block runs."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename or folder} is gone: another command is working on this folder; wait for it to end, and "
            "run this command again"
        ) from None


def find_record(folder: str, dataset: Dataset, name: str, copy: int, is_key: bool) -> tuple[Shard, Frame, Record]:
    """Finds a record by its number or key.

    Args:
      name: the key, also with accents of the other form if that is unambiguous, or the number in the order of the
        shards; valid numbers take precedence over keys of digits.
      copy: the number of the copy, for a key; 0 for the image itself.
      is_key: whether the name is a key, even if it is a valid number.

    Raises:
      InputError: the record does not exist (the message names one that does), or `copy` is given with a number.
    """
    total = sum(shard.records for shard in dataset.shards)
    # No number begins with 0, as many keys of digits do; int() refuses thousands of digits.
    is_number = not is_key and len(name) <= len(str(total)) and re.fullmatch("0|[1-9][0-9]*", name)
    number = int(name) if is_number and int(name) < total else None
    if number is not None and copy:
        raise InputError(
            f"--copy {copy} goes with a key; record numbers, such as {name}, count copies too; if {name} is a key, "
            f"give --key {name}"
        )
    copies, other_forms = set(), set()
    for shard in dataset.shards:
        if number is not None and number >= shard.records:
            number -= shard.records
            continue
        for frame, record in read_records(folder, shard):
            if frame.index == number if number is not None else (record.key, record.copy) == (name, copy):
                return shard, frame, record
            if record.key == name:
                copies.add(record.copy)
            elif not name.isascii() and composed(record.key) == composed(name):
                other_forms.add(record.key)
    if copies:
        there = ", ".join(map(str, sorted(copies)))
        raise InputError(
            f"{folder} has no copy {copy} of {name!r}; expected one of {there}, where 0 is the image itself"
        )
    if len(other_forms) == 1:
        return find_record(folder, dataset, other_forms.pop(), copy, is_key=True)
    example = next(record.key for _, record in read_records(folder, dataset.shards[0]))
    raise InputError(
        f"{folder} has no record {'with the key ' * is_key}{name!r}{f' copy {copy}' if copy else ''}; "
        f"expected a key such as {example!r}{'' if is_key else f', or a number from 0 to {total - 1}'}"
    )


def decode_pair(record: Record, palette: Palette) -> tuple[np.ndarray, np.ndarray]:
    """Image, uint8 [H, W, 3] RGB, and label, uint8 [H, W], of a record. Raises InputError if one is unusable."""
    try:
        return apart(_pair, record, palette)
    except (ValueError, Failed) as error:  # ImageError, LabelError
        raise InputError(f"record {record.key}: {error}") from None


def _pair(record: Record, palette: Palette) -> tuple[np.ndarray, np.ndarray]:
    image, label = images.decode_image(record.image), label_of(record, palette)
    if image.shape[:2] != label.shape:
        raise ValueError(f"image is {image.shape[1]}x{image.shape[0]}, label {label.shape[1]}x{label.shape[0]}")
    return image, label


def label_of(record: Record, palette: Palette) -> np.ndarray:
    """The label of a record, uint8 [H, W]. Raises ValueError if it is not one of class ids of the record's size."""
    label = label_images.decode_label(record.label)
    if label.shape != (record.height, record.width):
        kind = "coloured" if label.ndim == 3 else f"{label.shape[1]}x{label.shape[0]}"
        raise ValueError(f"label is {kind}, expected class ids of {record.width}x{record.height} pixels")
    return palette.check_ids(label)


def file_stem(record: Record) -> str:
    """The path of a record's files without suffix: its key and number of the copy."""
    key = storage.safe_relative(record.key)
    return f"{key}.copy{record.copy}" if record.copy else key
