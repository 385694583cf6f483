"""TFRecord's framing: sixteen bytes around each message, so that neither TensorFlow nor Beam is needed."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

MAX_MESSAGE = 2**31 - 1
"""The most bytes of a protobuf message."""
HEAD, TAIL = 12, 4
"""Bytes before and after a record's payload: its length with a checksum, and the payload's checksum."""


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
      index: the number of the record in the shard, from 0.
      offset: the offset of its header in the shard, in bytes.
      data: the damaged payload, or b"" when not even its length is known.
      reason: the damage, in words.
    """

    def __init__(self, index: int, offset: int, reason: str, data: bytes = b""):
        super().__init__(f"record {index} at byte {offset}: {reason}")
        self.index, self.offset, self.reason, self.data = index, offset, reason, data


def length_of(head: bytes, index: int, offset: int) -> int:
    """The length of a record's payload, in bytes, from the HEAD bytes before it. Raises CorruptRecord."""
    if len(head) < HEAD:
        raise CorruptRecord(index, offset, f"the shard ends in a header of {len(head)} of {HEAD} bytes")
    length, length_crc = struct.unpack("<QI", head)
    if _masked_crc(head[:8]) != length_crc:
        raise CorruptRecord(index, offset, "checksum of the length is wrong; the rest of the shard is lost")
    if length > MAX_MESSAGE:
        raise CorruptRecord(index, offset, f"claims {length} bytes, over protobuf's bound of {MAX_MESSAGE}")
    return length


def check_payload(data: bytes, tail: bytes, index: int, offset: int) -> None:
    """Raises CorruptRecord if the TAIL bytes after a payload are not its checksum."""
    if _masked_crc(data) != struct.unpack("<I", tail)[0]:
        raise CorruptRecord(index, offset, "checksum of the data is wrong", data)


def scan_frames(file: BinaryIO) -> Iterator[Frame | CorruptRecord]:
    """Every record of a shard, damaged ones as CorruptRecord.

    Continues after a damaged payload; ends after a damaged length, behind which no record can be found.
    """
    index = offset = 0
    while head := file.read(HEAD):
        try:
            length = length_of(head, index, offset)
        except CorruptRecord as fault:
            yield fault
            return
        data, tail = file.read(length), file.read(TAIL)
        if len(data) < length or len(tail) < TAIL:
            yield CorruptRecord(index, offset, f"the shard ends after {len(data)} of {length} bytes", data)
            return
        try:
            check_payload(data, tail, index, offset)
        except CorruptRecord as fault:
            yield fault
        else:
            yield Frame(index, offset, data)
        index += 1
        offset += HEAD + length + TAIL


def read_frames(file: BinaryIO) -> Iterator[Frame]:
    """Every record of a shard; raises CorruptRecord at the first damaged one."""
    for item in scan_frames(file):
        if isinstance(item, CorruptRecord):
            raise item
        yield item
