"""The contract between `prepare` and `train`: TFRecord shards of tf.train.Example messages, and dataset.json.

Feature keys are those of the published DeepLab converters, so that shards interchange with other readers. Neither
TensorFlow nor Beam is imported: the framing is sixteen bytes around each message, and the message type comes from a
descriptor pool of our own (TensorFlow's pool would refuse a second definition of the same names).
"""

from __future__ import annotations

import dataclasses
import functools
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from trainer import storage
from trainer.accounts import Reject  # noqa: F401 BRIDGE
from trainer.formats.palettes import Palette
from trainer.options import InputError

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

MAX_MESSAGE = 2**31 - 1
"""Bytes a protobuf message can have at most."""

DATASET_FILE = "dataset.json"
DATASET_VERSION = 1
SHARD_PATTERN = re.compile(r"(?P<split>[\w-]+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.tfrecord")


@dataclasses.dataclass(frozen=True)
class Record:
    """One training example.

    Attributes:
      key: names the picture uniquely within the set; its relative path without the suffix.
      filename: the source picture's relative path.
      image: encoded picture, RGB or grey, upright.
      image_format: "jpeg" or "png".
      height, width, channels: of the picture, in pixels.
      label: PNG of uint8 class ids, the same height and width.
      copy: 0 for the picture itself, k for its k-th augmented copy.
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
    # Map fields have no order of their own.
    return example.SerializeToString(deterministic=True)


def decode(data: bytes) -> Record:
    """The inverse of :func:`encode`. Raises ValueError for what is no such message or lacks a feature.

    Records of other writers, which lack `image/key` and `augment/copy`, get their file name as key and copy 0.
    """
    try:
        example = _example_class().FromString(data)
    except message.DecodeError as error:
        raise ValueError(f"not a tf.train.Example message: {error}") from None
    features = example.features.feature

    def one(name: str, kind: str, default: Any = None) -> Any:
        values = getattr(features[name], kind).value if name in features else ()
        if len(values) != 1 and default is None:
            raise ValueError(f"feature {name!r} has {len(values)} values, expected one in its {kind}")
        return values[0] if len(values) == 1 else default

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

    Goes on after a damaged payload; ends after a damaged length, behind which no record can be found.
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
    for found in scan_frames(file):
        if isinstance(found, CorruptRecord):
            raise found
        yield found


def shard_name(split: str, index: int, count: int) -> str:
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


@dataclasses.dataclass(frozen=True)
class Shard:
    """What is in one shard.

    Attributes:
      name, split: file name and split.
      records, pictures: examples, and how many of them are source pictures (copy 0).
      bytes, crc32c: size of the file and CRC-32C of all its bytes.
      fingerprint: of the options and inputs it was made from.
      class_pixels: label pixels of every class, in palette order.
      ignored_pixels: label pixels of ignore_id.
      min_size, max_size: smallest and largest (height, width) of its pictures, each side by itself.
    """

    name: str
    split: str
    records: int
    pictures: int
    bytes: int
    crc32c: int
    fingerprint: str
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    min_size: tuple[int, int]
    max_size: tuple[int, int]

    @staticmethod
    def from_json(value: dict[str, Any]) -> Shard:
        return Shard(**{name: tuple(v) if isinstance(v, list) else v for name, v in value.items()})


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A folder of records, as its dataset.json tells.

    Attributes:
      palette: classes, colours and ignore_id of every label.
      shards: in order of name.
      options: the options of the `prepare` that made it.
      fingerprint: of the shards' contents alone; the same data has the same fingerprint everywhere.
      max_side: bound on the pictures' longest side in pixels, 0 for none.
      rejected: records that could not be made.
    """

    palette: Palette
    shards: tuple[Shard, ...]
    options: dict[str, Any]
    fingerprint: str
    max_side: int = 0
    rejected: int = 0

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(sorted({shard.split for shard in self.shards}))

    def of_split(self, split: str) -> tuple[Shard, ...]:
        return tuple(shard for shard in self.shards if shard.split == split)

    def count(self, split: str) -> int:
        """Records in `split`."""
        return sum(shard.records for shard in self.of_split(split))

    def pictures(self, split: str) -> int:
        """Source pictures in `split`: records that are no augmented copies."""
        return sum(shard.pictures for shard in self.of_split(split))

    def shard_paths(self, folder: str, split: str) -> list[str]:
        return [storage.join(folder, shard.name) for shard in self.of_split(split)]


def save_dataset(folder: str, dataset: Dataset) -> None:
    """Write `folder`/dataset.json."""
    value = dataclasses.asdict(dataset) | {
        "version": DATASET_VERSION,
        "palette": dataset.palette.to_json(),
        "splits": {
            split: {"records": dataset.count(split), "pictures": dataset.pictures(split)} for split in dataset.splits
        },
    }
    storage.write_json(storage.join(folder, DATASET_FILE), value)


def load_dataset(folder: str) -> Dataset:
    """Read `folder`/dataset.json; InputError when it is not there, or not one."""
    path = storage.join(folder, DATASET_FILE)
    if not storage.exists(path):
        raise InputError(f"{folder} holds no records: {DATASET_FILE} is missing; make it with `deeplab prepare`")
    value = storage.read_json(path)
    try:
        if value["version"] != DATASET_VERSION:
            raise InputError(f"{path} has version {value['version']}, this program reads {DATASET_VERSION}")
        shards = tuple(Shard.from_json(shard) for shard in value["shards"])
        for shard in shards:
            if not SHARD_PATTERN.fullmatch(shard.name):
                raise InputError(f"{path} names a shard {shard.name!r}, expected SPLIT-00000-of-00000.tfrecord")
        return Dataset(
            palette=Palette.from_json(value["palette"]),
            shards=shards,
            options=value["options"],
            fingerprint=value["fingerprint"],
            max_side=value["max_side"],
            rejected=value["rejected"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); run `deeplab prepare` again") from None
