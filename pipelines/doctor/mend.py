"""Repairs labels that `deeplab prepare` would reject or misread; pixels that remain ambiguous are ignored."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from pipelines.doctor import measures
from pipelines.doctor.findings import MENDABLE
from trainer import storage
from trainer.formats import codings, images, label_images
from trainer.formats.containers import PNG_HEAD, png_with_text
from trainer.formats.images import Header, ImageError
from trainer.formats.labels import LabelError, Palette, color_meanings, id_table, pack, pack_color, unknown_mark

MAX_BLUR = 48
"""Maximum Euclidean distance, in grey levels, of a blurred pixel's colour from the colour of its class."""
SAME_SHAPE = 0.01
"""Relative difference of two aspect ratios that rounding can cause."""
_UNTURNED = ("lossy-labels", "sizes", "unknown-colors", "blended-ids")
"""Kinds of faults that hide whether the label was drawn on the image as stored."""
_NAME = b"deeplab doctor\0"


def mended(
    kind: str,
    data: bytes,
    image: bytes,
    palette: Palette,
    coding: str,
    shift: tuple[int, int] = (0, 0),
) -> np.ndarray | None:
    """The class ids that a faulty label was meant to have.

    Args:
      kind: the kind of its fault or doubt, see `look`; "" for a good label, which is only moved.
      data: the label file.
      image: the file of its image.
      palette, coding: the palette and coding with which it is read.
      shift: how far it is moved down and right, in pixels.

    Returns:
      uint8 [H, W] of the image's upright size, `ignore_id` where the class is ambiguous; None if the label cannot be
      repaired.
    """
    if kind and kind not in MENDABLE:
        return None
    header = images.header(image)
    try:
        ids = _ids(kind, data, header, palette, coding)
        if ids is not None and kind in _UNTURNED and header.orientation != 1 == images.header(data).orientation:
            ids = _turned(ids, images.decode_image(image), header, palette.ignore_id)
    except (ImageError, LabelError):
        return None
    if ids is None or ids.shape != header.upright_size:
        return None
    return _moved(ids, shift, palette.ignore_id)


def _turned(ids: np.ndarray, image: np.ndarray, header: Header, ignore_id: int) -> np.ndarray:
    """A label turned like its image, if it was drawn on that as stored."""
    is_upright = ids.shape == header.upright_size
    if is_upright and measures.turn(image, ids, header.orientation, ignore_id) is None:
        return ids
    return images.upright(ids, header.orientation)


def _ids(kind: str, data: bytes, image: Header, palette: Palette, coding: str) -> np.ndarray | None:
    if kind == "lossy-labels":
        return _sharpened(images.decode_image(data), palette)
    label = label_images.read_label(data)
    is_unseen = kind in ("sizes", "exif")  # found in the headers, so its values may be at fault as well
    if kind == "unknown-colors" or (is_unseen and label.codes.ndim == 3 and coding != "ids"):
        ids = _known(label, palette)
    else:
        ids = codings.to_ids(label, palette, coding)
    if kind == "blended-ids" or (is_unseen and _is_blended(label, palette)):
        ids = np.where(_blended(label.codes), np.uint8(palette.ignore_id), ids)
    if kind in ("exif", "turned-labels"):
        header = images.header(data)
        return images.upright(ids, image.orientation) if header.orientation == 1 else None
    if kind == "sizes":
        return _scaled(ids, image)
    return ids


def encoded(ids: np.ndarray, palette: Palette, coding: str) -> bytes:
    """A PNG, of colours or ids, that is read as these ids, uint8 [H, W], with `palette` and `coding`."""
    if coding != "ids":
        return images.encode_png(palette.colorize(ids))
    codes = np.zeros(256, np.uint8)
    table = id_table(palette)
    for code in range(255, -1, -1):
        if table[code] != unknown_mark(palette):
            codes[table[code]] = code
    return label_images.encode_label(codes[ids])


def signed(png: bytes) -> bytes:
    """The PNG with the identity of its bytes as the text chunk "deeplab doctor" after its header."""
    return png_with_text(png, _NAME + storage.identity(png).encode())


def unsigned(file: bytes) -> bytes:
    """The PNG without the chunk of `signed`; any other file as it is."""
    if file[PNG_HEAD + 4 : PNG_HEAD + 8 + len(_NAME)] != b"tEXt" + _NAME:
        return file
    return file[:PNG_HEAD] + file[PNG_HEAD + 12 + int.from_bytes(file[PNG_HEAD : PNG_HEAD + 4], "big") :]


def is_signed(file: bytes) -> bool:
    """Whether a file is what `signed` returned, of which no byte has changed since."""
    return file == signed(unsigned(file))


def _sharpened(rgb: np.ndarray, palette: Palette) -> np.ndarray | None:
    """Class ids of blurred colours, or of blurred greys if the ids are far apart."""
    if (np.ptp(rgb.astype(np.int16), axis=2) <= 2).mean() > 0.99 and (table := _grey_levels(palette)):
        levels, classes = zip(*table, strict=True)
        colors = np.repeat(np.float32(levels)[:, None], 3, axis=1)
    else:
        meanings = color_meanings(palette)
        colors, classes = np.float32(list(meanings)), tuple(meanings.values())
    nearest = np.zeros(rgb.shape[:2], np.int64)
    best = np.full(rgb.shape[:2], np.inf, np.float32)
    pixels = rgb.astype(np.float32)
    for place, color in enumerate(colors):
        distance = ((pixels - color) ** 2).sum(2)
        nearest[distance < best] = place
        np.minimum(best, distance, out=best)
    if (best <= MAX_BLUR**2).mean() < 0.5:  # these are not the palette's colours
        return None
    ids = np.take(np.uint8(classes), nearest)
    box = np.ones((3, 3), np.uint8)
    is_sure = (best <= MAX_BLUR**2) & (cv2.erode(ids, box) == cv2.dilate(ids, box))
    return np.where(is_sure, ids, np.uint8(palette.ignore_id))


def _grey_levels(palette: Palette) -> list[tuple[int, int]]:
    """Pairs (id in label files, its class), if the ids are so far apart that blurring does not mix them up."""
    table = id_table(palette)
    known = [(code, int(table[code])) for code in range(256) if table[code] != unknown_mark(palette)]
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(known)]
    return known if gaps and min(gaps) >= 32 else []


def _known(label: label_images.Label, palette: Palette) -> np.ndarray:
    """Class ids of the colours that the palette knows; other pixels are ignored."""
    packed = pack(label.rgb)
    ids = np.full(packed.shape, palette.ignore_id, np.uint8)
    for color, meaning in color_meanings(palette).items():
        ids[packed == pack_color(color)] = meaning
    return ids


def _is_blended(label: label_images.Label, palette: Palette) -> bool:
    if label.codes.ndim == 3 or label.colormap is not None:
        return False
    return measures.blended_share(label.codes, id_table(palette) != palette.ignore_id) >= measures.BLENDED


def _blended(codes: np.ndarray) -> np.ndarray:
    """The pixels whose id is between those of two opposite neighbours, and the pixels next to them, bool [H, W]."""
    mask = np.zeros(codes.shape, bool)
    for rows, marks in ((codes, mask), (codes.T, mask.T)):
        marks[:, 1:-1] |= measures.between(rows)
    box = np.ones((3, 3), np.uint8)
    solid = cv2.erode(codes, box) == cv2.dilate(codes, box)
    return mask | ((cv2.dilate(mask.astype(np.uint8), box) > 0) & ~solid)


def _scaled(ids: np.ndarray, image: Header) -> np.ndarray | None:
    (height, width), (new_height, new_width) = ids.shape, image.upright_size
    if (height < width) != (new_height < new_width) and image.orientation != 1:  # drawn on the image as stored
        new_height, new_width = new_width, new_height
    if abs(height * new_width - width * new_height) > SAME_SHAPE * height * new_width:
        return None
    return cv2.resize(ids, (new_width, new_height), interpolation=cv2.INTER_NEAREST_EXACT)


def _moved(ids: np.ndarray, shift: tuple[int, int], ignore_id: int) -> np.ndarray:
    if shift == (0, 0):
        return ids
    moved = np.full(ids.shape, ignore_id, np.uint8)
    (y, x), (height, width) = shift, ids.shape
    moved[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = ids[
        max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)
    ]
    return moved
