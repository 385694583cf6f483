"""How the labels of a raw set encode their classes: with which palette, and as numbers or as colours."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pipelines.inputs import class_lists
from pipelines.inputs.evidence import Use, one_based
from pipelines.inputs.rawset import RawSet
from pipelines.inputs.sampling import (
    Read,
    SampledValues,
    colors_of,
    read_label,
    sampled,
    sum_up,
    values_in_words,
    without_pixels,
)
from trainer import prefetch, storage
from trainer.formats import codings, label_images
from trainer.formats.labels import JSON_FORM, Color, Palette, color_meanings, ranges
from trainer.formats.palettes import BUILT_IN, CAMVID, READ_BY_COLOR, READ_BY_COLORMAP, VOC, resolve
from trainer.options import InputError
from trainer.terminal import some

PALETTE_FILE = "palette.json"
"""A palette file of this name in a raw set's folder is the set's palette."""
Labels = Callable[[], Iterable[tuple[str, label_images.Label]]]
"""Returns some labels, each with its path."""


class NoPalette(InputError):
    """Nothing tells the palette of a set, not even its labels.

    Attributes:
      seen: what the sampled labels hold, in words.
    """

    def __init__(self, root: str, seen: str) -> None:
        self.seen = seen
        super().__init__(
            f"{root}: cannot tell the palette; {seen}. Give --palette {', '.join(BUILT_IN)}, or a JSON file (also "
            f"found as {PALETTE_FILE} in that folder) like {JSON_FORM}; `deeplab doctor` writes one, of the "
            "values in the labels"
        )


class Unlisted(InputError):
    """Labels hold values that the set's own list of classes, which knows most of their pixels, does not know.

    Attributes:
      palette: the palette of the list.
      reason: a sentence on the list and the values.
    """

    def __init__(self, root: str, list_: class_lists.Lacking) -> None:
        self.palette = list_.palette
        self.reason = (
            f"{list_.path} lists {list_.palette.num_classes} classes, but the sampled labels also hold "
            f"{values_in_words(list_.ids, list_.colors)}, which it does not know"
        )
        super().__init__(
            f"{self.reason}. `deeplab doctor {root}` shows where, and proposes a palette that ignores them; or give "
            f"--palette {', '.join(BUILT_IN)}, or a JSON file like {JSON_FORM}"
        )


class Detected(NamedTuple):
    """The palette of a set, a sentence with the reason, and whether the set's own list of classes is the reason."""

    palette: Palette
    reason: str
    is_listed: bool = False


def recognise(
    rawset: RawSet, palette: str = "auto", coding: str = "auto", read: Read = read_label
) -> tuple[Palette, str, str, str]:
    """The results of `detect_palette` and `settle_coding`, from labels that are read only once.

    Returns:
      Palette and reason, then coding and reason.
    """
    labels = functools.cache(lambda: [(path, without_pixels(label)) for path, label in sampled(rawset.labels, read)])
    has_own = _has_own(rawset, palette)
    if coding == "auto":  # in the meantime
        labels()
    chosen, why, _ = _palette(rawset, palette, labels, has_own)
    return chosen, why, *_coding(chosen, coding, labels)


def detect_palette(rawset: RawSet, palette: str = "auto", read: Read = read_label) -> Detected:
    """Finds the palette of a raw set's labels.

    Args:
      rawset: the raw set, from `rawset.scan`.
      palette: "auto", the name of a built-in palette, or a palette file. With "auto", PALETTE_FILE in the set's
        folder decides, then a list of classes there, then the layout, then the values in a sample of labels.
      read: `read_label`, or a function that does the same in another process.

    Raises:
      InputError: the palette is unknown. NoPalette: "auto" cannot tell it from the labels. Unlisted: the set's own
        list of classes knows most of the labels, but not all.
    """
    return _palette(rawset, palette, lambda: sampled(rawset.labels, read), _has_own(rawset, palette))


def _has_own(rawset: RawSet, palette: str) -> Callable[[], bool]:
    """A function that returns whether a set's own palette is to be used, if it has one and none was given."""
    path = storage.join(rawset.root, PALETTE_FILE)
    return prefetch.ahead(path, functools.partial(storage.exists, path)) if palette == "auto" else lambda: False


def _palette(rawset: RawSet, palette: str, labels: Labels, has_own: Callable[[], bool]) -> Detected:
    if palette != "auto":
        return Detected(resolve(palette), f"palette {palette}, as given by --palette")
    path = storage.join(rawset.root, PALETTE_FILE)
    if has_own():
        own = resolve(path)
        return Detected(own, f"palette {own.name} of {own.num_classes} classes, from {path}")
    if listed := _listed(rawset, labels):
        return listed
    if usual := rawset.palette_hint:
        note = class_lists.passed_over(rawset.class_lists, usual)
        reason = f"palette {usual.name}, as is usual for {rawset.layout} sets{note}"
        return Detected(usual, _with_doubt(reason, rawset, usual, labels()))
    sample = sum_up(labels())
    built_in = _palette_of(sample, rawset.layout)
    if built_in is None:
        raise NoPalette(rawset.root, sample.describe())
    note = class_lists.passed_over(rawset.class_lists, built_in)
    reason = f"palette {built_in.name}: {sample.describe()}{note}"
    return Detected(built_in, _with_doubt(reason, rawset, built_in, labels()))


def _with_doubt(reason: str, rawset: RawSet, usual: Palette, labels: Iterable[tuple[str, label_images.Label]]) -> str:
    """The reason for a built-in palette; a warning if the labels rather number a few classes of their own.

    Those of Pascal VOC outline every object with 255, and hold classes from all over its list.
    """
    used = {int(number) for _, label in labels for number in _classes_of(label, usual)} if usual == VOC else set()
    few = len(used)
    if used != {*range(few)} or not 1 < few < usual.num_classes:
        return reason
    return (
        f"warning: {reason}, but the sampled labels hold only its first {few} classes ({some(usual.names[:few], 4)}), "
        f"and nothing that is ignored, as if they numbered {few} other classes. If they do, put their names into "
        f"{storage.join(rawset.root, PALETTE_FILE)}, or one a line into class_names.txt there"
    )


def _classes_of(label: label_images.Label, palette: Palette) -> Iterable[int]:
    """The classes in a label, by its colours; by its numbers if it has no colours, or a map of unknown ones."""
    meanings = color_meanings(palette)
    if label.codes.ndim == 3:
        return [meanings.get(color, -1) for color in colors_of(label)]
    colors = () if label.colormap is None else codings.seen_colors(label)
    is_known = bool(colors) and meanings.keys() >= {*colors}
    return [meanings[color] for color in colors] if is_known else label.used.tolist()


def _listed(rawset: RawSet, labels: Labels) -> Detected | None:
    """The palette of the class list in a set that reads its sampled labels; None if none does.

    Raises InputError if several do; Unlisted if one reads most of them, but not all.
    """
    if not rawset.class_lists:
        return None
    usual = rawset.palette_hint or _palette_of(sum_up(labels()), rawset.layout)
    sample = [label for _, label in labels()]
    found = class_lists.fitting(rawset.class_lists, sample, usual)
    if len(found) > 1:
        raise InputError(
            f"{' and '.join(found)} name different classes, and each of them reads the labels. Give --palette a JSON "
            f"file like {JSON_FORM}"
        )
    for path, palette in found.items():
        return Detected(palette, f"palette of {palette.num_classes} classes, listed in {path}", is_listed=True)
    # A palette that is usual for such folders or values would give the listed classes other names.
    if lacking := class_lists.lacking(rawset.class_lists, sample, usual):
        raise Unlisted(rawset.root, lacking)
    return None


def settle_coding(
    labels: Sequence[str], palette: Palette, coding: str = "auto", read: Read = read_label
) -> tuple[str, str]:
    """Decides from a sample whether a set's labels are read by their numbers or by their colours.

    Args:
      labels: paths of label files.
      palette: the palette of the labels.
      coding: one of `trainer.formats.options.CODINGS`; any but "auto" is kept.
      read: `read_label`, or a function that does the same in another process.

    Returns:
      The coding for `codings.decode_ids`, and a sentence with the reason or a doubt, "" for none. It is "colors" for
      palette images and grey labels of which only the colours can be read. "auto" leaves the decision to each label.

    Raises:
      InputError: labels that can be read in two ways, or a set of masks of 0 and 255 whose foreground is ignored.
    """
    return _coding(palette, coding, lambda: sampled(labels, read))


def _coding(palette: Palette, coding: str, labels: Labels) -> tuple[str, str]:
    if coding != "auto":
        return coding, f"labels are read by their {coding}, as given by --label-coding"
    numbers: set[int] = set()
    meanings: set[tuple[int, Color | None]] = set()
    by_ids = by_colors = ""
    has_colors = has_maps = is_mixed = False
    for path, label in labels():
        has_colors |= label.codes.ndim == 3
        if label.colormap is None:
            if label.codes.ndim == 2:
                used = set(label.used.tolist())
                numbers |= used
                is_mixed |= 255 in used and bool(used - {0, 255})
            continue
        has_maps = True
        if differs := codings.two_readings(label, palette):
            raise InputError(f"{path} {differs}")
        ids, colors = codings.readings(label, palette)
        meanings.update(zip(label.used.tolist(), codings.seen_colors(label), strict=True))
        by_ids = by_ids or (path if colors is None and ids is not None else "")
        by_colors = by_colors or (path if ids is None and colors is not None else "")
    if by_ids and by_colors:
        raise InputError(
            f"palette {palette.name} knows {by_ids} by its indices alone, and {by_colors} by its colours alone; "
            f"{codings.CURE}"
        )
    if by_colors:
        return "colors", f"palette images are read by their colours, which palette {palette.name} knows"
    if not has_maps and codings.are_greys(sorted(numbers), palette):
        return "colors", f"grey labels are read by their greys, which palette {palette.name} knows as colours"
    doubt = _doubt(numbers, meanings, palette)
    if has_colors or has_maps:
        return "auto", doubt
    if codings.is_mask(sorted(numbers), palette):
        raise InputError(f"the sampled labels contain only 0 and 255; {codings.mask_cure(palette)}")
    # If some labels hold a class beside 0 and 255, then 255 means "ignored", and labels of 0 and 255 are not masks.
    return ("ids" if is_mixed and palette.num_classes <= 2 else "auto"), doubt


def _doubt(numbers: set[int], meanings: set[tuple[int, Color | None]], palette: Palette) -> str:
    """A warning if labels may not be read as they were meant; "" without a doubt.

    Args:
      numbers: ids in labels without a colour map.
      meanings: (index, colour) in labels with one; None is a transparent colour.
    """
    last = palette.num_classes
    if numbers - {255} == {*range(last + 1)} and not palette.source_ids and last not in (1, palette.ignore_id):
        return (
            f"warning: the sampled labels hold all ids from 0 to {last}, and palette {palette.name} has {last} "
            f"classes: either 0 is meant to be ignored, and they count from 1, or {last} is. `deeplab doctor` has a "
            "palette for either"
        )
    if numbers and one_based({number: Use(1, 1, 1, 1) for number in numbers}, palette):
        return (
            f"warning: the sampled labels hold ids {ranges(sorted(numbers))} and none of class 0: they may count the "
            f"{palette.num_classes} classes of palette {palette.name} from 1. `deeplab doctor` can tell, and "
            "suggests a cure"
        )
    colors = {color for _, color in meanings}
    if len({index for index, _ in meanings}) < len(meanings) and not colors <= palette.known_colors() | {None}:
        return (
            "warning: the sampled palette images give one index different colours, which the palette does not know, "
            "and the indices, which are read, may mean nothing. `deeplab doctor` can tell, and suggests a cure"
        )
    strange = {color for color in colors - palette.known_colors() if color and len({*color}) > 1}
    if palette == VOC and 2 * len(strange) > len(colors):
        return (
            "warning: the sampled palette images have other colours than Pascal VOC's, as tools write them into its "
            f"folders: {', '.join(map(str, sorted(strange)[:6]))}. If their classes are others, give --palette FILE"
        )
    return ""


def classes_among(colors: Iterable[Color | None], palette: Palette) -> set[int | None]:
    """The classes that have one of these colours, but for what is ignored."""
    return {*map(color_meanings(palette).get, colors)} - {palette.ignore_id, None}


def _palette_of(sample: SampledValues, layout: str) -> Palette | None:
    """The built-in palette that fits a sample; None if none fits, or more than one."""
    if sample.embedded and not sample.colors:
        for palette in READ_BY_COLORMAP:
            known = {*range(palette.num_classes), palette.ignore_id}
            maps = {colors[: palette.num_classes] for colors in sample.embedded}
            if maps == {palette.colors} and sample.ids <= known:
                return palette
    colors = sample.colors | sample.mapped
    if colors and (sample.is_mapped or not sample.ids):
        fits = [palette for palette in READ_BY_COLOR if colors <= palette.known_colors()]
        # A single class, such as red on a black that is ignored, is no evidence.
        if len(fits) == 1 and len(classes_among(colors, fits[0])) > 1:
            return fits[0]
    if sample.colors:
        return None
    # Ids alone prove little; CamVid's folders, most of its classes and its 11, which is ignored, together are enough.
    if layout == "camvid" and len(sample.ids) >= 6 and max(sample.ids) == CAMVID.ignore_id:
        return CAMVID
    return None
