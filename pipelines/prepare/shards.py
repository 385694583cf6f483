"""What goes into which shard, and the writing of one shard. No Beam here: plain functions that a worker calls.

Every (picture, copy) belongs to a shard by the hash of seed, key and copy number, so that adding a picture changes
only the shards its copies fall into. The order inside a shard is that of the hashes: keys are shuffled here, pictures
are never moved. A shard's bytes follow from its plan, the options and the source files alone.

Work area: `shards/plan-NAME.jsonl` holds the entries of a shard still to be written, `shards/NAME.json` (its sidecar)
tells of a finished one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import cv2
import google_crc32c
import numpy as np

from pipelines.inputs.rawset import Pair
from pipelines.prepare import augment
from pipelines.prepare.augment import AugmentOptions
from trainer import storage
from trainer.formats import images, records
from trainer.formats.images import ImageError
from trainer.formats.palettes import LabelError, Palette
from trainer.formats.records import Record, Reject, Shard
from trainer.options import InputError, option

FORMAT_VERSION = 1  # part of every fingerprint; goes up when the same input would give other bytes


@dataclasses.dataclass(frozen=True)
class RecordOptions(AugmentOptions):
    """Everything besides the source files and the palette that decides what a record holds."""

    seed: int = option(0, "seed of the shuffling and of every augmentation")
    max_side: int = option(0, "shrink pictures whose longest side is over this (pixels); 0 keeps every size")
    image_format: str = option(
        "jpeg", "format of pictures that have to be encoded anew: copies, shrunk, turned", choices=("jpeg", "png")
    )
    jpeg_quality: int = option(95, "quality of JPEGs encoded anew, 1 to 100")
    max_pixels: int = option(images.MAX_PIXELS, "refuse pictures of more pixels than this")

    def __post_init__(self) -> None:
        getattr(super(), "__post_init__", lambda: None)()
        if self.seed < 0:
            raise InputError(f"--seed must be 0 or more, got {self.seed}")
        if self.max_side < 0:
            raise InputError(f"--max-side must be 0 (no bound) or a number of pixels, got {self.max_side}")
        if not 1 <= self.jpeg_quality <= 100:
            raise InputError(f"--jpeg-quality must be 1 to 100, got {self.jpeg_quality}")
        if self.max_pixels < 1:
            raise InputError(f"--max-pixels must be 1 or more, got {self.max_pixels}")


class Entry(NamedTuple):
    """One record to be made: the `copy`-th version of a picture, 0 being the picture itself."""

    key: str
    filename: str
    image: str
    label: str
    copy: int


class Spec(NamedTuple):
    """One shard to be written; what Beam passes around."""

    name: str
    split: str
    fingerprint: str
    records: int


class Planned(NamedTuple):
    """A shard of the plan, as indices into the pairs so that a million of them stay small."""

    spec: Spec
    members: list[tuple[int, int]]  # (index into pairs, copy), in the order of the shard


def shuffle_hash(seed: int, key: str, copy: int) -> int:
    """64 bits that decide shard and order; the same on every machine."""
    return int.from_bytes(hashlib.md5(f"{seed}/{copy}/{key}".encode()).digest()[:8], "big")


def plan_split(
    pairs: list[Pair], split: str, count: int, copies: int, options: RecordOptions, palette: Palette, root: str
) -> list[Planned]:
    """Deals the records of one split out to at most `count` shards, none of them empty.

    Args:
      pairs: the pictures of the split.
      copies: augmented copies of every picture, besides the picture itself.
      root: folder of the raw set; file names in records are relative to it.
    """
    groups: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
    for index, pair in enumerate(pairs):
        for copy in range(copies + 1):
            value = shuffle_hash(options.seed, pair.key, copy)
            groups[value % count].append((value, index, copy))
    groups = [sorted(group) for group in groups if group]
    planned = []
    for number, group in enumerate(groups):
        members = [(index, copy) for _, index, copy in group]
        spec = Spec(
            records.shard_name(split, number, len(groups)),
            split,
            fingerprint(pairs, members, options, palette, root),
            len(members),
        )
        planned.append(Planned(spec, members))
    return planned


def fingerprint(
    pairs: list[Pair], members: list[tuple[int, int]], options: RecordOptions, palette: Palette, root: str
) -> str:
    """md5 of all that decides a shard's bytes: options, palette, and the entries with their files' sizes and times."""
    used = {field.name: getattr(options, field.name) for field in dataclasses.fields(RecordOptions)}
    if not any(copy for _, copy in members):  # other augmentation leaves shards of originals as they are
        used = {name: used[name] for name in ("max_side", "image_format", "jpeg_quality", "max_pixels")}
    digest = hashlib.md5(json.dumps([FORMAT_VERSION, used, palette.to_json()], sort_keys=True).encode())
    for index, copy in members:
        pair = pairs[index]
        row = [pair.key, filename(pair.image, root), copy, pair.size, pair.modified]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def filename(path: str, root: str) -> str:
    """`path` relative to the raw set's folder, or its last part when it lies elsewhere."""
    prefix = root.replace("\\", "/").rstrip("/") + "/"
    path = path.replace("\\", "/")
    return path[len(prefix) :] if path.startswith(prefix) else path.rsplit("/", 1)[-1]


def sidecar_path(folder: str, name: str) -> str:
    return storage.join(folder, "shards", f"{name}.json")


def plan_path(folder: str, name: str) -> str:
    return storage.join(folder, "shards", f"plan-{name}.jsonl")


def write_plan(folder: str, planned: Planned, pairs: list[Pair], root: str) -> None:
    """Writes the entries of one shard where its worker will read them."""
    lines = []
    for index, copy in planned.members:
        pair = pairs[index]
        entry = Entry(pair.key, filename(pair.image, root), pair.image, pair.label, copy)
        lines.append(json.dumps(entry, ensure_ascii=False))
    storage.write(plan_path(folder, planned.spec.name), ("\n".join(lines) + "\n").encode())


def read_plan(folder: str, name: str) -> Iterator[Entry]:
    for line in storage.read(plan_path(folder, name)).decode().splitlines():
        yield Entry(*json.loads(line))


class _Unusable(Exception):
    """A source file cannot be used; becomes a Reject."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


def _load(path: str, decode: Callable[[bytes], Any]) -> tuple[bytes, Any]:
    try:
        data = storage.read(path)
    except OSError as error:
        raise _Unusable(path, f"cannot be read: {error.strerror or error}") from None
    try:
        return data, decode(data)
    except (ImageError, LabelError) as error:
        raise _Unusable(path, str(error)) from None


def _encoded(image: np.ndarray, image_format: str, options: RecordOptions) -> tuple[bytes, str, int]:
    """Bytes, format and channels of a picture that is encoded anew."""
    png = image_format == "png"
    return images.encode_png(image) if png else images.encode_jpeg(image, options.jpeg_quality), image_format, 3


def _unchanged(data: bytes, image: np.ndarray, options: RecordOptions) -> tuple[bytes, str, int]:
    """The same for a picture as it came: its own bytes where every reader of records can read them upright."""
    source = images.header(data, options.max_pixels)
    if source.format in ("jpeg", "png") and source.mode in ("RGB", "L") and source.orientation == 1:
        return data, source.format, 1 if source.mode == "L" else 3
    return _encoded(image, options.image_format if source.format == "jpeg" else "png", options)


def _pixels_of_ids(label: np.ndarray) -> np.ndarray:
    """How many pixels every id has: int64 [256] of uint8 [H, W]. Half the time of numpy.bincount."""
    counts = np.zeros(256, np.int64)
    rows = max(1, (1 << 24) // label.shape[1])  # OpenCV gives float32, exact to 2^24
    for top in range(0, label.shape[0], rows):
        counts += cv2.calcHist([label[top : top + rows]], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    return counts


def make_record(entry: Entry, palette: Palette, options: RecordOptions) -> tuple[Record, np.ndarray]:
    """Reads one picture and its label and makes the record.

    Returns:
      The record and its label, uint8 [H, W] class ids.
    """
    data, image = _load(entry.image, lambda data: images.decode_image(data, options.max_pixels))
    _, label = _load(entry.label, lambda data: palette.to_ids(images.decode_label(data, options.max_pixels)))
    if label.shape != image.shape[:2]:
        height, width = image.shape[:2]
        raise _Unusable(
            entry.label, f"label is {label.shape[1]}x{label.shape[0]}, its picture {width}x{height} (upright)"
        )
    fits = options.max_side == 0 or max(label.shape) <= options.max_side
    if not fits:
        image, label = augment.resize(image, label, options.max_side)
    if entry.copy:
        rng = augment.rng_for(options.seed, entry.key, entry.copy)
        image, label = augment.augment(image, label, rng, options, palette.ignore_id)
    if fits and not entry.copy:
        data, image_format, channels = _unchanged(data, image, options)
    else:
        data, image_format, channels = _encoded(image, options.image_format, options)
    height, width = label.shape
    record = Record(
        key=entry.key,
        filename=entry.filename,
        image=data,
        image_format=image_format,
        height=height,
        width=width,
        channels=channels,
        label=images.encode_png(label),
        copy=entry.copy,
    )
    return record, label


def write_shard(
    folder: str,
    spec: Spec,
    entries: Iterable[Entry],
    palette: Palette,
    options: RecordOptions,
    beat: Callable[[int], None] = lambda n: None,
) -> tuple[Shard, list[Reject]]:
    """Writes one whole shard and then its sidecar; both appear only when they are complete.

    Args:
      folder: of the records.
      entries: what to put in, in this order; one picture is in memory at a time.
      beat: told 1 after every entry.
    """
    path = storage.join(folder, spec.name)
    rejects: list[Reject] = []
    pixels = np.zeros(256, np.int64)
    sizes: list[tuple[int, int]] = []
    low, high, count, originals, size, crc = (0, 0), (0, 0), 0, 0, 0, 0
    with storage.writer(path) as file:
        for entry in entries:
            try:
                record, label = make_record(entry, palette, options)
            except _Unusable as fault:
                rejects.append(Reject(entry.key, fault.path, "prepare", fault.reason))
            else:
                framed = records.frame(records.encode(record))
                file.write(framed)
                crc, size = google_crc32c.extend(crc, framed), size + len(framed)
                pixels += _pixels_of_ids(label)
                sizes = [label.shape, *([low, high] if count else [])]
                low, high = tuple(map(min, zip(*sizes, strict=True))), tuple(map(max, zip(*sizes, strict=True)))
                count, originals = count + 1, originals + (entry.copy == 0)
            beat(1)
    if not count:
        storage.remove(path)
    shard = Shard(
        name=spec.name,
        split=spec.split,
        records=count,
        pictures=originals,
        bytes=size,
        crc32c=crc,
        fingerprint=spec.fingerprint,
        class_pixels=tuple(pixels[: palette.num_classes].tolist()),
        ignored_pixels=int(pixels[palette.ignore_id]),
        min_size=low,
        max_size=high,
    )
    content = {"shard": dataclasses.asdict(shard), "rejects": [dataclasses.asdict(reject) for reject in rejects]}
    storage.write_json(sidecar_path(folder, spec.name), content)
    return shard, rejects


def read_sidecar(folder: str, name: str) -> tuple[Shard, list[Reject]] | None:
    """What the sidecar of a shard tells; None when there is none that can be read."""
    try:
        content = storage.read_json(sidecar_path(folder, name))
        return Shard.from_json(content["shard"]), [Reject(**reject) for reject in content["rejects"]]
    except (InputError, KeyError, TypeError):
        return None
