"""Reads the records of a folder one by one, for whoever needs all of them intact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from trainer import storage
from trainer.accounts import counted
from trainer.formats.dataset import Shard, open_shard
from trainer.formats.examples import Record, decode
from trainer.formats.frames import CorruptRecord, Frame, scan_frames
from trainer.options import InputError


class Summing:
    """A file that computes the number and the CRC-32C of the bytes read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.crc, self.size = file, 0, 0

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        self.crc, self.size = google_crc32c.extend(self.crc, data), self.size + len(data)
        return data

    def exhaust(self) -> None:
        """Reads to the end."""
        while self.read(1 << 20):
            pass


def summed(folder: str, name: str) -> Summing:
    """The sums of a whole shard."""
    with open_shard(folder, name) as file:
        whole = Summing(file)
        whole.exhaust()
    return whole


def read_record(data: bytes) -> Record:
    """The record of a message. Raises ValueError if it is not one, or its key is not a safe relative path."""
    record = decode(data)
    storage.safe_relative(record.key)
    return record


def read_records(folder: str, shard: Shard, unchanged: bool = False) -> Iterator[tuple[Frame, Record]]:
    """Yields every record of a shard.

    Args:
      unchanged: whether the shard must have the very bytes that dataset.json describes, which shows after the last
        record.

    Raises:
      InputError: the shard is missing, damaged, or contradicts dataset.json.
    """
    advice = f"`deeplab records verify {folder}` lists all faults"
    try:
        file = open_shard(folder, shard.name)
    except FileNotFoundError:
        raise InputError(f"shard {shard.name} is missing in {folder}; {advice}") from None
    except OSError as error:
        raise InputError(
            f"shard {shard.name} in {folder} cannot be read: {error.strerror or error}; {advice}"
        ) from None
    count, sums = 0, Summing(file)
    with file:
        for frame in scan_frames(sums):
            count += 1
            if isinstance(frame, CorruptRecord):
                raise InputError(f"{shard.name}: {frame}; {advice}")
            try:
                record = read_record(frame.data)
            except ValueError as error:
                raise InputError(f"{shard.name}: record {frame.index}: {error}; {advice}") from None
            yield frame, record
    if count != shard.records:
        raise InputError(
            f"{shard.name}: has {counted(count, 'record')}, but dataset.json says {shard.records}; {advice}"
        )
    if unchanged and (sums.size, sums.crc) != (shard.bytes, shard.crc32c):
        raise InputError(
            f"{shard.name}: is not the file that dataset.json describes: it has {sums.size} bytes with the checksum "
            f"{sums.crc:#010x}, expected {shard.bytes} with {shard.crc32c:#010x}; {advice}"
        )
