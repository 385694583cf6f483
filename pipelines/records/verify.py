"""Checks a folder of records: files, checksums, messages, pictures, labels and counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Executor
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from trainer import storage
from trainer.formats import images, records
from trainer.formats.palettes import Palette
from trainer.formats.records import CorruptRecord, Dataset, Record, Shard


class Checked(NamedTuple):
    """What the check of one shard found: faults in words, and (key, copy) of every readable record."""

    faults: list[str]
    names: list[tuple[str, int]]


class _Summing:
    """A file that keeps the CRC-32C and the number of the bytes read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.crc, self.size = file, 0, 0

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        self.crc, self.size = google_crc32c.extend(self.crc, data), self.size + len(data)
        return data


def verify(folder: str, dataset: Dataset, pool: Executor, beat: Callable[[], object] = lambda: None) -> list[str]:
    """Returns all faults, in words, in the order of the shards.

    Args:
      pool: checks the shards in parallel.
      beat: called after every record.
    """
    there = {file.relative for file in storage.files(folder)}
    known = {shard.name for shard in dataset.shards}
    faults = [
        f"{name}: is not in {records.DATASET_FILE}"
        for name in sorted(there - known)
        if "/" not in name and name.endswith(".tfrecord")
    ]

    def one(shard: Shard) -> Checked:
        if shard.name not in there:
            return Checked([f"{shard.name}: the shard is missing ({shard.records} records)"], [])
        return check_shard(folder, shard, dataset.palette, beat)

    first: dict[tuple[str, int], Shard] = {}
    split_of: dict[str, str] = {}
    for shard, checked in zip(dataset.shards, pool.map(one, dataset.shards), strict=True):
        faults += checked.faults
        for name in checked.names:
            if first.setdefault(name, shard) is not shard:
                faults.append(f"{shard.name}: key {name[0]} copy {name[1]} is in {first[name].name} as well")
            if split_of.setdefault(name[0], shard.split) != shard.split:
                faults.append(f"{shard.name}: key {name[0]} is in split {split_of[name[0]]} as well")
    return faults


def check_shard(folder: str, shard: Shard, palette: Palette, beat: Callable[[], object] = lambda: None) -> Checked:
    """Reads one shard once, from end to end, and compares it with what dataset.json tells of it."""
    faults: list[str] = []
    names: list[tuple[str, int]] = []
    pixels = np.zeros(256, np.int64)
    count = damaged = 0
    with open(storage.localize(storage.join(folder, shard.name)), "rb") as raw:
        file = _Summing(raw)
        for found in records.scan_frames(file):
            where = f"{shard.name}: record {found.index} at byte {found.offset}"
            count += 1
            if isinstance(found, CorruptRecord):
                damaged += 1
                faults.append(f"{where}, {_key_of(found.data)}: {found.reason}")
            else:
                try:
                    record = records.decode(found.data)
                    label = _check_record(record, palette)
                except ValueError as error:  # malformed message, ImageError, LabelError
                    damaged += 1
                    faults.append(f"{where}, {_key_of(found.data)}: {error}")
                else:
                    pixels += np.bincount(label.ravel(), minlength=256)
                    names.append((record.key, record.copy))
            beat()
        while file.read(1 << 20):
            pass
    faults += _compare(shard, file, count, damaged, names, pixels, palette)
    return Checked(faults, names)


def _compare(
    shard: Shard,
    file: _Summing,
    count: int,
    damaged: int,
    names: list[tuple[str, int]],
    pixels: np.ndarray,
    palette: Palette,
) -> list[str]:
    """Faults of the shard as a whole; those that follow from damaged records are not said again."""
    faults = []
    if file.size != shard.bytes:
        faults.append(f"{shard.name}: has {file.size} bytes, expected {shard.bytes}")
    elif file.crc != shard.crc32c and not damaged:
        faults.append(f"{shard.name}: checksum of the file is {file.crc:#010x}, expected {shard.crc32c:#010x}")
    if count != shard.records:
        faults.append(f"{shard.name}: {count} records found, expected {shard.records}")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        faults.append(f"{shard.name}: key {twice[0]} copy {twice[1]} is there more than once")
    if damaged or count != shard.records:
        return faults
    originals = sum(copy == 0 for _, copy in names)
    if originals != shard.pictures:
        faults.append(f"{shard.name}: {originals} source pictures found, expected {shard.pictures}")
    if pixels[: palette.num_classes].tolist() != list(shard.class_pixels):
        faults.append(f"{shard.name}: pixels per class differ from {records.DATASET_FILE}")
    return faults


def _check_record(record: Record, palette: Palette) -> np.ndarray:
    """Returns the label, uint8 [H, W]; ValueError when picture, label and numbers do not belong together."""
    image = images.decode_image(record.image)
    label = palette.check_ids(images.decode_label(record.label))
    said = (record.height, record.width)
    if image.shape[:2] != said or label.shape != said:
        raise ValueError(
            f"picture is {image.shape[1]}x{image.shape[0]}, label {label.shape[1]}x{label.shape[0]}, "
            f"but the record says {record.width}x{record.height}"
        )
    found = images.header(record.image)
    if (found.format, found.orientation) != (record.image_format, 1):
        raise ValueError(
            f"picture is {found.format} of orientation {found.orientation}, expected upright {record.image_format}"
        )
    return label


def _key_of(data: bytes) -> str:
    """The key of a possibly damaged message: most flipped bytes lie in the pictures and leave the rest readable."""
    try:
        record = records.decode(data)
        return f"key {record.key}" + (f" copy {record.copy}" if record.copy else "")
    except ValueError:
        # Map entry: name, then Feature > BytesList > value, each a tag and a length of one byte.
        found = re.search(re.escape(records.KEY).encode() + rb"\x12.\x0a.\x0a(.)", data, re.DOTALL)
    if not found:
        return "key unreadable"
    key = data[found.end() : found.end() + found.group(1)[0]]
    return f"key {key.decode(errors='backslashreplace')}"
