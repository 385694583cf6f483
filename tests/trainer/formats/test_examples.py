from __future__ import annotations

import io
import json

import numpy as np
import pytest

from trainer import storage
from trainer.formats import records
from trainer.formats.images import encode_png
from trainer.formats.palettes import CAMVID
from trainer.formats.records import CorruptRecord, Dataset, Record, Shard
from trainer.options import InputError


def record(key: str = "city/a", copy: int = 0) -> Record:
    image, label = np.full((3, 4, 3), 7, np.uint8), np.full((3, 4), 2, np.uint8)
    return Record(key, key + ".png", encode_png(image), "png", 3, 4, 3, encode_png(label), copy)


def shard_bytes(*payloads: bytes) -> bytearray:
    return bytearray(b"".join(map(records.frame, payloads)))


def test_feature_keys_are_the_published_ones():
    assert (records.IMAGE_ENCODED, records.IMAGE_FILENAME, records.IMAGE_FORMAT) == (
        "image/encoded",
        "image/filename",
        "image/format",
    )
    assert (records.LABEL_ENCODED, records.LABEL_FORMAT) == (
        "image/segmentation/class/encoded",
        "image/segmentation/class/format",
    )


def test_a_record_survives_the_round_trip():
    assert records.decode(records.encode(record(copy=2))) == record(copy=2)
    assert records.encode(record()) == records.encode(record())


def test_tensorflow_reads_shards_with_nothing_of_ours(tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = tmp_path / "train-00000-of-00001.tfrecord"
    path.write_bytes(shard_bytes(records.encode(record("a")), records.encode(record("b", 1))))
    examples = [tf.train.Example.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(str(path))]
    features = [example.features.feature for example in examples]
    assert [f["image/key"].bytes_list.value[0] for f in features] == [b"a", b"b"]
    assert [f["augment/copy"].int64_list.value[0] for f in features] == [0, 1]
    assert [f["image/height"].int64_list.value[0] for f in features] == [3, 3]
    image = tf.io.decode_png(features[0]["image/encoded"].bytes_list.value[0])
    label = tf.io.decode_png(features[0]["image/segmentation/class/encoded"].bytes_list.value[0])
    assert image.shape == (3, 4, 3) and (image.numpy() == 7).all()
    assert label.shape == (3, 4, 1) and (label.numpy() == 2).all()


def test_records_of_other_writers_are_read(tmp_path):
    tf = pytest.importorskip("tensorflow")
    ours = tf.train.Example.FromString(records.encode(record()))
    for name in ("image/key", "augment/copy"):
        del ours.features.feature[name]
    found = records.decode(ours.SerializeToString())
    assert (found.key, found.copy) == ("city/a.png", 0)


@pytest.mark.parametrize("data", [b"\xff\xff", b"", b"\x0a\x00"])
def test_malformed_messages_are_value_errors(data):
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example|has 0 values"):
        records.decode(data)


def test_frames_come_back_with_number_and_offset():
    frames = list(records.read_frames(io.BytesIO(shard_bytes(b"one", b"three"))))
    assert [(f.index, f.offset, f.data) for f in frames] == [(0, 0, b"one"), (1, 19, b"three")]


def test_a_flipped_payload_byte_is_found_and_the_next_record_still_read():
    data = shard_bytes(b"one", b"three", b"five")
    data[19 + 12] ^= 1
    first, damaged, last = records.scan_frames(io.BytesIO(data))
    assert isinstance(damaged, CorruptRecord)
    assert (damaged.index, damaged.offset) == (1, 19)
    assert (first.data, last.data) == (b"one", b"five")
    with pytest.raises(CorruptRecord, match="record 1 at byte 19: checksum of the data"):
        list(records.read_frames(io.BytesIO(data)))


def test_every_single_flipped_byte_is_found():
    whole = shard_bytes(b"one", b"two")
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 0x10
        assert any(isinstance(found, CorruptRecord) for found in records.scan_frames(io.BytesIO(data))), position


@pytest.mark.parametrize("length", [5, 14, 18])
def test_a_truncated_shard_is_found(length):
    with pytest.raises(CorruptRecord, match="ends"):
        list(records.read_frames(io.BytesIO(shard_bytes(b"one")[:length])))


def dataset() -> Dataset:
    shard = Shard("val-00000-of-00001.tfrecord", "val", 2, 1, 99, 7, "f", (1,) * 11, 3, (3, 4), (5, 6))
    return Dataset(CAMVID, (shard,), {"copies": 1}, "abc", 512, 1)


def test_dataset_json_round_trip(tmp_path):
    records.save_dataset(str(tmp_path), dataset())
    found = records.load_dataset(str(tmp_path))
    assert found == dataset()
    assert (found.splits, found.count("val"), found.pictures("val"), found.count("train")) == (("val",), 2, 1, 0)
    assert found.shard_paths("gs://b/r", "val") == ["gs://b/r/val-00000-of-00001.tfrecord"]


def test_missing_and_damaged_dataset_json_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="holds no records"):
        records.load_dataset(str(tmp_path))
    records.save_dataset(str(tmp_path), dataset())
    path = tmp_path / "dataset.json"
    value = json.loads(path.read_text())
    storage.write_json(str(path), value | {"version": 99})
    with pytest.raises(InputError, match="version 99"):
        records.load_dataset(str(tmp_path))
    value["shards"][0]["name"] = "../../etc/passwd"
    storage.write_json(str(path), value)
    with pytest.raises(InputError, match="names a shard"):
        records.load_dataset(str(tmp_path))
    path.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        records.load_dataset(str(tmp_path))
