"""TFRecord's framing, whole and damaged."""

from __future__ import annotations

import io

import pytest

from trainer.formats.frames import CorruptRecord, frame, read_frames, scan_frames


def shard_bytes(*payloads: bytes) -> bytearray:
    return bytearray(b"".join(map(frame, payloads)))


def test_frames_come_back_with_number_and_offset():
    frames = list(read_frames(io.BytesIO(shard_bytes(b"one", b"three"))))
    assert [(f.index, f.offset, f.data) for f in frames] == [(0, 0, b"one"), (1, 19, b"three")]


def test_a_flipped_payload_byte_is_found_and_the_next_record_still_read():
    data = shard_bytes(b"one", b"three", b"five")
    data[19 + 12] ^= 1
    first, damaged, last = scan_frames(io.BytesIO(data))
    assert isinstance(damaged, CorruptRecord)
    assert (damaged.index, damaged.offset) == (1, 19)
    assert (first.data, last.data) == (b"one", b"five")
    with pytest.raises(CorruptRecord, match="record 1 at byte 19: checksum of the data"):
        list(read_frames(io.BytesIO(data)))


def test_every_single_flipped_byte_is_found():
    whole = shard_bytes(b"one", b"two")
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 0x10
        assert any(isinstance(item, CorruptRecord) for item in scan_frames(io.BytesIO(data))), position


@pytest.mark.parametrize("length", [5, 14, 18])
def test_a_truncated_shard_is_found(length):
    with pytest.raises(CorruptRecord, match="ends"):
        list(read_frames(io.BytesIO(shard_bytes(b"one")[:length])))
