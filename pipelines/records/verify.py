"""Checks a folder of records: files, checksums, messages, images, labels and counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipelines.records.lookup import apart
from pipelines.runner.isolation import Failed
from trainer import storage
from trainer.accounts import Accounts, counted
from trainer.formats import images, label_images
from trainer.formats.dataset import DATASET_FILE, Dataset, Shard, Sums, fingerprint_of, maker, open_shard
from trainer.formats.examples import KEY, Record, decode
from trainer.formats.frames import CorruptRecord, scan_frames
from trainer.formats.labels import Palette
from trainer.formats.records import Summing, read_record
from trainer.formats.runs import pixels_of_ids

FORMATS = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png"}
"""`Record.image_format` of any writer -> `Header.format`."""


class Verification(NamedTuple):
    """The result of a verification.

    Attributes:
      faults: the faults as sentences, in the order of the shards.
      shards: names of the faulty shards, which should be written again; without those that could not be read.
      accounts: the numbers of good, damaged and missing records.
    """

    faults: list[str]
    shards: list[str]
    accounts: Accounts


@dataclass
class ShardCheck:
    """The result of checking one shard.

    Attributes:
      faults: the faults as sentences.
      names: (key, copy) of every good record.
      damaged, missing: number of unusable records, and of records that dataset.json counts but the shard lacks.
      surplus: number of good records beyond those that dataset.json counts.
      is_unread: whether the shard could not be read, so that nothing is known of its bytes.
    """

    faults: list[str] = field(default_factory=list)
    names: list[tuple[str, int]] = field(default_factory=list)
    damaged: int = 0
    missing: int = 0
    surplus: int = 0
    is_unread: bool = False


def verify(folder: str, dataset: Dataset, pool: Executor, beat: Callable[[], object]) -> Verification:
    """Checks every shard and every record.

    Args:
      pool: checks the shards in parallel.
      beat: called after every record.

    Raises:
      UnbalancedError: records of dataset.json are neither good nor damaged nor missing.
    """
    existing = {file.relative for file in storage.files(folder, within=())}
    known = {shard.name for shard in dataset.shards}
    faults = [f"{DATASET_FILE}: {fault}" for fault in _of_description(folder, dataset)]
    faults += [
        f"{name}: is not in {DATASET_FILE}"
        for name in sorted(existing - known)
        if "/" not in name and name.endswith(".tfrecord")
    ]

    def check(shard: Shard) -> ShardCheck:
        if shard.name not in existing:
            lost = counted(shard.records, "record")
            return ShardCheck([f"{shard.name}: the shard is missing ({lost})"], missing=shard.records)
        try:
            return check_shard(folder, shard, dataset.palette, beat)
        except OSError as error:
            fault = f"{shard.name}: cannot be read: {error.strerror or error}"
            return ShardCheck([fault], missing=shard.records, is_unread=True)

    first: dict[tuple[str, int], Shard] = {}
    split_of: dict[str, str] = {}
    records = Counter(good=0, damaged=0, missing=0)
    damaged: dict[str, None] = {}
    for shard, checked in zip(dataset.shards, pool.map(check, dataset.shards), strict=True):
        faults += checked.faults
        if checked.faults and not checked.is_unread:
            damaged[shard.name] = None
        good = len(checked.names) - checked.surplus
        records.update(good=good, damaged=checked.damaged, missing=checked.missing)
        for name in checked.names:
            if first.setdefault(name, shard) is not shard:
                faults.append(f"{shard.name}: key {name[0]} copy {name[1]} is in {first[name].name} as well")
                damaged |= dict.fromkeys((first[name].name, shard.name))
            if split_of.setdefault(name[0], shard.split) != shard.split:
                faults.append(f"{shard.name}: key {name[0]} is in split {split_of[name[0]]} as well")
                damaged[shard.name] = None
    accounts = Accounts("records", sum(shard.records for shard in dataset.shards), dict(records))
    accounts.check()
    return Verification(faults, [name for name in damaged if name in existing], accounts)


def check_shard(folder: str, shard: Shard, palette: Palette, beat: Callable[[], object]) -> ShardCheck:
    """Reads one shard from end to end, and compares it with its entry in dataset.json."""
    checked, sums, count = ShardCheck(), Sums(), 0
    with open_shard(folder, shard.name) as raw:
        file = Summing(raw)
        for frame in scan_frames(file):
            is_surplus = count >= shard.records
            count += 1
            try:
                if isinstance(frame, CorruptRecord):
                    raise ValueError(frame.reason)
                good = apart(check_message, frame.data, palette)
            except (ValueError, Failed) as error:  # CorruptRecord, malformed message, ImageError, LabelError
                where = f"{shard.name}: record {frame.index} at byte {frame.offset}, key {key_of(frame.data)}"
                checked.faults.append(f"{where}: {error}")
                checked.damaged += not is_surplus
            else:
                sums.add(b"", good.size, good.pixels, good.name[1])
                checked.names.append(good.name)
                checked.surplus += is_surplus
            beat()
        file.exhaust()
    checked.missing = max(0, shard.records - count)
    checked.faults += _compare(shard, file, count, checked, sums.shard(shard.name, shard.split, "", palette))
    return checked


def _of_description(folder: str, dataset: Dataset) -> Iterator[str]:
    """Yields contradictions within dataset.json, as sentences."""
    if dataset.edited:
        yield f"was changed since it was written; the same {maker(folder)} writes it again"
    if (actual := fingerprint_of(sorted(dataset.shards, key=lambda shard: shard.name))) != dataset.fingerprint:
        yield f"its fingerprint is {dataset.fingerprint}, that of its shards is {actual}"
    if (given := dataset.options.get("max_side", dataset.max_side)) != dataset.max_side:
        yield f"its max_side is {dataset.max_side}, that of its options is {given}"


def _compare(shard: Shard, file: Summing, count: int, checked: ShardCheck, good: Shard) -> list[str]:
    """Faults of the shard as a whole; those that follow from damaged records are not repeated.

    Args:
      good: the shard's entry as computed from its good records, without the size in bytes.
    """
    faults = []
    is_whole = len(checked.names) == count
    if file.size != shard.bytes:
        faults.append(f"{shard.name}: has {file.size} bytes, expected {shard.bytes}")
    elif file.crc != shard.crc32c and is_whole:
        faults.append(f"{shard.name}: checksum of the file is {file.crc:#010x}, expected {shard.crc32c:#010x}")
    if count != shard.records:
        faults.append(f"{shard.name}: has {counted(count, 'record')}, expected {shard.records}")
    repeated = next((name for name, times in Counter(checked.names).items() if times > 1), None)
    if repeated:
        faults.append(f"{shard.name}: key {repeated[0]} copy {repeated[1]} appears more than once")
    if not is_whole or count != shard.records:
        return faults
    if good.images != shard.images:
        faults.append(f"{shard.name}: has {good.images} source images, expected {shard.images}")
    if (good.class_pixels, good.ignored_pixels) != (shard.class_pixels, shard.ignored_pixels):
        faults.append(f"{shard.name}: pixels per class differ from {DATASET_FILE}")
    sizes = [f"{side.min_size} to {side.max_size} (height, width)" for side in (good, shard)]
    if sizes[0] != sizes[1]:
        faults.append(f"{shard.name}: has images of {sizes[0]}, expected {sizes[1]}")
    return faults


class Good(NamedTuple):
    """A record that the trainer can read.

    Attributes:
      name: its key and copy.
      size: (height, width) of image and label, in pixels.
      pixels: label pixels of every id, int64 [256].
    """

    name: tuple[str, int]
    size: tuple[int, int]
    pixels: np.ndarray


def check_message(data: bytes, palette: Palette) -> Good:
    """Checks a serialised record. Raises ValueError if it is faulty or cannot be parsed."""
    record = read_record(data)
    label = check_record(record, palette)
    return Good((record.key, record.copy), label.shape, pixels_of_ids(label))


def check_record(record: Record, palette: Palette) -> np.ndarray:
    """Checks a record; returns its label, uint8 [H, W].

    Raises ValueError if the trainer could not read image and label unchanged.
    """
    header, labelled = images.header(record.image), images.header(record.label)
    coding = (header.format, header.orientation)
    if coding != (FORMATS.get(record.image_format), 1):
        raise ValueError(
            f"image is {header.format} of EXIF orientation {header.orientation}, which the trainer does not apply; "
            f"expected upright {record.image_format}"
        )
    if (labelled.format, labelled.mode, labelled.depth) != ("png", "L", 8):
        raise ValueError(
            f"label is {labelled.format} of mode {labelled.mode} and {labelled.depth} bits, which the trainer "
            "does not read as ids; expected a grey PNG of 8 bits"
        )
    image = images.check(record.image)
    label = palette.check_ids(label_images.decode_label(record.label))
    size = (record.height, record.width)
    if (image.height, image.width) != size or label.shape != size:
        raise ValueError(
            f"image is {image.width}x{image.height}, label {label.shape[1]}x{label.shape[0]}, "
            f"but the record says {record.width}x{record.height}"
        )
    return label


def key_of(data: bytes) -> str:
    """The key and copy of a possibly damaged message, in words."""
    name = name_of(data)
    if name is None:
        return "unreadable"
    return name[0] + (f" copy {name[1]}" if name[1] else "")


def name_of(data: bytes) -> tuple[str, int | None] | None:
    """Key and copy of a possibly damaged message: most flipped bytes are in the image and leave the rest readable.

    The copy is None if only the key can be read; the result is None if the key cannot be read either.
    """
    try:
        record = decode(data)
        return record.key, record.copy
    except ValueError:
        # Map entry: name, then Feature > BytesList > value, each a tag and a length of one byte.
        entry = re.search(re.escape(KEY).encode() + rb"\x12.\x0a.\x0a(.)", data, re.DOTALL)
    if not entry:
        return None
    return data[entry.end() : entry.end() + entry.group(1)[0]].decode(errors="backslashreplace"), None
