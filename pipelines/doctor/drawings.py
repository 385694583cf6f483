"""Images for the page that illustrate every finding, drawn from the files themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from pipelines.doctor.findings import MENDABLE
from pipelines.doctor.mend import mended
from pipelines.doctor.plan import Subject
from pipelines.doctor.reading import Reading
from pipelines.doctor.verdict import Example, Finding
from pipelines.pages.gallery import GALLERY_BYTES, Panel, panel
from pipelines.scores.trimap import boundaries
from trainer import storage
from trainer.formats import codings, images, label_images
from trainer.formats.images import ImageError
from trainer.formats.labels import LabelError, Palette
from trainer.formats.palettes import voc_colormap

MARK, MOVED = (255, 0, 80), (0, 220, 90)
SMALLEST = 160
"""Longer side, in pixels, to which smaller images are enlarged to make their pixels visible."""
PANELS = 4


def draw(
    finding: Finding,
    example: Example,
    subjects: Sequence[Subject],
    reading: Reading,
    shift: tuple[int, int],
    total: int,
) -> tuple[Panel, ...]:
    """Draws the panels for one example of a finding.

    Args:
      subjects: the subjects of the plan.
      reading: how labels are read with the cure.
      shift: how far all labels are moved down and right, in pixels.
      total: number of examples on the page; they share its budget of bytes.
    """
    budget = GALLERY_BYTES // max(1, PANELS * total)
    drawn = []
    for caption, make in _drawings(finding, example, subjects, reading, shift):
        try:
            drawing = make()
        except (OSError, ImageError, LabelError):
            continue
        if drawing is not None:
            drawn.append(panel(caption, f"{caption}: {example.path}", _enlarged(drawing), budget))
    return tuple(drawn)


def _drawings(
    finding: Finding, example: Example, subjects: Sequence[Subject], reading: Reading, shift: tuple[int, int]
) -> Iterator[tuple[str, Callable[[], np.ndarray | None]]]:
    if example.number < 0:
        yield "file", lambda: _as_image(example.path)
        return
    subject = subjects[example.number]
    if example.other >= 0:
        other = subjects[example.other]
        yield f"{subject.split}: {subject.key}", lambda: _as_image(subject.image)
        yield f"{other.split}: {other.key}", lambda: _as_image(other.image)
        if finding.kind == "contradictions":
            yield "label of the first", lambda: _as_coded(subject.label)
            yield "label of the other", lambda: _as_coded(other.label)
        return
    yield "image", lambda: _as_image(subject.image)
    if finding.kind == "misaligned":
        yield "boundaries as they lie", lambda: _outlined(subject, reading, (0, 0), MARK)
        yield "boundaries, moved", lambda: _outlined(subject, reading, shift, MOVED)
        return
    yield "label as it is stored", lambda: _as_coded(subject.label)
    if reading.palette is None:
        return
    if finding.kind == "two-readings":
        for coding in ("ids", "colors"):
            yield f"read by its {coding}", lambda coding=coding: _read(subject, reading.palette, coding)
    elif finding.kind in MENDABLE:
        yield "as prepare would read it", lambda: _read(subject, reading.palette, reading.coding)
        yield "mended", lambda: _mended(subject, finding.kind, reading)
    else:
        yield "as it is read with the cure", lambda: _read(subject, reading.palette, reading.coding)


def _as_image(path: str) -> np.ndarray:
    return images.decode_image(storage.read(path))


def _as_coded(path: str) -> np.ndarray:
    """A label file as a viewer would show it; ids, which would be nearly black, are coloured."""
    data = storage.read(path)
    try:
        label = label_images.read_label(data)
    except ImageError:
        return images.decode_image(data)
    if label.codes.ndim == 3:
        return label.codes
    colormap = np.uint8(voc_colormap())
    if label.colormap is not None:
        colormap = colormap.copy()
        colormap[: len(label.colormap)] = label.colormap
    return np.take(colormap, label.codes, axis=0)


def _mended(subject: Subject, kind: str, reading: Reading) -> np.ndarray | None:
    ids = mended(kind, *map(storage.read, (subject.label, subject.image)), reading.palette, reading.coding)
    return None if ids is None else reading.palette.overlay(_as_image(subject.image), ids, 0.6)


def _read(subject: Subject, palette: Palette, coding: str) -> np.ndarray:
    ids = codings.decode_ids(storage.read(subject.label), palette, coding=coding)
    try:
        image = _as_image(subject.image)
    except (OSError, ImageError):
        image = None
    if image is None or image.shape[:2] != ids.shape:
        return palette.colorize(ids)
    return palette.overlay(image, ids, 0.6)


def _outlined(subject: Subject, reading: Reading, shift: tuple[int, int], color: tuple[int, int, int]) -> np.ndarray:
    image = _as_image(subject.image)
    ids = codings.decode_ids(storage.read(subject.label), reading.palette, coding=reading.coding)
    lines = np.roll(boundaries(ids), shift, (0, 1))
    return np.where(lines[..., None], np.uint8(color), image)


def _enlarged(drawing: np.ndarray) -> np.ndarray:
    factor = SMALLEST // max(drawing.shape[:2])
    if factor < 2:
        return drawing
    return cv2.resize(drawing, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
