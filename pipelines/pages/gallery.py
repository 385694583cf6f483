"""The gallery of a page: chooses images, and draws thumbnails of their labels, predictions and errors."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.pages.page import as_percent, data_uri
from trainer import storage
from trainer.formats import images
from trainer.formats.labels import Palette

THUMBNAIL_SIDE = 480  # pixels of the longer side
GALLERY_BYTES = 3_400_000  # of all thumbnails together, before base64, which adds a third
IMAGE_SUFFIXES = tuple(cased for suffix in images.SUFFIXES for cased in (suffix, suffix.upper()))
"""Suffixes that an image may have, in the order in which they are tried."""
WRONG = (226, 40, 60)
_JPEG_QUALITIES = (88, 80, 70, 55, 40, 25)


class NotShown(ValueError):
    """An image cannot be shown in the gallery. The message gives the reason."""


@dataclass(frozen=True)
class Panel:
    """One thumbnail of a gallery entry.

    Attributes:
      caption, alt: the text below it, and the text shown in its place if it cannot be displayed.
      uri: its data, as a data: URI.
      width, height: its size, in pixels.
    """

    caption: str
    alt: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Result:
    """The result of one masks folder for an image: name, mIoU (None if no pixel counts), prediction and error map."""

    name: str
    miou: float | None
    prediction: Panel
    errors: Panel


@dataclass(frozen=True)
class Entry:
    """One image of the gallery: key, reason for its choice, panels of the image (if known) and its label, results."""

    key: str
    rank: str
    truth: tuple[Panel, ...]
    results: tuple[Result, ...]


def best_median_worst(mious: np.ndarray, count: int) -> list[tuple[int, str]]:
    """Picks the best, the median and the worst images, about a third each.

    Args:
      mious: float [n], one score per image; NaN for an image without a score.
      count: maximum number of images to pick.

    Returns:
      Pairs (index, "best" | "median" | "worst"), best first; images with equal scores keep their order.
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
      key: path of the image below the folder, without suffix.
      shape: (height, width) of its label, which the image must have too.

    Raises:
      NotShown: the image is missing, damaged, or of another size.
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
      image: uint8 [H, W, 3] RGB, or None if it is not known.
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
    """Paints wrong pixels red over the image in pale grey (plain grey without an image); ignored pixels are dark.

    Args:
      image: uint8 [H, W, 3] RGB or None.
      label, ids: uint8 [H, W] class ids, true and predicted.
      ignore_id: label id of pixels that do not count.

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
    """A thumbnail of uint8 [H, W, 3] RGB in at most `budget` bytes, or less than 32 pixels wide or high."""
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
