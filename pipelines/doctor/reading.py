"""A way to read the labels of a set, and the sample of labels from which it is decided."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from pipelines.doctor.verdict import Example, Finding
from pipelines.inputs.coding import classes_among
from pipelines.inputs.evidence import Evidence
from pipelines.inputs.sampling import colors_of
from trainer.formats import codings
from trainer.formats.label_images import Label
from trainer.formats.labels import Color, Palette, color_meanings, id_table, ranges, unknown_mark
from trainer.terminal import some

OWN, COUNTED = "palette.json", "palette-from-1.json"
"""Files in the output folder: the palette that this command proposes, and that of `Reading.counted`."""


@dataclass(frozen=True)
class Reading:
    """How to read labels.

    Attributes:
      palette: None if none is known, so that labels cannot be read.
      coding: one of `trainer.formats.options.CODINGS`.
      flag: value of prepare's --palette; "" if prepare finds it by itself, OWN for a palette of this command.
      coding_flag: value of prepare's --label-coding; "" for none.
      reasons: sentences on how palette and coding were found.
      findings: what is wrong with the labels.
      evidence: the evidence from the sample.
      counted: the palette for the alternative that ids count from 1, with 0 ignored; None if they cannot.
    """

    palette: Palette | None
    coding: str = "auto"
    flag: str = ""
    coding_flag: str = ""
    reasons: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    counted: Palette | None = None


@dataclass(frozen=True)
class LabelValues:
    """The values in a label of the sample, without its pixels."""

    path: str
    number: int
    ids: frozenset[int]
    colors: frozenset[Color]
    is_mapped: bool

    @classmethod
    def of(cls, path: str, number: int, label: Label) -> LabelValues:
        if label.codes.ndim == 3:
            return cls(path, number, frozenset(), frozenset(colors_of(label)), False)
        is_mapped = label.colormap is not None
        colors = frozenset(filter(None, codings.seen_colors(label))) if is_mapped else frozenset()
        return cls(path, number, frozenset(label.used.tolist()), colors, is_mapped)

    def describe(self) -> str:
        parts = [f"ids {ranges(sorted(self.ids))}"] if self.ids else []
        parts += [f"colours {some(sorted(self.colors), 6)}"] if self.colors else []
        return f"holds {' that are '.join(parts)}"


@dataclass(frozen=True)
class Sample:
    """The sampled labels, and the evidence from all of them."""

    labels: tuple[LabelValues, ...]
    evidence: Evidence

    def examples(self, *values: int | Color) -> tuple[Example, ...]:
        """Examples of labels that hold one of these values; of any labels if no values are given."""
        examples = []
        for label in self.labels:
            held = [value for value in values if value in label.ids or value in label.colors]
            if held or not values:
                detail = f"holds {', '.join(map(str, held[:6]))}" if values else label.describe()
                examples.append(Example(label.number, label.path, detail))
        return tuple(examples)


def are_numbers(meanings: Collection[tuple[int, Color | None]], palette: Palette) -> bool:
    """Whether palette images mean classes by their indices alone, as if any tool had coloured them.

    The palette knows the colours of one class at most, and gives them the meaning of their indices. Greys may be ids.

    Args:
      meanings: pairs (index, colour) that palette images use; the colour is None if it is transparent.
    """
    colors = {color for _, color in meanings if color}
    if all(len({*color}) == 1 for color in colors) or len(classes_among(colors, palette)) > 1:
        return False
    by_color, by_index = color_meanings(palette), id_table(palette)
    return all(by_index[index] == by_color[color] for index, color in meanings if color in by_color)


def are_grey_ids(colors: Collection[Color | None], palette: Palette) -> bool:
    """Whether colours are greys that the palette does not know, but most of whose values are its ids.

    None stands for a transparent colour.
    """
    if not colors or not all(color and len({*color}) == 1 for color in colors):
        return False
    known = id_table(palette)[[color[0] for color in colors]] != unknown_mark(palette)
    return len({*colors} & color_meanings(palette).keys()) < 2 and 2 * int(known.sum()) > len(known)
