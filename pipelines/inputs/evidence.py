"""Evidence from a sample of labels on how they encode classes: the values they hold, and the shapes these form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from trainer.formats import codings
from trainer.formats.label_images import Label
from trainer.formats.labels import Color, Palette, pack, unpack
from trainer.formats.runs import pixels_of_ids

MAX_COLORS = 4096
"""Colours that are counted per label: the most frequent ones."""
DEPTH = 4
"""Distance from the edge of its area, in pixels, at which a pixel counts as deep; outlines have no deep pixels."""
OUTLINE = 0.02
"""Share of deep pixels up to which a value counts as an outline, like VOC's void."""


@dataclass(frozen=True)
class Use:
    """How a value occurs in labels.

    Attributes:
      pixels: number of pixels with this value.
      solid: pixels whose eight neighbours have it too; none for colours that are mixed at a boundary.
      deep: pixels within DEPTH of which all others have it too.
      labels: number of labels that contain it.
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
    """The values in some labels.

    Attributes:
      labels: number of labels.
      ids: values in single-channel labels without a colour map.
      colors: values in three-channel labels.
      indices, mapped: the indices in palette images, and their colours (without transparent ones).
      meanings: pairs (index, colour) that palette images use.
    """

    labels: int = 0
    ids: dict[int, Use] = field(default_factory=dict)
    colors: dict[Color, Use] = field(default_factory=dict)
    indices: dict[int, Use] = field(default_factory=dict)
    mapped: dict[Color, Use] = field(default_factory=dict)
    meanings: frozenset[tuple[int, Color]] = frozenset()

    @property
    def is_shuffled(self) -> bool:
        """Whether an index has different colours in different labels; then only the colours can be meaningful."""
        return len({index for index, _ in self.meanings}) < len(self.meanings)


def gather(labels: Iterable[Label]) -> Evidence:
    """Counts the values of labels."""
    count, meanings = 0, set()
    uses: dict[str, dict] = {name: {} for name in ("ids", "colors", "indices", "mapped")}
    for label in labels:
        count += 1
        if label.codes.ndim == 3:
            _add(uses["colors"], uses_of_colors(label.codes))
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


def by_numbers(evidence: Evidence) -> Evidence:
    """The evidence with the indices of palette images as ids, and without their colours."""
    ids = dict(evidence.ids)
    _add(ids, evidence.indices)
    return replace(evidence, ids=ids, indices={}, mapped={}, meanings=frozenset())


def by_greys(evidence: Evidence) -> Evidence:
    """The evidence with the colours of three-channel labels, all of which must be greys, as ids."""
    ids = dict(evidence.ids)
    _add(ids, {color[0]: use for color, use in evidence.colors.items()})
    return replace(evidence, ids=ids, colors={})


def _add(total: dict, uses: dict) -> None:
    for value, use in uses.items():
        total[value] = total[value] + use if value in total else use


def _uses(codes: np.ndarray, values: Iterable[int]) -> dict[int, Use]:
    """Value -> its use, for these values of a label, uint8 [H, W]."""
    counts = [np.bincount(codes[within].ravel(), minlength=256) for within in _inside(codes[..., None])]
    pixels = pixels_of_ids(codes)
    return {value: Use(int(pixels[value]), *(int(count[value]) for count in counts), 1) for value in values}


def uses_of_colors(rgb: np.ndarray) -> dict[Color, Use]:
    """Colour -> its use in a label, uint8 [H, W, 3]; the MAX_COLORS most frequent ones."""
    packed = pack(rgb)
    whole, *inside = (_counted(pixels) for pixels in (packed, *(packed[within] for within in _inside(rgb))))
    return {
        unpack(value): Use(pixels, *(count.get(value, 0) for count in inside), 1)
        for value, pixels in sorted(whole.items(), key=lambda item: -item[1])[:MAX_COLORS]
    }


def _counted(values: np.ndarray) -> dict[int, int]:
    distinct, counts = np.unique(values, return_counts=True)
    return dict(zip(distinct.tolist(), counts.tolist(), strict=True))


def _inside(codes: np.ndarray) -> list[np.ndarray]:
    """Two masks, bool [H, W]: pixels equal to all pixels within 1, and within DEPTH.

    Args:
      codes: uint8 [H, W, channels].
    """
    masks = []
    for reach in (1, DEPTH):
        box = np.ones((2 * reach + 1,) * 2, np.uint8)
        same = np.zeros(codes.shape[:2], bool)
        # Pixels near the border of the image never count, since what lies beyond it is unknown.
        same[reach:-reach, reach:-reach] = True
        for channel in map(np.ascontiguousarray, np.moveaxis(codes, 2, 0)):
            same &= cv2.erode(channel, box) == cv2.dilate(channel, box)
        masks.append(same)
    return masks


def one_based(ids: dict[int, Use], palette: Palette) -> Palette | None:
    """The palette for ids that count the classes from 1; None if the ids may count from 0.

    They count from 1 if the last class would be out of range for `palette`, and id 0 has no pixels, or only outlines,
    which are then ignored. The id behind the last class is ignored too, if it is the next one after `palette`'s own.
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
    """The palette for ids that count the classes from 1 and go up to `last`; 0 is ignored."""
    classes = palette.num_classes
    sources = [(index + 1, index) for index in range(classes)] + [(0, 255)]
    sources += [(last, 255)] if last == classes + 1 < 255 else []
    aliases = tuple((color, target if target < classes else 255) for color, target in palette.aliases)
    return replace(palette, ignore_id=255, source_ids=tuple(sources), aliases=aliases)
