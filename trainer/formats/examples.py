"""A record: an image, its label and their source, as a tf.train.Example message.

Feature keys are those of the published DeepLab converters, so that shards interchange with other readers. TensorFlow
is not imported: the message type comes from a descriptor pool of our own (TensorFlow's pool would refuse a second
definition of the same names).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

IMAGE_ENCODED = "image/encoded"
IMAGE_FILENAME = "image/filename"
IMAGE_FORMAT = "image/format"
IMAGE_HEIGHT = "image/height"
IMAGE_WIDTH = "image/width"
IMAGE_CHANNELS = "image/channels"
LABEL_ENCODED = "image/segmentation/class/encoded"
LABEL_FORMAT = "image/segmentation/class/format"
KEY = "image/key"
COPY = "augment/copy"


@dataclasses.dataclass(frozen=True)
class Record:
    """One training example.

    Attributes:
      key: the unique name of the image in the set: its relative path without the suffix; of a tile, see `tiles.named`.
      filename: the source image's relative path.
      image: encoded, RGB or grey, upright.
      image_format: "jpeg" or "png".
      height, width: the size of the image, in pixels.
      channels: the number of channels of the image.
      label: PNG of uint8 class ids, the same height and width.
      copy: 0 for the image itself, k for its k-th augmented copy.
    """

    key: str
    filename: str
    image: bytes
    image_format: str
    height: int
    width: int
    channels: int
    label: bytes
    copy: int = 0


@functools.cache
def _example_class() -> type:
    """tf.train.Example, built in a private descriptor pool (field numbers of tensorflow/core/example)."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="records", syntax="proto3")

    def add(name: str, *fields: tuple[str, int, int, int, str]) -> descriptor_pb2.DescriptorProto:
        kind = file.message_type.add(name=name)
        for field_name, number, label, field_type, type_name in fields:
            kind.field.add(name=field_name, number=number, label=label, type=field_type, type_name=type_name or None)
        return kind

    add("BytesList", ("value", 1, field.LABEL_REPEATED, field.TYPE_BYTES, ""))
    add("FloatList", ("value", 1, field.LABEL_REPEATED, field.TYPE_FLOAT, ""))
    add("Int64List", ("value", 1, field.LABEL_REPEATED, field.TYPE_INT64, ""))
    feature = add(
        "Feature",
        ("bytes_list", 1, field.LABEL_OPTIONAL, field.TYPE_MESSAGE, ".records.BytesList"),
        ("float_list", 2, field.LABEL_OPTIONAL, field.TYPE_MESSAGE, ".records.FloatList"),
        ("int64_list", 3, field.LABEL_OPTIONAL, field.TYPE_MESSAGE, ".records.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for kind in feature.field:
        kind.oneof_index = 0
    features = add(
        "Features", ("feature", 1, field.LABEL_REPEATED, field.TYPE_MESSAGE, ".records.Features.FeatureEntry")
    )
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    entry.field.add(
        name="value",
        number=2,
        label=field.LABEL_OPTIONAL,
        type=field.TYPE_MESSAGE,
        type_name=".records.Feature",
    )
    add("Example", ("features", 1, field.LABEL_OPTIONAL, field.TYPE_MESSAGE, ".records.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("records.Example"))


def encode(record: Record) -> bytes:
    """`record` as a serialised tf.train.Example; the same record always gives the same bytes."""
    values: dict[str, bytes | str | int] = {
        IMAGE_ENCODED: record.image,
        IMAGE_FILENAME: record.filename,
        IMAGE_FORMAT: record.image_format,
        IMAGE_HEIGHT: record.height,
        IMAGE_WIDTH: record.width,
        IMAGE_CHANNELS: record.channels,
        LABEL_ENCODED: record.label,
        LABEL_FORMAT: "png",
        KEY: record.key,
        COPY: record.copy,
    }
    example = _example_class()()
    for name, value in values.items():
        feature = example.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.bytes_list.value.append(value.encode() if isinstance(value, str) else value)
    # Map fields have no defined order.
    return example.SerializeToString(deterministic=True)


def _features(data: bytes) -> Any:
    """The features of a serialised message, by name."""
    try:
        return _example_class().FromString(data).features.feature
    except message.DecodeError as error:
        raise ValueError(f"not a tf.train.Example message: {error}") from None


def _one(features: Any, name: str, kind: str, default: Any = None) -> Any:
    """The single value of a feature."""
    values = getattr(features[name], kind).value if name in features else ()
    if len(values) != 1 and default is None:
        raise ValueError(f"feature {name!r} has {len(values)} values, expected one in its {kind}")
    return values[0] if len(values) == 1 else default


def decode_pixels(data: bytes) -> tuple[bytes, bytes, int, int]:
    """The encoded image and label of a serialised message, and their height and width (pixels).

    Raises ValueError if it is not such a message, or lacks one of them.
    """
    features = _features(data)
    image, label = (_one(features, name, "bytes_list") for name in (IMAGE_ENCODED, LABEL_ENCODED))
    height, width = (_one(features, name, "int64_list") for name in (IMAGE_HEIGHT, IMAGE_WIDTH))
    return image, label, height, width


def decode(data: bytes) -> Record:
    """The inverse of :func:`encode`. Raises ValueError if it is not such a message, or lacks a feature.

    Records of other writers, without `image/key` and `augment/copy`, get their file name as key, and copy 0.
    """
    features = _features(data)
    one = functools.partial(_one, features)
    try:
        filename = one(IMAGE_FILENAME, "bytes_list").decode()
        return Record(
            key=one(KEY, "bytes_list", filename.encode()).decode(),
            filename=filename,
            image=one(IMAGE_ENCODED, "bytes_list"),
            image_format=one(IMAGE_FORMAT, "bytes_list").decode(),
            height=one(IMAGE_HEIGHT, "int64_list"),
            width=one(IMAGE_WIDTH, "int64_list"),
            channels=one(IMAGE_CHANNELS, "int64_list", 3),
            label=one(LABEL_ENCODED, "bytes_list"),
            copy=one(COPY, "int64_list", 0),
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"a text feature is not UTF-8: {error}") from None
