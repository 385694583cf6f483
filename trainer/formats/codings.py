"""Translation of label files to class ids, by their numbers or by their colours.

All commands read labels here, so that they cannot differ. `coding` says which of the two is meant:

- "ids": the numbers, that is, grey values, indices of a palette image, or the value of three equal channels.
- "colors": the colours, also of a palette image; of a grey label the greys, if the palette knows all of them as
  colours, else the numbers.
- "auto": if the label is a palette image, its colours if the palette knows all that are used, else its indices; if the
  palette knows both and they differ, the label is refused; if it knows neither, but all colours are greys whose values
  are ids, these values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trainer.formats.label_images import Label, read_label, transparency
from trainer.formats.labels import Color, LabelError, Palette, color_meanings, id_table, unknown_mark
from trainer.formats.palettes import voc_colormap
from trainer.formats.runs import looked_up

CURE = "state which one is right with --label-coding ids or --label-coding colors"
_GREY_CURE = (
    "if its indices are right, give --label-coding ids; if its colours are, add these to a palette file (under "
    "aliases) and give --label-coding colors"
)


def decode_ids(data: bytes, palette: Palette, coding: str = "auto") -> np.ndarray:
    """Reads a label file of a raw set.

    Args:
      data: an encoded label.
      palette: the palette of the set.
      coding: one of `trainer.formats.options.CODINGS`.

    Returns:
      uint8 [H, W]: class ids and `ignore_id`, upright.

    Raises:
      ImageError: the data cannot be decoded, see `label_images.read_label`.
      LabelError: the label has values that the palette does not know, or can be read in two ways.
    """
    return to_ids(read_label(data), palette, coding)


def decode_mask(data: bytes, palette: Palette, coding: str) -> np.ndarray:
    """`decode_ids` for a mask, whose numbers are class ids, not the raw set's own (the palette's `source_ids`)."""
    label = read_label(data)
    if label.codes.ndim == 2 and label.colormap is None:
        ignored = palette.ignore_id
        if ignored in label.used and dict(palette.source_ids).get(ignored, ignored) != ignored:
            # The raw set has `ignore_id` as the number of a class, and the mask may too: its numbers are source ids.
            return palette.to_ids(label.codes)
        return palette.check_ids(label.codes)
    return to_ids(label, replace(palette, source_ids=()), coding)


def to_ids(label: Label, palette: Palette, coding: str) -> np.ndarray:
    """`decode_ids` for a decoded label."""
    return counted_ids(label, palette, coding)[0]


def counted_ids(label: Label, palette: Palette, coding: str) -> tuple[np.ndarray, np.ndarray]:
    """`to_ids`, and the number of pixels of every id, int64 [256]."""
    if label.colormap is not None:
        return _indexed_ids(label, palette, coding)
    codes = label.codes
    if codes.ndim == 3 and coding == "ids":
        if (codes != codes[..., :1]).any():
            raise LabelError("is coloured: its three channels differ; expected class ids, as --label-coding states")
        codes = codes[..., 0]
    if codes.ndim == 2 and coding == "colors":
        by_colors = _color_ids(greys(label.used.tolist()), palette)
        if by_colors is not None:
            table = np.zeros(256, np.uint8)
            table[label.used] = by_colors
            return looked_up(table, codes)
    try:
        counted = palette.counted_ids(codes)
    except LabelError as error:
        if codes.ndim == 3 and _is_grey_ids(codes, palette):
            raise LabelError(f"{error}; if its greys are class ids, give --label-coding ids") from None
        raise
    if codes.ndim == 2 and coding == "auto" and palette.num_classes <= 2 and is_mask(label.used, palette):
        raise LabelError(f"contains only 0 and 255; {mask_cure(palette)}")
    return counted


def _indexed_ids(label: Label, palette: Palette, coding: str) -> tuple[np.ndarray, np.ndarray]:
    by_ids, by_colors = readings(label, palette)
    if coding == "auto":
        if differs := two_readings(label, palette):
            raise LabelError(differs)
        if by_ids is None and by_colors is None:
            by_colors = _grey_ids(seen_colors(label), palette)
        coding = "ids" if by_colors is None else "colors"
    if coding == "ids":
        return palette.counted_ids(label.codes)
    if by_colors is None:  # raises, with the pixels or colours at fault
        if hidden := int(np.isin(label.codes, np.flatnonzero(~label.opaque)).sum()):
            raise LabelError(f"{transparency(hidden)}, or give --label-coding ids if its indices are class ids")
        return palette.counted_ids(label.rgb)
    table = np.zeros(256, np.uint8)
    table[label.used] = by_colors
    return looked_up(table, label.codes)


def readings(label: Label, palette: Palette) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The class ids of the indices that a label with a colour map uses, by number and by colour.

    Returns:
      (by number, by colour), each uint8 [number of indices used], in the order of `label.used`; None if the palette
      does not know all of them.
    """
    return _known(id_table(palette)[label.used], palette), _color_ids(seen_colors(label), palette)


def two_readings(label: Label, palette: Palette) -> str | None:
    """The conflict, in words, between the indices and the colours of a label with a colour map; None if there is none.

    Transparent colours do not count. If the palette does not know the colours, they may be greys whose values are ids,
    as in a grey label that a PNG optimiser has given a colour map or fewer bits.
    """
    by_id, _ = readings(label, palette)
    colors = seen_colors(label)
    places = np.array([place for place, color in enumerate(colors) if color], int)
    seen = [color for color in colors if color]
    by_color, cure = _color_ids(seen, palette), CURE
    if by_color is None:
        by_color, cure = _grey_ids(seen, palette), _GREY_CURE
    # If most colours are the palette's, a single unknown one does not mean that the indices are right. VOC's map
    # proves nothing, since many tools write it whatever the classes are.
    if by_color is None and tuple(map(tuple, label.colormap.tolist())) != voc_colormap(len(label.colormap)):
        known = [color in color_meanings(palette) for color in seen]
        if 2 * sum(known) > len(known):
            places, seen = places[known], [color for color in seen if color in color_meanings(palette)]
            by_color, cure = _color_ids(seen, palette), CURE
    if by_id is None or by_color is None or (by_id[places] == by_color).all():
        return None
    first = int(np.flatnonzero(by_id[places] != by_color)[0])
    place = places[first]
    return (
        f"can be read in two ways: index {label.used[place]} of its colour map is {_name(by_id[place], palette)}, its "
        f"colour {colors[place]} is {_name(by_color[first], palette)}; {cure}"
    )


def seen_colors(label: Label) -> list[Color | None]:
    """The colours of the indices that a label with a colour map uses, in order; None if transparent or undefined."""
    return [
        tuple(map(int, label.colormap[index])) if index < len(label.colormap) and label.opaque[index] else None
        for index in label.used
    ]


def greys(values: Sequence[int]) -> list[Color]:
    """The values of a grey label as colours."""
    return [(value, value, value) for value in values]


def are_greys(values: Sequence[int], palette: Palette) -> bool:
    """Whether the values of grey labels are not all ids of the palette, but colours of two of its classes or more."""
    table, meanings = id_table(palette), color_meanings(palette)
    known = [meanings.get(grey) for grey in greys(values)]
    if None in known or unknown_mark(palette) not in table[list(values)]:
        return False
    return len({*known} - {palette.ignore_id}) > 1


def is_mask(ids: np.ndarray, palette: Palette) -> bool:
    """Whether these ids, in ascending order, are those of a mask of 0 and 255 whose foreground would be ignored."""
    sources = dict(palette.sources)
    return palette.ignore_id == 255 and sources.get(0) == 0 and 255 not in sources and list(ids) == [0, 255]


def mask_cure(palette: Palette) -> str:
    """The cure, in words, for labels that contain only 0 and 255."""
    return (
        f"palette {palette.name} ignores 255, so only class 0 ({palette.names[0]}) would be left. If 255 is the "
        'foreground, give --palette a JSON file of two classes with "source_ids": {"0": 0, "255": 1}; if 255 is to be '
        "ignored, give --label-coding ids"
    )


def _color_ids(colors: Sequence[Color | None], palette: Palette) -> np.ndarray | None:
    meanings = color_meanings(palette)
    return _known([meanings.get(color, unknown_mark(palette)) for color in colors], palette)


def _grey_ids(colors: Sequence[Color | None], palette: Palette) -> np.ndarray | None:
    """The class ids that are the values of greys; None if a colour is not grey, or a value not an id.

    Black and white are the ids 0 and 1, unless the palette has more than two classes or `source_ids`.
    """
    if not all(color and len(set(color)) == 1 for color in colors):
        return None
    greys = [color[0] for color in colors]
    if palette.num_classes <= 2 and not palette.source_ids and {*greys} <= {0, 255}:
        ids = np.uint8([grey // 255 for grey in greys])
        return ids if ids.max(initial=0) < palette.num_classes else None
    return _known(id_table(palette)[greys], palette)


def _is_grey_ids(rgb: np.ndarray, palette: Palette) -> bool:
    """Whether the three channels of a label, uint8 [H, W, 3], are equal, and are ids that the palette knows."""
    return bool((rgb == rgb[..., :1]).all()) and _known(id_table(palette)[rgb[..., 0]], palette) is not None


def _known(ids: np.ndarray | list[int], palette: Palette) -> np.ndarray | None:
    return None if unknown_mark(palette) in ids else np.uint8(ids)


def _name(class_id: int, palette: Palette) -> str:
    return "ignored" if class_id == palette.ignore_id else f"class {class_id} ({palette.names[class_id]})"
