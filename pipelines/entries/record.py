"""Making a record: reads an image and its label, augments and encodes them, or refuses them with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from pipelines.entries import augment
from pipelines.entries.options import RecordOptions
from trainer import storage
from trainer.formats import codings, images, label_images, tiles
from trainer.formats.examples import Record
from trainer.formats.images import Header, ImageError
from trainer.formats.labels import LabelError, Palette
from trainer.formats.runs import pixels_of_ids

T = TypeVar("T")


class Entry(NamedTuple):
    """A planned record.

    Attributes:
      key: the unique name of the image in the set, see `trainer.formats.examples.Record`.
      filename: the path of the image, relative to the raw set.
      image: the path of the image, local or gs://.
      label: the path of the label, local or gs://.
      copy: the number of the augmented copy, from 1; 0 for the image itself.
      tile: the part of the image that the record holds, see `tiles.tiles_of`; "" for all of it.
    """

    key: str
    filename: str
    image: str
    label: str
    copy: int
    tile: str = ""


def filename(path: str, root: str) -> str:
    """`path` relative to the raw set's folder, or its last part if it lies elsewhere."""
    prefix = root.replace("\\", "/").rstrip("/") + "/"
    path = path.replace("\\", "/")
    return path[len(prefix) :] if path.startswith(prefix) else path.rsplit("/", 1)[-1]


class Unusable(Exception):
    """A source file cannot be used; becomes a Reject.

    Attributes:
      path: the file.
      reason: the reason, in words.
      unread: whether it could not be read, possibly for a temporary reason.
    """

    def __init__(self, path: str, reason: str, unread: bool = False) -> None:
        super().__init__(path, reason, unread)  # all arguments, so that it can be unpickled
        self.path, self.reason, self.unread = path, reason, unread


class Source(NamedTuple):
    """A decoded image and its label, from which the image's records are made.

    Attributes:
      data: the bytes of the image's file.
      header: its header.
      image: uint8 [H, W, 3] RGB, upright, shrunk if need be; None if every record takes the bytes of the file, which
        were checked.
      label: class ids, uint8 [H, W].
      pixels: the number of label pixels of every id, int64 [256].
    """

    data: bytes
    header: Header
    image: np.ndarray | None
    label: np.ndarray
    pixels: np.ndarray


def load(
    entries: Sequence[Entry], palette: Palette, options: RecordOptions, read: Callable[[str], bytes] = storage.read
) -> Source:
    """Reads the image and the label of entries that share them.

    Args:
      entries: planned records of one image, at least one.
      palette: the palette of the raw set.
      options: the options of the records.
      read: reads a file, like `storage.read`.

    Raises:
      Unusable: one of the files cannot be used.
    """
    entry, is_changed = entries[0], any(entry.copy or entry.tile for entry in entries)
    data, (header, image) = _load(entry.image, read, lambda data: _decode_image(data, options, is_changed))
    _, (labelled, (label, pixels)) = _load(entry.label, read, lambda data: _decode_label(data, palette, options))
    if fault := images.mismatch(header, labelled):
        raise Unusable(entry.label, fault)
    if entry.tile == tiles.UNPLANNED:
        fault = "could not be read when its tiles were planned, and can be read now; run the same command again"
        raise Unusable(entry.image, fault, unread=True)
    if not _fits(label.shape, options):
        image, label = augment.shrink(image, label, options.max_side)
        pixels = pixels_of_ids(label)
    return Source(data, header, image, label, pixels)


def make_record(entry: Entry, source: Source, palette: Palette, options: RecordOptions) -> tuple[Record, np.ndarray]:
    """Makes the record of an entry.

    Args:
      entry: the planned record.
      source: its image and label, see `load`; they are not changed.
      palette: the palette of the raw set.
      options: the options of the record.

    Returns:
      The record, and its label's class ids, uint8 [H, W]: the array of the source if they are unchanged.

    Raises:
      Unusable: the record would be too large.
    """
    data, header, image, label, _ = source
    key = tiles.named(entry.key, entry.tile)
    if entry.tile:
        image, label = tiles.cut(image, entry.tile), tiles.cut(label, entry.tile)
        if not label.size:
            fault = "was replaced by a smaller image after its tiles were planned; run the same command again"
            raise Unusable(entry.image, fault)
    if entry.copy:
        if fault := _too_large(label.shape, options):
            raise Unusable(entry.image, fault)
        rng = augment.rng_for(options.seed, key, entry.copy)
        image, label = augment.augment(image, label, rng, options, palette.ignore_id)
    is_original = not entry.copy and not entry.tile and _fits(header.upright_size, options)
    if is_original and _is_kept(header):
        data, image_format, channels = data[: header.end], header.format, 1 if header.mode == "L" else 3
    else:
        image_format = "png" if is_original and header.format != "jpeg" else options.image_format
        data, channels = _encoded(image, image_format, options), 3
    height, width = label.shape
    record = Record(
        key=key,
        filename=entry.filename,
        image=data,
        image_format=image_format,
        height=height,
        width=width,
        channels=channels,
        label=label_images.encode_label(label),
        copy=entry.copy,
    )
    return record, label


def _load(path: str, read: Callable[[str], bytes], decode: Callable[[bytes], T]) -> tuple[bytes, T]:
    try:
        data = read(path)
    except OSError as error:
        raise Unusable(path, f"cannot be read: {error.strerror or error}", unread=True) from None
    try:
        return data, decode(data)
    except (ImageError, LabelError) as error:
        raise Unusable(path, str(error)) from None


def _decode_image(data: bytes, options: RecordOptions, is_changed: bool) -> tuple[Header, np.ndarray | None]:
    """The header of an image and, if a record needs them, its pixels, uint8 [H, W, 3]."""
    header = images.header(data, options.max_pixels)
    if is_changed or not _fits(header.upright_size, options) or not _is_kept(header):
        return images.decode(data, options.max_pixels)
    return images.check(data, options.max_pixels), None


def _decode_label(
    data: bytes, palette: Palette, options: RecordOptions
) -> tuple[Header, tuple[np.ndarray, np.ndarray]]:
    """The header of a label, its class ids and the number of pixels of every id."""
    label = label_images.read_label(data, options.max_pixels)
    return images.header(data, options.max_pixels), codings.counted_ids(label, palette, options.label_coding)


def _too_large(shape: tuple[int, int], options: RecordOptions) -> str:
    """The reason to reject an image of this (height, width) if its copies would exceed the limit; "" otherwise."""
    height, width = augment.copied_size(shape, options)
    pixels = height * width
    if pixels <= options.max_pixels:
        return ""
    return (
        f"is {shape[1]}x{shape[0]}, and --pad {options.pad} would make it {width}x{height}: {pixels:,} pixels, over "
        f"the limit of {options.max_pixels:,}; shrink such images by --max-side, or give a smaller --pad"
    )


def _fits(size: tuple[int, int], options: RecordOptions) -> bool:
    """Whether an image of this (height, width) need not be shrunk."""
    return options.max_side == 0 or max(size) <= options.max_side


def _is_kept(header: Header) -> bool:
    """Whether the record of an image takes the bytes of the file: every reader of records decodes them alike."""
    return (
        header.format in ("jpeg", "png")
        and (header.mode, header.depth) in (("RGB", 8), ("L", 8))
        and header.orientation == 1
        and header.is_common
    )


def _encoded(image: np.ndarray, image_format: str, options: RecordOptions) -> bytes:
    """Encodes an image, uint8 [H, W, 3]."""
    return images.encode_png(image) if image_format == "png" else images.encode_jpeg(image, options.jpeg_quality)
