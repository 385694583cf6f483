"""The gallery of the report: which pictures, and their thumbnails with label, predictions and errors painted in."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np

from trainer import storage
from trainer.formats import images
from trainer.formats.labels import Palette

THUMBNAIL_SIDE = 480  # pixels of the longer side
GALLERY_BYTES = 3_400_000  # all thumbnails together; base64 makes a third more of it
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".webp", ".bmp", ".tif", ".tiff")
WRONG = (226, 40, 60)
_JPEG_QUALITIES = (88, 80, 70, 55, 40, 25)


@dataclass(frozen=True)
class Panel:
    """One picture of a gallery entry: `uri` is a data: address."""

    caption: str
    alt: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Result:
    """What one masks folder has for a picture: name, mIoU (None: nothing to score), prediction and error map."""

    name: str
    miou: float | None
    prediction: Panel
    errors: Panel


@dataclass(frozen=True)
class Entry:
    """One picture of the gallery: its name, how it was chosen, photograph (where there is one) and label, results."""

    key: str
    rank: str
    truth: tuple[Panel, ...]
    results: tuple[Result, ...]


def choose(mious: np.ndarray, count: int) -> list[tuple[int, str]]:
    """Picks the best, the median and the worst pictures, about a third each.

    Args:
      mious: float [pictures], one score per picture; NaN where a picture has none.
      count: how many to pick at most.

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


def find_photo(folder: str, key: str, shape: tuple[int, int]) -> np.ndarray | None:
    """The photograph of that key and size (height, width), uint8 [H, W, 3]; says so and returns None without one."""
    for suffix in PHOTO_SUFFIXES:
        path = storage.join(folder, key + suffix)
        if storage.exists(path):
            try:
                photo = images.decode_image(storage.read(path))
            except images.ImageError as error:
                print(f"gallery: {path}: {error}")
                return None
            if photo.shape[:2] == shape:
                return photo
            print(f"gallery: {path} has another size than its label, which is shown alone")
            return None
    print(f"gallery: no photograph of {key} in {folder}")
    return None


def entry(
    key: str,
    rank: str,
    mious: dict[str, float | None],
    photo: np.ndarray | None,
    label: np.ndarray,
    predictions: dict[str, np.ndarray],
    palette: Palette,
    entries: int,
) -> Entry:
    """Draws one gallery entry.

    Args:
      key: the picture's name.
      rank: "best", "median" or "worst".
      mious: mIoU of this picture per masks folder.
      photo: uint8 [H, W, 3] RGB, or None where there is no photograph.
      label: uint8 [H, W] class ids and the palette's ignore id.
      predictions: per masks folder uint8 [H, W] class ids.
      palette: the class set.
      entries: how many entries the gallery has; they share GALLERY_BYTES.
    """
    budget = GALLERY_BYTES // max(1, entries * (2 + 2 * len(predictions)))

    def paint(ids: np.ndarray) -> np.ndarray:
        return palette.colorize(ids) if photo is None else palette.overlay(photo, ids, 0.55)

    truth = [_panel("picture", f"photograph {key}", photo, budget)] if photo is not None else []
    truth.append(_panel("label", f"label of {key}", paint(label), budget))
    results = []
    for name, ids in predictions.items():
        wrong = _wrong(label, ids, palette.ignore_id).sum() / max(1, (label != palette.ignore_id).sum())
        share, errors = f"{100 * wrong:.1f} %", error_map(photo, label, ids, palette.ignore_id)
        results.append(
            Result(
                name,
                mious[name],
                _panel(name, f"prediction of {name} for {key}", paint(ids), budget),
                _panel(f"errors {share}", f"wrong pixels of {name} in {key}, {share}", errors, budget),
            )
        )
    return Entry(key, rank, tuple(truth), tuple(results))


def error_map(photo: np.ndarray | None, label: np.ndarray, ids: np.ndarray, ignore_id: int) -> np.ndarray:
    """Paints wrong pixels red over a pale grey photograph (or plain grey); ignored pixels are dark.

    Args:
      photo: uint8 [H, W, 3] RGB or None.
      label, ids: uint8 [H, W] class ids, true and predicted.
      ignore_id: label id that counts for nothing.

    Returns:
      uint8 [H, W, 3] RGB.
    """
    if photo is None:
        grey = np.full(label.shape, 214, np.uint8)
    else:
        grey = cv2.addWeighted(
            cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), 0.45, np.full(label.shape, 255, np.uint8), 0.5, 0
        )
    grey = np.where(label == ignore_id, grey // 3, grey)
    painted = np.repeat(grey[..., None], 3, axis=2)
    painted[_wrong(label, ids, ignore_id)] = WRONG
    return painted


def _wrong(label: np.ndarray, ids: np.ndarray, ignore_id: int) -> np.ndarray:
    return (label != ids) & (label != ignore_id)


def _panel(caption: str, alt: str, picture: np.ndarray, budget: int) -> Panel:
    scale = min(1.0, THUMBNAIL_SIDE / max(picture.shape[:2]))
    if scale < 1:
        size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    while True:
        for quality in _JPEG_QUALITIES:
            data = images.encode_jpeg(picture, quality)
            if len(data) <= budget or min(picture.shape[:2]) < 32:
                return Panel(caption, alt, data_uri(data, "jpeg"), picture.shape[1], picture.shape[0])
        picture = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
