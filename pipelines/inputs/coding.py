"""How the labels of a raw set code their classes: by which palette they are to be read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipelines.inputs.rawset import RawSet
from trainer import storage
from trainer.formats import images
from trainer.formats.labels import JSON_FORM, Color, Palette, ranges
from trainer.formats.palettes import BUILT_IN, CAMVID, READ_BY_COLOR, READ_BY_COLORMAP, resolve
from trainer.options import InputError

PALETTE_FILE = "palette.json"
"""A palette file of this name in a raw set's folder is the set's palette."""
SAMPLED_LABELS = 32
SAMPLED_COLORS = 1000


def detect_palette(rawset: RawSet, palette: str = "auto") -> tuple[Palette, str]:
    """Finds the palette by which the labels of a raw set are coded.

    Args:
      rawset: from `rawset.scan`.
      palette: "auto", the name of a built-in palette, or a palette file. With "auto", PALETTE_FILE in the set's
        folder decides, then the layout, then what a sample of labels holds.

    Returns:
      The palette, and a sentence with the reason.

    Raises:
      InputError: an unknown palette, or labels from which "auto" cannot tell it.
    """
    if palette != "auto":
        return resolve(palette), f"palette {palette}, as given by --palette"
    path = storage.join(rawset.root, PALETTE_FILE)
    if storage.exists(path):
        own = resolve(path)
        return own, f"palette {own.name} of {own.num_classes} classes, from {path}"
    if rawset.palette_hint:
        return rawset.palette_hint, f"palette {rawset.palette_hint.name}, as is usual for {rawset.layout} sets"
    sample = _sample([pair.label for pair in rawset.pairs])
    built_in = _palette_of(sample, rawset.layout)
    if built_in is None:
        raise InputError(
            f"{rawset.root}: cannot tell the palette; {sample.describe()}. Give --palette {', '.join(BUILT_IN)}, "
            f"or a JSON file (also found as {PALETTE_FILE} in that folder) like {JSON_FORM}"
        )
    return built_in, f"palette {built_in.name}: {sample.describe()}"


@dataclass(frozen=True)
class Sample:
    """What some labels of a set hold.

    Attributes:
      labels: how many could be read.
      ids: ids or palette indices of single-channel labels.
      colors: RGB colours of three-channel labels, SAMPLED_COLORS of a label at most.
      embedded: the colour maps that palette PNGs carry.
    """

    labels: int
    ids: frozenset[int]
    colors: frozenset[Color]
    embedded: frozenset[tuple[Color, ...]]

    def describe(self) -> str:
        if not self.labels:
            return "not one of the sampled labels could be read"
        ids = [f"ids {ranges(sorted(self.ids))}"] if self.ids else []
        colors = [str(color) for color in sorted(self.colors)[:6]]
        more = ", ..." if len(self.colors) > 6 else ""
        colors = [f"{len(self.colors)} colours {', '.join(colors)}{more}"] if colors else []
        subject = "1 sampled label holds" if self.labels == 1 else f"{self.labels} sampled labels hold"
        return f"{subject} {' and '.join(ids + colors)}"


def _sample(paths: Sequence[str]) -> Sample:
    """Looks into SAMPLED_LABELS labels, evenly spaced; those that cannot be read are left out."""
    count = min(SAMPLED_LABELS, len(paths))
    labels, ids, colors, embedded = 0, set(), set(), set()
    for path in (paths[index * len(paths) // count] for index in range(count)):
        try:
            data = storage.read(path)
            label = images.decode_label(data)
        except (images.ImageError, OSError):
            continue
        labels += 1
        if label.ndim == 2:
            ids.update(np.flatnonzero(np.bincount(label.ravel(), minlength=256)).tolist())
            embedded |= _embedded(data)
        elif len(colors) < SAMPLED_COLORS:
            packed = np.unique(label.astype(np.int32) @ np.int32([1 << 16, 1 << 8, 1]))[:SAMPLED_COLORS].tolist()
            colors.update((code >> 16, code >> 8 & 255, code & 255) for code in packed)
    return Sample(labels, frozenset(ids), frozenset(colors), frozenset(embedded))


def _embedded(data: bytes) -> set[tuple[Color, ...]]:
    """The colour map of a palette PNG; none for other images."""
    with Image.open(io.BytesIO(data), formats=images.FORMATS) as label:
        flat = label.getpalette("RGB") if label.mode == "P" else None
    return {tuple(zip(flat[0::3], flat[1::3], flat[2::3], strict=True))} if flat else set()


def _palette_of(sample: Sample, layout: str) -> Palette | None:
    """The one built-in palette that a sample can be coded by; None where none fits, or more than one."""
    if sample.ids and sample.colors:
        return None
    if sample.colors:
        fits = [palette for palette in READ_BY_COLOR if sample.colors <= palette.known_colors()]
        return fits[0] if len(fits) == 1 else None
    if sample.embedded:
        for palette in READ_BY_COLORMAP:
            known = {*range(palette.num_classes), palette.ignore_id}
            maps = {colors[: palette.num_classes] for colors in sample.embedded}
            if maps == {palette.colors} and sample.ids <= known:
                return palette
    # Ids alone say little; CamVid's folders, its range and most of its classes together say enough.
    if layout == "camvid" and len(sample.ids) >= 6 and max(sample.ids) <= CAMVID.ignore_id:
        return CAMVID
    return None
