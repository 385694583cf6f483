"""tf.train.Example messages: ours, TensorFlow's and damaged ones."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.formats import examples
from trainer.formats.examples import Record, decode, encode
from trainer.formats.frames import frame
from trainer.formats.images import encode_png


def record(key: str = "city/a", copy: int = 0) -> Record:
    image, label = np.full((3, 4, 3), 7, np.uint8), np.full((3, 4), 2, np.uint8)
    return Record(key, key + ".png", encode_png(image), "png", 3, 4, 3, encode_png(label), copy)


def test_feature_keys_are_the_published_ones():
    assert (examples.IMAGE_ENCODED, examples.IMAGE_FILENAME, examples.IMAGE_FORMAT) == (
        "image/encoded",
        "image/filename",
        "image/format",
    )
    assert (examples.LABEL_ENCODED, examples.LABEL_FORMAT) == (
        "image/segmentation/class/encoded",
        "image/segmentation/class/format",
    )


def test_a_record_survives_the_round_trip():
    assert decode(encode(record(copy=2))) == record(copy=2)
    assert encode(record()) == encode(record())


def test_tensorflow_reads_shards_with_nothing_of_ours(tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = tmp_path / "train-00000-of-00001.tfrecord"
    path.write_bytes(frame(encode(record("a"))) + frame(encode(record("b", 1))))
    messages = [tf.train.Example.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(str(path))]
    features = [example.features.feature for example in messages]
    assert [f["image/key"].bytes_list.value[0] for f in features] == [b"a", b"b"]
    assert [f["augment/copy"].int64_list.value[0] for f in features] == [0, 1]
    assert [f["image/height"].int64_list.value[0] for f in features] == [3, 3]
    image = tf.io.decode_png(features[0]["image/encoded"].bytes_list.value[0])
    label = tf.io.decode_png(features[0]["image/segmentation/class/encoded"].bytes_list.value[0])
    assert image.shape == (3, 4, 3) and (image.numpy() == 7).all()
    assert label.shape == (3, 4, 1) and (label.numpy() == 2).all()


def test_records_of_other_writers_are_read(tmp_path):
    tf = pytest.importorskip("tensorflow")
    ours = tf.train.Example.FromString(encode(record()))
    for name in ("image/key", "augment/copy"):
        del ours.features.feature[name]
    foreign = decode(ours.SerializeToString())
    assert (foreign.key, foreign.copy) == ("city/a.png", 0)


@pytest.mark.parametrize("data", [b"\xff\xff", b"", b"\x0a\x00"])
def test_malformed_messages_are_value_errors(data):
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example|has 0 values"):
        decode(data)
