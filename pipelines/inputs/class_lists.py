"""The lists of classes that tools and publishers put beside their labels, as palettes.

    labelmap.txt                          CVAT, Datumaro    name:red,green,blue:parts:actions
    class_dict.csv, label_class_dict.csv  several           name,r,g,b
    label_colors.txt                      CamVid            red green blue name
    class_names.txt                       LabelMe           a name per line, the first is id 0
    codes.txt                             fastai            the same
    classes.txt                           several           the same, if the first is the background
    _classes.csv                          Roboflow          Pixel Value, Class
    objectInfo150.txt                     ADE20K            Idx, ..., Name; 0 is no class
    config.json, config_v2.0.json, ...    Mapillary Vistas  {"labels": [{"name", "color", "evaluate"}, ...]}
    class_list.json                       A2D2              {"#ff0000": "Car 1", ...}
    obj_class_to_machine_color.json       Supervisely       {"cat": [1, 1, 1], ...}
    dataset.json                          nnU-Net           {"labels": {"background": 0, ...}}, or the other way round

Classes that are named as no class (void, unlabeled, ...) are ignored.
"""

from __future__ import annotations

import codecs
import csv
import json
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from trainer import storage
from trainer.formats import codings
from trainer.formats.label_images import Label
from trainer.formats.labels import (
    CREAM,
    Color,
    NameFault,
    Palette,
    color_meanings,
    id_table,
    pack,
    unknown_mark,
    unpack,
)
from trainer.formats.palettes import BUILT_IN, voc_colormap
from trainer.formats.runs import pixels_of_ids
from trainer.options import InputError

_NOT_A_CLASS = re.compile(r"(void|un-?label+ed|unknown|ignored?|no[ _-]?data|other/unlabell?ed)")
"""Names, in lower case and without underscores around them, of pixels that are of no class."""
_BACKGROUND = re.compile(rf"background|bg|{_NOT_A_CLASS.pattern}")
"""Names, in lower case and without underscores around them, of a first class that no list for boxes has."""
MOST = 0.5
"""Minimum share of the labels' pixels that a list knows if it is meant for them."""
FOLDERS = ("", "train")
"""Where a list is looked for, below the set."""


class _Class(NamedTuple):
    """A class as it is listed.

    Attributes:
      name: the name.
      color: its RGB colour in labels; None if the list does not say.
      id: its number in labels; None if it is the place in the list.
      is_void: whether its pixels are ignored.
    """

    name: str
    color: Color | None = None
    id: int | None = None
    is_void: bool = False


class ClassList(NamedTuple):
    """A list of classes.

    Attributes:
      path: the file.
      palette: its classes.
      has_ids: whether it says which number in labels is which class, and not just which colour.
    """

    path: str
    palette: Palette
    has_ids: bool


class Lacking(NamedTuple):
    """A list of classes that knows most of some labels, but not all.

    Attributes:
      path: the file.
      palette: its classes.
      ids, colors: values in the labels that it does not know.
    """

    path: str
    palette: Palette
    ids: frozenset[int]
    colors: frozenset[Color]


def among(files: Iterable[str]) -> tuple[str, ...]:
    """Those of the files, paths relative to a set, that are named like lists of classes."""
    return tuple(
        sorted(file for file in files if posixpath.dirname(file) in FOLDERS and _form(posixpath.basename(file)))
    )


def read(path: str) -> ClassList | None:
    """Reads a list; None if the file is something else of the same name.

    Raises InputError if it cannot be read, or has a name that no class may have. Another palette in its place would be
    the wrong one.
    """
    name = posixpath.basename(path)
    form = _form(name)
    try:
        data = storage.read(path)
    except OSError as error:
        raise InputError(
            f"{path}, which may list the classes, cannot be read: {error.strerror or error}; make it readable, move "
            "it away if it does not list them, or give --palette"
        ) from None
    try:
        classes = [*form(_text(data))]
        palette = _palette(posixpath.splitext(name)[0].strip("_"), classes)
    except NameFault as error:
        raise InputError(f"{path}: {error}, or give --palette") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, csv.Error):
        return None  # of an InputError too, which is a ValueError
    return ClassList(path, palette, form not in _OF_COLORS) if len(classes) > 1 else None


def _text(data: bytes) -> str:
    """The text of a list; names in other encodings lose letters, but no class is lost."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig", "replace")


def _palette(name: str, classes: Sequence[_Class]) -> Palette:
    placed = [each if each.id is not None else each._replace(id=place) for place, each in enumerate(classes)]
    listed = {each.color for each in classes}
    spare = [color for color in voc_colormap() if color not in listed]
    colors: dict[int, Color] = {}
    for each in placed:
        usual = voc_colormap()[each.id]
        color = each.color or (usual if usual in spare else spare[-1])
        color = color if color not in colors.values() else spare[-1]
        spare = [other for other in spare if other != color]
        colors[each.id] = color
    void = [each.id for each in placed if each.is_void or _is_void(each.name)]
    kept = [each for each in placed if each.id not in void]
    names = Counter(each.name for each in kept)
    is_plain = not {*void} - {255} and [each.id for each in kept] == [*range(len(kept))]
    ignored = [colors[number] for number in void] or [next(color for color in (CREAM, *spare) if color in spare)]
    return Palette(
        name,
        tuple(each.name if names[each.name] == 1 else f"{each.name} {each.id}" for each in kept),
        tuple(colors[each.id] for each in kept),
        ignore_color=ignored[0],
        source_ids=() if is_plain else ((*((each.id, n) for n, each in enumerate(kept)), *((n, 255) for n in void))),
        aliases=tuple((color, 255) for color in ignored[1:]),
    )


def by_greys(palette: Palette) -> Palette | None:
    """The palette for labels whose numbers are the greys that it lists as colours; None if it lists other colours."""
    meanings = color_meanings(palette)
    if any(len({*color}) > 1 for color in palette.colors):
        return None
    return replace(
        palette, source_ids=tuple((color[0], target) for color, target in meanings.items() if len({*color}) == 1)
    )


def fitting(paths: Iterable[str], labels: Sequence[Label], usual: Palette | None) -> dict[str, Palette]:
    """Path of a class list -> its palette, of the lists that know all values in some labels.

    Of these, one that knows the colours of palette images is taken before one that only knows their indices.

    Args:
      paths: files that may be lists.
      labels: sampled labels.
      usual: the built-in palette that would be taken without a list. Lists that say the same are left out.
    """
    fits: dict[str, tuple[bool, Palette]] = {}
    for one in filter(None, map(read, paths)):
        if usual and _is_usual(one.palette, usual):
            continue
        for palette, has_ids in ((one.palette, one.has_ids), (by_greys(one.palette), True)):
            if palette and one.path not in fits and labels and all(_reads(palette, has_ids, each) for each in labels):
                fits[one.path] = any(_knows_map(palette, each) for each in labels), palette
    surest = max((knows_map for knows_map, _ in fits.values()), default=False)
    return {path: palette for path, (knows_map, palette) in fits.items() if knows_map == surest}


def lacking(paths: Iterable[str], labels: Sequence[Label], usual: Palette | None) -> Lacking | None:
    """The list of classes that knows most pixels of some labels, and at least two of their values, but not all.

    Args:
      paths: files that may be lists, none of which is `fitting`.
      labels: sampled labels.
      usual: as of `fitting`; without one, lists that say the same as any built-in palette are left out.
    """
    best: tuple[float, Lacking | None] = (0.0, None)
    for one in _of_their_own(paths, usual):
        for palette, has_ids in ((one.palette, one.has_ids), (by_greys(one.palette), True)):
            if palette is None:
                continue
            counts = sum((_counts(palette, has_ids, label) for label in labels), Counter())
            unknown = {value for value, is_known in counts if not is_known}
            share = _known_pixels(counts) / max(1, counts.total())
            if unknown and share > max(MOST, best[0]) and len(counts) - len(unknown) > 1:
                ids = frozenset(value for value in unknown if isinstance(value, int))
                best = share, Lacking(one.path, palette, ids, frozenset(unknown - ids))
    return best[1]


def passed_over(paths: Iterable[str], usual: Palette) -> str:
    """A note on lists of other classes than those of the built-in palette that is taken; "" without any."""
    others = [one.path for one in _of_their_own(paths, usual)]
    return f" (not {' or '.join(others)}, which does not know the labels)" if others else ""


def _of_their_own(paths: Iterable[str], usual: Palette | None) -> Iterator[ClassList]:
    """The lists that do not say the same as the usual palette or, without one, as any built-in palette."""
    for one in filter(None, map(read, paths)):
        if not any(_is_usual(one.palette, palette) for palette in ([usual] if usual else BUILT_IN.values())):
            yield one


def _counts(palette: Palette, has_ids: bool, label: Label) -> Counter[tuple[int | Color, bool]]:
    """(Value in a label, whether a palette knows it) -> its pixels; of palette images by the reading that knows more.

    Args:
      has_ids: whether the palette's ids mean something.
    """
    if label.codes.ndim == 3:
        values, pixels = np.unique(pack(label.codes), return_counts=True)
        return _marked(zip(map(unpack, values.tolist()), pixels.tolist(), strict=True), palette.known_colors())
    pixels = pixels_of_ids(label.codes)[label.used].tolist()
    known = np.flatnonzero(id_table(palette) != unknown_mark(palette)).tolist() if has_ids else []
    by_ids = _marked(zip(label.used.tolist(), pixels, strict=True), known)
    if label.colormap is None:
        return by_ids
    opaque = ((color, count) for color, count in zip(codings.seen_colors(label), pixels, strict=True) if color)
    return max(_marked(opaque, palette.known_colors()), by_ids, key=_known_pixels)


def _marked(
    pixels: Iterable[tuple[int | Color, int]], known: Collection[int | Color]
) -> Counter[tuple[int | Color, bool]]:
    counts: Counter[tuple[int | Color, bool]] = Counter()
    for value, count in pixels:
        counts[value, value in known] += count
    return counts


def _known_pixels(counts: Counter[tuple[int | Color, bool]]) -> int:
    return sum(pixels for (_, is_known), pixels in counts.items() if is_known)


def _is_usual(listed: Palette, usual: Palette) -> bool:
    """Whether a built-in palette has the listed classes, or joins them to fewer, as it does with CamVid's 32."""
    is_joined = listed.num_classes > usual.num_classes and {*listed.colors} <= usual.known_colors()
    return is_joined or listed.names == usual.names


def _reads(palette: Palette, has_ids: bool, label: Label) -> bool:
    """Whether a palette knows all that a label holds, in one way.

    Args:
      has_ids: whether the palette's ids mean something.
    """
    if label.codes.ndim == 3:
        return {*map(unpack, np.unique(pack(label.codes)).tolist())} <= palette.known_colors()
    if label.colormap is None:
        is_known = unknown_mark(palette) not in id_table(palette)[label.used]
        return has_ids and is_known and not codings.is_mask(label.used.tolist(), palette)
    knows_ids = has_ids and codings.readings(label, palette)[0] is not None
    return not codings.two_readings(label, palette) and (knows_ids or _knows_map(palette, label))


def _knows_map(palette: Palette, label: Label) -> bool:
    return label.colormap is not None and codings.readings(label, palette)[1] is not None


def _is_void(name: str) -> bool:
    return _NOT_A_CLASS.fullmatch(name.lower().strip("_ ")) is not None


def _form(name: str) -> Callable[[str], Iterator[_Class]] | None:
    """The function that reads a list of this name."""
    if re.fullmatch(r"config(_v[\d.]+)?\.json", name):
        return _vistas
    return _FORMS.get(name)


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line.strip() and not line.startswith("#"))


def _labelmap(text: str) -> Iterator[_Class]:
    for line in _lines(text):
        name, color, *_ = line.split(":")
        yield _Class(name.strip(), _color(color.split(",")))


def _table_of_colors(text: str) -> Iterator[_Class]:
    for row in csv.DictReader(text.splitlines(), skipinitialspace=True):
        yield _Class(row["name"].strip(), _color(row[channel] for channel in "rgb"))


def _color_first(text: str) -> Iterator[_Class]:
    for line in _lines(text):
        *color, name = line.split(None, 3)
        yield _Class(name.strip(), _color(color))


def _names(text: str) -> Iterator[_Class]:
    for line in _lines(text):
        # LabelMe numbers __ignore__ -1, which is 255 in a file of eight bits.
        if (name := line.strip()) != "__ignore__":
            yield _Class(name.strip("_") or name)


def _with_background(text: str) -> Iterator[_Class]:
    classes = [*_names(text)]
    # YOLO's file of this name lists the boxes' classes; masks beside it number the background 0, and these from 1.
    if not classes or not _BACKGROUND.fullmatch(classes[0].name.lower()):
        raise ValueError("expected the background as the first class")
    yield from classes


def _roboflow(text: str) -> Iterator[_Class]:
    for row in csv.DictReader(text.splitlines(), skipinitialspace=True):
        yield _Class(row["Class"].strip(), None, _byte(row["Pixel Value"]))


def _ade20k(text: str) -> Iterator[_Class]:
    yield _Class("no class", None, 0, is_void=True)
    for row in csv.DictReader(text.splitlines(), delimiter="\t"):
        yield _Class(row["Name"].split(",")[0].strip() or row["Name"], None, _byte(row["Idx"]))


def _vistas(text: str) -> Iterator[_Class]:
    for place, entry in enumerate(json.loads(text)["labels"]):
        yield _Class(str(entry["name"]), _color(entry["color"]), place, is_void=entry.get("evaluate") is False)


def _hex_colors(text: str) -> Iterator[_Class]:
    for color, name in json.loads(text).items():
        if not re.fullmatch("#[0-9a-fA-F]{6}", color):
            raise ValueError(color)
        yield _Class(str(name), _color(bytes.fromhex(color[1:])))


def _greys(text: str) -> Iterator[_Class]:
    listed = {str(name): _color(color) for name, color in json.loads(text).items()}
    if 0 not in {color[0] for color in listed.values()}:
        yield _Class("background", id=0)
    for name, color in listed.items():
        yield _Class(name, color, color[0])


def _nnu_net(text: str) -> Iterator[_Class]:
    # The Medical Segmentation Decathlon numbers names: {"0": "background"}.
    named = ((other, one) if one.isdecimal() else (one, other) for one, other in json.loads(text)["labels"].items())
    yield from sorted((_Class(str(name), None, _byte(number)) for name, number in named), key=lambda each: each.id)


_FORMS = {
    "labelmap.txt": _labelmap,
    **dict.fromkeys(("class_dict.csv", "label_class_dict.csv"), _table_of_colors),
    "label_colors.txt": _color_first,
    **dict.fromkeys(("class_names.txt", "codes.txt"), _names),
    "classes.txt": _with_background,
    "_classes.csv": _roboflow,
    "objectInfo150.txt": _ade20k,
    "class_list.json": _hex_colors,
    "obj_class_to_machine_color.json": _greys,
    "dataset.json": _nnu_net,
}
_OF_COLORS = (_table_of_colors, _color_first, _hex_colors)


def _byte(text: Any) -> int:
    if not 0 <= (number := int(text)) <= 255:
        raise ValueError(number)
    return number


def _color(parts: Iterable[Any]) -> Color:
    red, green, blue = map(_byte, parts)
    return red, green, blue
