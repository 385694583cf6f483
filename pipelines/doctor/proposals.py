"""Palettes made from the values in labels, for sets that no known palette reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipelines.inputs.evidence import Evidence, Use
from trainer.formats.labels import CREAM, MOST_CLASSES, Color, Palette
from trainer.formats.palettes import voc_colormap

PROPOSED = "proposed"
"""The name of these palettes."""
MAX_CLASSES = 64
"""Maximum number of values made into a palette; more are not classes but blurred colours."""
MAX_ALIASES = 1024
"""Maximum number of mixed colours that a palette lists as ignored; labels with more must be mended or drawn again."""
MIN_SOLID = 0.5
"""Minimum share of pixels within areas of one id, if more ids than MAX_CLASSES are classes, as in COCO-Stuff."""
MIN_SHARE = 0.0005
"""Minimum share of all pixels of a colour that counts as a class although the palette does not know it."""

SMOOTHED = 4
"""Minimum number of colours to each that covers areas in labels that were smoothed or scaled like images."""
MAX_ROUNDING = 1.5
"""Maximum distance, in grey levels, of a blend from the line between the colours that it is made of."""

MASK_CLASSES = ("background", "foreground")
"""The classes of masks of 0 and 255, or of black and white."""


def propose(evidence: Evidence) -> Palette | None:
    """A palette whose classes are the values in the labels; None if these cannot be classes.

    If the only ids are 0 and 255 they are background and foreground; otherwise 255 is ignored, and so is 0 if it
    occurs only in outlines. Colours are classes if they cover areas; black and VOC's cream are ignored if they occur
    only in outlines.
    """
    if is_of_colors(evidence):
        colors = {**evidence.colors, **evidence.mapped}
        greys = {color[0]: use for color, use in colors.items()}
        if is_grey(colors) and are_masks(greys):
            return _black_and_white(blends_of(greys))
        palette = propose_colors(colors)
        return palette and _by_index(palette, evidence)
    return _propose_ids({**evidence.indices, **evidence.ids})


def is_of_colors(evidence: Evidence) -> bool:
    """Whether the labels mean classes by colours, and not by ids."""
    return bool(evidence.colors or evidence.is_shuffled or (evidence.mapped and not is_grey(evidence.mapped)))


def are_codes(evidence: Evidence) -> bool:
    """Whether the labels have areas of more colours than classes have: of numbers of objects, packed into colours."""
    uses = evidence.colors.values()
    solid = [use for use in uses if use.solid]
    return len(solid) > MAX_CLASSES and sum(use.solid for use in solid) >= MIN_SOLID * sum(use.pixels for use in uses)


def is_grey(colors: dict[Color, Use]) -> bool:
    return all(len(set(color)) == 1 for color in colors)


def _propose_ids(uses: dict[int, Use]) -> Palette | None:
    if are_masks(uses):
        return two_classes(blends_of(uses))
    ids = sorted(value for value, use in uses.items() if use.solid)
    if len(ids) < 2 or ids == [0, 255]:  # classes drawn as lines, of one pixel
        ids = sorted(uses)
    ignored = {value for value in ids if value == 255 or (value == 0 and uses[0].is_outline and len(ids) > 2)}
    ignored |= uses.keys() - set(ids)
    classes = [value for value in ids if value not in ignored]
    if len(classes) > MAX_CLASSES:
        if sum(use.solid for use in uses.values()) < MIN_SOLID * sum(use.pixels for use in uses.values()):
            return None
        # A sample hardly has all of so many classes, and of some it has no area.
        ignored = {value for value in (0, 255) if value in ignored and (value or uses[0].is_outline)}
        every = [value for value in range(min(uses), max(uses.keys() - {255}) + 1) if value not in ignored]
        classes = every if len(every) <= MOST_CLASSES else sorted(uses.keys() - ignored)
    if not 0 < len(classes) <= MOST_CLASSES:
        return None
    sources = [(value, index) for index, value in enumerate(classes)] + [(value, 255) for value in ignored - {255}]
    plain = classes == list(range(len(classes))) and not ignored - {255}
    return Palette(
        PROPOSED,
        tuple(f"class {value}" for value in classes),
        voc_colormap(len(classes)),
        source_ids=() if plain else tuple(sources),
    )


def without_zero(palette: Palette, evidence: Evidence) -> Palette | None:
    """The palette `propose` made, with id 0 ignored in place of a class; None if it is no class, or too few are left.

    A publisher's 0 may be no class but all that is none, as in ADE20K.
    """
    sources = dict(palette.source_ids) or {index: index for index in range(palette.num_classes)}
    if is_of_colors(evidence) or sources.get(0) != 0 or palette.num_classes < 3:
        return None
    shifted = {value: index - 1 if index < palette.num_classes else index for value, index in sources.items()}
    return replace(
        palette, names=palette.names[1:], colors=palette.colors[1:], source_ids=(*{**shifted, 0: 255}.items(),)
    )


def propose_colors(uses: dict[Color, Use]) -> Palette | None:
    total = sum(use.pixels for use in uses.values())
    solid = {color: use for color, use in uses.items() if use.solid and use.pixels >= MIN_SHARE * total}
    if len(uses) > SMOOTHED * len(solid):
        larger = lambda use: [color for color, other in solid.items() if other.solid > use.solid]
        is_blend = lambda color, use: use.is_outline and _is_blend(color, larger(use))
        solid = {color: use for color, use in solid.items() if not is_blend(color, use)}
    void = [color for color in ((0, 0, 0), CREAM) if color in uses and uses[color].is_outline]
    classes = sorted(color for color in solid if color not in void)
    if not 1 <= len(classes) <= MAX_CLASSES:
        return None
    return Palette(
        PROPOSED,
        tuple("colour {}, {}, {}".format(*color) for color in classes),
        tuple(classes),
        ignore_color=void[0] if void else next(c for c in voc_colormap()[::-1] if c not in uses),
        aliases=tuple((color, 255) for color in void[1:]),
    )


def are_masks(uses: dict[int, Use]) -> bool:
    """Whether ids are 0 and 255 alone, or with blends of the two, as in masks that were smoothed or scaled."""
    rest = uses.keys() - {0, 255}
    if len(rest) == len(uses) - 2:
        # Smoothing gives greys both darker and lighter than the middle; of a class drawn as a line it is one id.
        is_blend = not rest or (min(rest) < 128 <= max(rest) and all(uses[value].is_outline for value in rest))
        return is_blend and sum(uses[value].pixels for value in rest) < max(1, uses[255].pixels)
    return False


def blends_of(uses: dict[int, Use]) -> Sequence[int]:
    """The ids to ignore in `are_masks`: if there are blends, all of them, since other labels may hold others."""
    return range(1, 255) if len(uses) > 2 else ()


def _by_index(palette: Palette, evidence: Evidence) -> Palette:
    """The palette of colours, with its classes in the order of their indices in palette images, which mean them too.

    Ids of other labels, without colours, are these indices. The palette as it is if an index has several colours, or a
    colour several indices or none.
    """
    index_of = {color: index for index, color in evidence.meanings}
    if not _names_indices(palette, evidence):
        return palette
    colors = sorted(palette.colors, key=index_of.__getitem__)
    sources = dict.fromkeys(index_of.values(), 255)
    sources |= {index_of[color]: place for place, color in enumerate(colors)}
    is_plain = all(place == index for index, place in sources.items())
    names = tuple("colour {}, {}, {}".format(*color) for color in colors)
    return replace(palette, names=names, colors=tuple(colors), source_ids=() if is_plain else tuple(sources.items()))


def _names_indices(palette: Palette, evidence: Evidence) -> bool:
    """Whether palette images give each of the palette's colours an index of its own, the same in all of them."""
    colors = {color for _, color in evidence.meanings}
    return len(colors) == len(evidence.meanings) and not evidence.is_shuffled and colors >= {*palette.colors}


def is_mixed(palette: Palette, evidence: Evidence) -> bool:
    """Whether labels hold ids beside others of colours, and nothing tells which id is which colour of `palette`."""
    if is_grey({**evidence.colors, **evidence.mapped}) or _names_indices(palette, evidence):
        return False
    black = {0} if palette.colors[0] == (0, 0, 0) or palette.ignore_color == (0, 0, 0) else set()
    return bool(evidence.ids.keys() - {255} - black)


def two_classes(blends: Sequence[int]) -> Palette:
    """The palette for masks of 0 and 255, in which these ids are ignored."""
    sources = ((0, 0), (255, 1), *((value, 255) for value in blends))
    return Palette(PROPOSED, MASK_CLASSES, voc_colormap(2), source_ids=sources)


def _is_blend(color: Color, others: Sequence[Color]) -> bool:
    """Whether a colour lies between two of the others, as blends of two classes do, within rounding."""
    for one, other in itertools.combinations(np.float64(others).reshape(-1, 3), 2):
        way, step = other - one, color - one
        share = float(step @ way / (way @ way))
        if 0.05 < share < 0.95 and np.abs(step - share * way).max() <= MAX_ROUNDING:
            return True
    return False


def _black_and_white(blends: Sequence[int]) -> Palette:
    """The palette for masks of black and white in colours, in which these greys are ignored."""
    aliases = tuple(((value,) * 3, 255) for value in blends)
    return Palette(PROPOSED, MASK_CLASSES, ((0, 0, 0), (255, 255, 255)), aliases=aliases)


def ignoring_ids(palette: Palette, ids: Sequence[int]) -> Palette:
    """The palette with these ids ignored as well."""
    return replace(palette, source_ids=(*palette.sources, *((value, palette.ignore_id) for value in ids)))


def with_foreground(palette: Palette) -> Palette:
    """The palette with 255 read as class 1 as well."""
    return replace(palette, source_ids=(*palette.sources, (255, 1)))


def ignoring_colors(palette: Palette, colors: Sequence[Color]) -> Palette:
    """The palette with these colours ignored as well."""
    return replace(palette, aliases=(*palette.aliases, *((color, palette.ignore_id) for color in colors)))
