"""The writing of one shard: source files in, a TFRecord file and its sidecar out. One image is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import cv2
import google_crc32c
import numpy as np

from pipelines.prepare import augment, workarea
from pipelines.prepare.options import RecordOptions
from pipelines.prepare.plan import Spec
from pipelines.prepare.workarea import Entry, Outcome
from trainer import storage
from trainer.accounts import Reject
from trainer.formats import images
from trainer.formats.dataset import Shard
from trainer.formats.examples import Record, encode
from trainer.formats.frames import frame
from trainer.formats.images import ImageError
from trainer.formats.labels import LabelError, Palette


class Unusable(Exception):
    """A source file cannot be used; becomes a Reject."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


def write_shard(
    folder: str,
    spec: Spec,
    entries: Iterable[Entry],
    palette: Palette,
    options: RecordOptions,
    finish: Callable[[str], object] = lambda outcome: None,
) -> Outcome:
    """Writes one whole shard and then its sidecar; both appear only when they are complete.

    Args:
      folder: of the records.
      entries: what to put in, in this order.
      finish: called with "written" or "rejected" after every entry.

    Returns:
      What the sidecar says; a shard without records has no file.
    """
    path = storage.join(folder, spec.name)
    rejects: list[Reject] = []
    sums = _Sums()
    with storage.writer(path) as file:
        for entry in entries:
            try:
                record, label = make_record(entry, palette, options)
            except Unusable as fault:
                rejects.append(Reject(entry.key, fault.path, "prepare", fault.reason))
                finish("rejected")
            else:
                framed = frame(encode(record))
                file.write(framed)
                sums.add(framed, label, entry.copy)
                finish("written")
    if not sums.records:
        storage.remove(path)
    outcome = Outcome(sums.shard(spec, palette), tuple(rejects))
    workarea.write_sidecar(folder, outcome)
    return outcome


def make_record(entry: Entry, palette: Palette, options: RecordOptions) -> tuple[Record, np.ndarray]:
    """Reads one image and its label and makes the record.

    Returns:
      The record and its label, uint8 [H, W] class ids.

    Raises:
      Unusable: one of the two files.
    """
    data, image = _load(entry.image, lambda data: images.decode_image(data, options.max_pixels))
    _, label = _load(entry.label, lambda data: palette.to_ids(images.decode_label(data, options.max_pixels)))
    if label.shape != image.shape[:2]:
        height, width = image.shape[:2]
        raise Unusable(
            entry.label, f"label is {label.shape[1]}x{label.shape[0]}, its image {width}x{height} (upright)"
        )
    fits = options.max_side == 0 or max(label.shape) <= options.max_side
    if not fits:
        image, label = augment.shrink(image, label, options.max_side)
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


def _load(path: str, decode: Callable[[bytes], Any]) -> tuple[bytes, Any]:
    try:
        data = storage.read(path)
    except OSError as error:
        raise Unusable(path, f"cannot be read: {error.strerror or error}") from None
    try:
        return data, decode(data)
    except (ImageError, LabelError) as error:
        raise Unusable(path, str(error)) from None


def _encoded(image: np.ndarray, image_format: str, options: RecordOptions) -> tuple[bytes, str, int]:
    """Bytes, format and channels of an image whose pixels are to be encoded."""
    is_png = image_format == "png"
    return images.encode_png(image) if is_png else images.encode_jpeg(image, options.jpeg_quality), image_format, 3


def _unchanged(data: bytes, image: np.ndarray, options: RecordOptions) -> tuple[bytes, str, int]:
    """The same for an image as it came: its own bytes where every reader of records can read them upright."""
    source = images.header(data, options.max_pixels)
    if source.format in ("jpeg", "png") and source.mode in ("RGB", "L") and source.orientation == 1:
        return data, source.format, 1 if source.mode == "L" else 3
    return _encoded(image, options.image_format if source.format == "jpeg" else "png", options)


@dataclass
class _Sums:
    """What the sidecar says of a shard, added up while it is written."""

    records: int = 0
    originals: int = 0
    size: int = 0
    crc: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    min_size: tuple[int, int] = (0, 0)
    max_size: tuple[int, int] = (0, 0)

    def add(self, framed: bytes, label: np.ndarray, copy: int) -> None:
        sizes = [label.shape, *([self.min_size, self.max_size] if self.records else [])]
        self.min_size, self.max_size = (tuple(map(pick, zip(*sizes, strict=True))) for pick in (min, max))
        self.records += 1
        self.originals += copy == 0
        self.size += len(framed)
        self.crc = google_crc32c.extend(self.crc, framed)
        self.pixels += _pixels_of_ids(label)

    def shard(self, spec: Spec, palette: Palette) -> Shard:
        return Shard(
            name=spec.name,
            split=spec.split,
            records=self.records,
            images=self.originals,
            bytes=self.size,
            crc32c=self.crc,
            fingerprint=spec.fingerprint,
            class_pixels=tuple(self.pixels[: palette.num_classes].tolist()),
            ignored_pixels=int(self.pixels[palette.ignore_id]),
            min_size=self.min_size,
            max_size=self.max_size,
        )


def _pixels_of_ids(label: np.ndarray) -> np.ndarray:
    """How many pixels every id has: int64 [256] of uint8 [H, W]. Half the time of numpy.bincount."""
    counts = np.zeros(256, np.int64)
    rows = max(1, (1 << 24) // label.shape[1])  # OpenCV gives float32, exact to 2^24
    for top in range(0, label.shape[0], rows):
        counts += cv2.calcHist([label[top : top + rows]], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    return counts
