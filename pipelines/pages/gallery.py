"""The gallery of a page: which images, and their thumbnails with label, predictions and errors painted in."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.pages.page import as_percent, data_uri
from trainer import storage
from trainer.formats import images
from trainer.formats.labels import Palette

THUMBNAIL_SIDE = 480  # pixels of the longer side
GALLERY_BYTES = 3_400_000  # all thumbnails together; base64 makes a third more of it
IMAGE_SUFFIXES = tuple(cased for suffix in images.SUFFIXES for cased in (suffix, suffix.upper()))
"""Suffixes an image may have, in the order they are looked for."""
WRONG = (226, 40, 60)
_JPEG_QUALITIES = (88, 80, 70, 55, 40, 25)


class NotShown(ValueError):
    """An image that the gallery must do without. The message says why."""


@dataclass(frozen=True)
class Panel:
    """One thumbnail of a gallery entry.

    Attributes:
      caption, alt: what stands below it, and in place of it.
      uri: a data: address.
      width, height: pixels.
    """

    caption: str
    alt: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Result:
    """What one masks folder has for an image: name, mIoU (None: nothing to score), prediction and error map."""

    name: str
    miou: float | None
    prediction: Panel
    errors: Panel


@dataclass(frozen=True)
class Entry:
    """One image of the gallery: its key, how it was chosen, itself (where it is known) and its label, the results."""

    key: str
    rank: str
    truth: tuple[Panel, ...]
    results: tuple[Result, ...]


def best_median_worst(mious: np.ndarray, count: int) -> list[tuple[int, str]]:
    """Picks the best, the median and the worst images, about a third each.

    Args:
      mious: float [n], one score per image; NaN where an image has none.
      count: the most entries to pick.

    Returns:
      (index, "best" | "median" | "worst"), best first; equal scores keep their order.
    """
    order = np.argsort(-mious, kind="stable")
    order = order[~np.isnan(mious[order])]
    count = min(count, len(order))
    best, worst, median = (count + 2) // 3, (count + 1) // 3, count // 3
    middle = min(max(best, (len(order) - median + 1) // 2), len(order) - worst - median)
    ranks = [
        ("best", order[:best]),
        ("median", order[middle : middle + median]),
        ("worst", order[len(order) - worst :]),
    ]
    return [(int(index), rank) for rank, indices in ranks for index in indices]


def find_image(folder: str, key: str, shape: tuple[int, int]) -> np.ndarray:
    """The image of that key in a folder, uint8 [H, W, 3] RGB.

    Args:
      folder: local or gs://.
      key: path below it without suffix.
      shape: (height, width) that it must have: those of its label.

    Raises:
      NotShown: not found, damaged, or of another size.
    """
    for suffix in IMAGE_SUFFIXES:
        path = storage.join(folder, key + suffix)
        if not storage.exists(path):
            continue
        try:
            image = images.decode_image(storage.read(path))
        except images.ImageError as error:
            raise NotShown(f"{path}: {error}") from None
        if image.shape[:2] != shape:
            raise NotShown(
                f"{path} is {image.shape[1]}x{image.shape[0]} pixels, its label {shape[1]}x{shape[0]}; "
                "the label is shown alone"
            )
        return image
    raise NotShown(f"image of {key} not found in {folder}")


def entry(
    key: str,
    rank: str,
    mious: dict[str, float | None],
    image: np.ndarray | None,
    label: np.ndarray,
    predictions: dict[str, np.ndarray],
    palette: Palette,
    entries: int,
) -> Entry:
    """Draws one gallery entry.

    Args:
      key: the image's name.
      rank: "best", "median" or "worst".
      mious: mIoU of this image per masks folder.
      image: uint8 [H, W, 3] RGB, or None where it is not known.
      label: uint8 [H, W] class ids and the palette's ignore id.
      predictions: per masks folder uint8 [H, W] class ids.
      palette: the class set.
      entries: the number of entries in the gallery; they share GALLERY_BYTES.
    """
    budget = GALLERY_BYTES // max(1, entries * (2 + 2 * len(predictions)))

    def paint(ids: np.ndarray) -> np.ndarray:
        return palette.colorize(ids) if image is None else palette.overlay(image, ids, 0.55)

    truth = [panel("image", f"image {key}", image, budget)] if image is not None else []
    truth.append(panel("label", f"label of {key}", paint(label), budget))
    results = []
    for name, ids in predictions.items():
        wrong = _wrong(label, ids, palette.ignore_id).sum() / max(1, (label != palette.ignore_id).sum())
        share, errors = as_percent(wrong), error_map(image, label, ids, palette.ignore_id)
        results.append(
            Result(
                name,
                mious[name],
                panel(name, f"prediction of {name} for {key}", paint(ids), budget),
                panel(f"errors {share}", f"wrong pixels of {name} in {key}, {share}", errors, budget),
            )
        )
    return Entry(key, rank, tuple(truth), tuple(results))


def error_map(image: np.ndarray | None, label: np.ndarray, ids: np.ndarray, ignore_id: int) -> np.ndarray:
    """Paints wrong pixels red over the image in pale grey (or plain grey); ignored pixels are dark.

    Args:
      image: uint8 [H, W, 3] RGB or None.
      label, ids: uint8 [H, W] class ids, true and predicted.
      ignore_id: label id that counts for nothing.

    Returns:
      uint8 [H, W, 3] RGB.
    """
    if image is None:
        grey = np.full(label.shape, 214, np.uint8)
    else:
        grey = cv2.addWeighted(
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 0.45, np.full(label.shape, 255, np.uint8), 0.5, 0
        )
    grey = np.where(label == ignore_id, grey // 3, grey)
    painted = np.repeat(grey[..., None], 3, axis=2)
    painted[_wrong(label, ids, ignore_id)] = WRONG
    return painted


def _wrong(label: np.ndarray, ids: np.ndarray, ignore_id: int) -> np.ndarray:
    return (label != ids) & (label != ignore_id)


def panel(caption: str, alt: str, image: np.ndarray, budget: int) -> Panel:
    """A thumbnail of uint8 [H, W, 3] RGB in at most `budget` bytes, as far as can be."""
    scale = min(1.0, THUMBNAIL_SIDE / max(image.shape[:2]))
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    while True:
        for quality in _JPEG_QUALITIES:
            data = images.encode_jpeg(image, quality)
            if len(data) <= budget or min(image.shape[:2]) < 32:
                return Panel(caption, alt, data_uri(data, "jpeg"), image.shape[1], image.shape[0])
        image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
