"""What a sample of labels shows of how they code classes: which values they hold, and how these lie in the labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from trainer.formats import codings
from trainer.formats.images import Label
from trainer.formats.labels import Color, Palette

MAX_COLORS = 4096
"""Colours of which one label is counted: those of the most pixels."""
DEPTH = 4
"""Pixels from the rim of its area that a pixel of a class lies deep in it; of outlines there are none."""
OUTLINE = 0.02
"""Share of deep pixels below which a value is one of outlines, as VOC's void is."""


@dataclass(frozen=True)
class Use:
    """How a value is used.

    Attributes:
      pixels: that have it.
      solid: those whose eight neighbours have it too. Of colours that were mixed at a boundary there are none.
      deep: those that have it as far as DEPTH pixels around.
      labels: that hold it.
    """

    pixels: int = 0
    solid: int = 0
    deep: int = 0
    labels: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(
            self.pixels + other.pixels,
            self.solid + other.solid,
            self.deep + other.deep,
            self.labels + other.labels,
        )

    @property
    def is_outline(self) -> bool:
        return self.deep <= OUTLINE * self.pixels


@dataclass(frozen=True)
class Evidence:
    """What some labels hold.

    Attributes:
      labels: how many were looked at.
      ids: of labels of one channel without a colour map.
      colors: of labels of three channels.
      indices, mapped: of palette images, the indices and their colours (transparent ones left out).
      meanings: pairs of index and colour that palette images use.
    """

    labels: int = 0
    ids: dict[int, Use] = field(default_factory=dict)
    colors: dict[Color, Use] = field(default_factory=dict)
    indices: dict[int, Use] = field(default_factory=dict)
    mapped: dict[Color, Use] = field(default_factory=dict)
    meanings: frozenset[tuple[int, Color]] = frozenset()

    @property
    def is_shuffled(self) -> bool:
        """Whether an index has one colour in this label and another one in that: then the colours alone can hold."""
        return len({index for index, _ in self.meanings}) < len(self.meanings)


def gather(labels: Iterable[Label]) -> Evidence:
    """Counts the values of labels."""
    count, meanings = 0, set()
    uses: dict[str, dict] = {name: {} for name in ("ids", "colors", "indices", "mapped")}
    for label in labels:
        count += 1
        if label.codes.ndim == 3:
            _add(uses["colors"], _uses_of_colors(label.codes))
            continue
        counts = _uses(label.codes, label.used.tolist())
        if label.colormap is None:
            _add(uses["ids"], counts)
            continue
        _add(uses["indices"], counts)
        seen = {int(i): c for i, c in zip(label.used, codings.seen_colors(label), strict=True) if c}
        meanings.update(seen.items())
        for index, color in seen.items():
            _add(uses["mapped"], {color: counts[index]})
    return Evidence(count, meanings=frozenset(meanings), **uses)


def _add(total: dict, uses: dict) -> None:
    for value, use in uses.items():
        total[value] = total[value] + use if value in total else use


def _uses(codes: np.ndarray, values: Iterable[int]) -> dict[int, Use]:
    """Uses of the values that occur in uint8 [H, W]."""
    counts = [np.bincount(codes[within].ravel(), minlength=256) for within in _inside(codes[..., None])]
    pixels = np.bincount(codes.ravel(), minlength=256)
    return {value: Use(int(pixels[value]), *(int(count[value]) for count in counts), 1) for value in values}


def _uses_of_colors(rgb: np.ndarray) -> dict[Color, Use]:
    packed = rgb.astype(np.int32) @ np.int32([1 << 16, 1 << 8, 1])
    whole, *inside = (_counted(pixels) for pixels in (packed, *(packed[within] for within in _inside(rgb))))
    return {
        (value >> 16, value >> 8 & 255, value & 255): Use(pixels, *(count.get(value, 0) for count in inside), 1)
        for value, pixels in sorted(whole.items(), key=lambda item: -item[1])[:MAX_COLORS]
    }


def _counted(values: np.ndarray) -> dict[int, int]:
    distinct, counts = np.unique(values, return_counts=True)
    return dict(zip(distinct.tolist(), counts.tolist(), strict=True))


def _inside(codes: np.ndarray) -> list[np.ndarray]:
    """bool [H, W] twice: pixels like all around them, by 1 and by DEPTH; codes are uint8 [H, W, channels]."""
    masks = []
    for reach in (1, DEPTH):
        box = np.ones((2 * reach + 1,) * 2, np.uint8)
        same = np.zeros(codes.shape[:2], bool)
        # Nothing is inside that is near the border of the image, whatever lies beyond it.
        same[reach:-reach, reach:-reach] = True
        for channel in map(np.ascontiguousarray, np.moveaxis(codes, 2, 0)):
            same &= cv2.erode(channel, box) == cv2.dilate(channel, box)
        masks.append(same)
    return masks


def one_based(ids: dict[int, Use], palette: Palette) -> Palette | None:
    """The palette that reads ids which count the classes from 1; None where they need not do so.

    They do where the last class of `palette` would be out of range, and the first has not a pixel, or outlines alone,
    which are then what is ignored. What follows the last class is ignored if it is where `palette` ignores.
    """
    classes, last = palette.num_classes, max(ids)
    if palette.source_ids or classes < 2 or classes not in ids or ids[classes].is_outline:
        return None
    if last not in (classes, 255) and (last, palette.ignore_id) != (classes + 1, classes):
        return None
    if (0 in ids and not ids[0].is_outline) or len(ids.keys() & {*range(1, classes + 1)}) < max(2, 0.6 * classes):
        return None
    return from_one(palette, last)


def from_one(palette: Palette, last: int) -> Palette:
    """The palette that reads ids which count the classes from 1, as far as `last`; 0 is ignored."""
    classes = palette.num_classes
    sources = [(index + 1, index) for index in range(classes)] + [(0, 255)]
    sources += [(last, 255)] if last == classes + 1 < 255 else []
    aliases = tuple((color, target if target < classes else 255) for color, target in palette.aliases)
    return replace(palette, ignore_id=255, source_ids=tuple(sources), aliases=aliases)
