"""TFRecord's framing: sixteen bytes around each message, so that neither TensorFlow nor Beam is needed."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

MAX_MESSAGE = 2**31 - 1
"""Bytes a protobuf message can have at most."""


def _masked_crc(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated and offset so that checksums of checksums are safe."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """`data` as one TFRecord: length, checksum of the length, data, checksum of the data."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", _masked_crc(length)), data, struct.pack("<I", _masked_crc(data))))


@dataclasses.dataclass(frozen=True)
class Frame:
    """One TFRecord: its number in the shard, the byte offset of its header, and its payload."""

    index: int
    offset: int
    data: bytes


class CorruptRecord(ValueError):
    """A damaged TFRecord.

    Attributes:
      index, offset: which record, and the byte offset of its header in the shard.
      data: the damaged payload, or b"" when not even its length is known.
      reason: in words.
    """

    def __init__(self, index: int, offset: int, reason: str, data: bytes = b""):
        super().__init__(f"record {index} at byte {offset}: {reason}")
        self.index, self.offset, self.reason, self.data = index, offset, reason, data


def scan_frames(file: BinaryIO) -> Iterator[Frame | CorruptRecord]:
    """Every record of a shard, damaged ones as CorruptRecord.

    Continues after a damaged payload; ends after a damaged length, behind which no record can be found.
    """
    index = offset = 0
    while head := file.read(12):
        if len(head) < 12:
            yield CorruptRecord(index, offset, f"the shard ends in a header of {len(head)} of 12 bytes")
            return
        length, length_crc = struct.unpack("<QI", head)
        if _masked_crc(head[:8]) != length_crc:
            yield CorruptRecord(index, offset, "checksum of the length is wrong; the rest of the shard is lost")
            return
        if length > MAX_MESSAGE:
            yield CorruptRecord(index, offset, f"claims {length} bytes, over protobuf's bound of {MAX_MESSAGE}")
            return
        data, tail = file.read(length), file.read(4)
        if len(data) < length or len(tail) < 4:
            yield CorruptRecord(index, offset, f"the shard ends after {len(data)} of {length} bytes", data)
            return
        if _masked_crc(data) != struct.unpack("<I", tail)[0]:
            yield CorruptRecord(index, offset, "checksum of the data is wrong", data)
        else:
            yield Frame(index, offset, data)
        index += 1
        offset += 16 + length


def read_frames(file: BinaryIO) -> Iterator[Frame]:
    """Every record of a shard; raises CorruptRecord at the first damaged one."""
    for item in scan_frames(file):
        if isinstance(item, CorruptRecord):
            raise item
        yield item
