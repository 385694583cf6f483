"""Determines the palette and coding with which to read a set's labels: those that `deeplab prepare` would use or, if
these fail or would misread the labels, those for which a sample of the labels gives evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pipelines.doctor.proposals import (
    MAX_CLASSES,
    MIN_SHARE,
    ignoring_colors,
    ignoring_ids,
    is_grey,
    propose,
    propose_colors,
    two_classes,
)
from pipelines.doctor.verdict import REJECT, WRONG, Example, Finding
from pipelines.inputs import coding as inputs_coding
from pipelines.inputs.coding import Read, detect_palette, sampled, settle_coding
from pipelines.inputs.evidence import Evidence, Use, from_one, gather, one_based
from pipelines.inputs.rawset import RawSet
from trainer.formats import codings
from trainer.formats.label_images import Label
from trainer.formats.labels import Color, Palette, id_table, ranges, unknown_mark
from trainer.formats.palettes import CAMVID, READ_BY_COLOR
from trainer.options import InputError

SHOWN = 3
"""Maximum number of examples shown for a finding."""
MAX_ALIASES = 1024
"""Maximum number of mixed colours that a palette lists as ignored; labels with more must be mended or drawn again."""


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


OWN, COUNTED = "palette.json", "palette-from-1.json"
"""Files in the output folder: the palette that this command proposes, and that of `Reading.counted`."""


def settle(raw: RawSet, palette: str, coding: str, read: Read = inputs_coding.read_label) -> Reading:
    """Decides from a sample how to read the labels of a raw set.

    Args:
      raw: the set.
      palette, coding: the flags --palette and --label-coding.
      read: `read_label`, or a function that does the same in another process.

    Raises:
      InputError: --palette names no palette.
    """
    places = {pair.label: number for number, pair in enumerate(raw.pairs)}
    label_values: list[_LabelValues] = []

    def labels() -> Iterator[Label]:
        for path, label in sampled([pair.label for pair in raw.pairs], read):
            label_values.append(_LabelValues.of(path, places[path], label))
            yield label

    evidence = gather(labels())
    sample = _Sample(tuple(label_values), evidence)
    if coding == "ids":
        sample = replace(sample, evidence=_as_ids(sample.evidence))
    reading = _initial(raw, palette, sample, read)
    reading = replace(reading, coding=coding, coding_flag="" if coding == "auto" else coding)
    if reading.palette is not None and label_values:
        reading = _with_known_ids(reading, sample)
        reading = _with_known_colors(reading, sample)
        reading = _with_coding(reading, sample, read)
    return replace(reading, evidence=sample.evidence)


@dataclass(frozen=True)
class _LabelValues:
    """The values in a label of the sample, without its pixels."""

    path: str
    number: int
    ids: frozenset[int]
    colors: frozenset[Color]
    is_mapped: bool

    @classmethod
    def of(cls, path: str, number: int, label: Label) -> _LabelValues:
        if label.codes.ndim == 3:
            return cls(path, number, frozenset(), frozenset(inputs_coding.colors_of(label)), False)
        is_mapped = label.colormap is not None
        colors = frozenset(filter(None, codings.seen_colors(label))) if is_mapped else frozenset()
        return cls(path, number, frozenset(label.used.tolist()), colors, is_mapped)

    def describe(self) -> str:
        parts = [f"ids {ranges(sorted(self.ids))}"] if self.ids else []
        more = ", ..." if len(self.colors) > 6 else ""
        parts += [f"colours {', '.join(map(str, sorted(self.colors)[:6]))}{more}"] if self.colors else []
        return f"holds {' that are '.join(parts)}"


@dataclass(frozen=True)
class _Sample:
    """The sampled labels, and the evidence from all of them."""

    labels: tuple[_LabelValues, ...]
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


def _as_ids(evidence: Evidence) -> Evidence:
    return replace(evidence, ids={**evidence.indices, **evidence.ids}, indices={}, mapped={}, meanings=frozenset())


def _initial(raw: RawSet, flag: str, sample: _Sample, read: Read) -> Reading:
    """The reading with the palette that prepare would use; otherwise with one made from the values in the sample."""
    try:
        palette, reason = detect_palette(raw, flag, read)
        return Reading(palette, flag="" if flag == "auto" else flag, reasons=(reason,))
    except InputError as error:
        fault = str(error)
        if "cannot tell the palette" not in fault:  # the given palette, or the set's own, is invalid
            raise
    evidence = sample.evidence
    if not evidence.labels:
        return Reading(None, findings=(_unknown_palette(fault, "give --palette", sample),))
    values = {color: use for color, use in {**evidence.colors, **evidence.mapped}.items() if use.solid}
    fits = [palette for palette in READ_BY_COLOR if values and _known_share(values, palette) > 0.99]
    if len(fits) == 1 and not evidence.ids:
        name = fits[0].name
        reason = f"palette {name}: it knows the colours of 99 % of the sampled pixels that lie within an area"
        return Reading(fits[0], flag=name, reasons=(reason,))
    if raw.layout == "camvid" and evidence.ids and not values and one_based(evidence.ids, CAMVID):
        return Reading(CAMVID, flag=CAMVID.name, reasons=("palette camvid: the sampled ids are its own, from 1",))
    palette = propose(evidence)
    if palette is None:
        return Reading(None, findings=(_unknown_palette(fault, "give --palette", sample),))
    cure = (
        f"--palette {OWN}, which is made of the sampled labels: {palette.num_classes} classes, named by their values; "
        "put the real names there"
    )
    reason = f"palette of {palette.num_classes} classes, made of what the sampled labels hold"
    if palette == two_classes():
        text = (
            "the sampled labels contain only 0 and 255: masks whose foreground is 255, and no palette reads "
            "them that way"
        )
        finding = _finding("masks-0-255", REJECT, sample, (255,), text, 'read 255 as class 1 ("source_ids")')
        return Reading(palette, flag=OWN, reasons=(reason,), findings=(finding,))
    return Reading(palette, flag=OWN, reasons=(reason,), findings=(_unknown_palette(fault, cure, sample),))


def _known_share(values: dict[Color, Use], palette: Palette) -> float:
    """The share of the solid pixels whose colours `palette` knows."""
    known = palette.known_colors()
    return sum(use.solid for color, use in values.items() if color in known) / sum(
        use.solid for use in values.values()
    )


def _unknown_palette(fault: str, cure: str, sample: _Sample) -> Finding:
    seen = fault.partition("the palette; ")[2].split(". Give")[0]
    text = f"no palette is known by which the labels can be read: {seen}"
    return Finding(
        "palette", REJECT, sample.evidence.labels, 0, "sampled labels", text, cure, sample.examples()[:SHOWN]
    )


def of_values_alone(reading: Reading) -> Reading | None:
    """The reading with a palette of all values in the sample; None if that would have fewer than two classes."""
    palette = propose(reading.evidence)
    if palette is None or palette.num_classes < 2:
        return None
    is_mapped = bool(reading.evidence.mapped) and not is_grey(reading.evidence.mapped)
    coding = "colors" if is_mapped else reading.coding_flag
    return replace(reading, palette=palette, flag=OWN, coding=coding or reading.coding, coding_flag=coding)


def _with_known_ids(reading: Reading, sample: _Sample) -> Reading:
    """The reading with a palette that knows all ids of labels without colours."""
    palette, ids = reading.palette, sample.evidence.ids
    if not ids:
        return reading
    if sorted(ids) == [0, 255] and not palette.source_ids and palette.ignore_id == 255:
        own = two_classes()
        if palette.num_classes == 2:
            own = replace(palette, source_ids=((0, 0), (255, 1)))
        text = (
            "the sampled labels contain only 0 and 255: masks whose foreground is 255, which palette "
            f"{palette.name} ignores; only class 0 would be left, with an mIoU near 1"
        )
        return _with_palette(
            reading, own, _finding("masks-0-255", REJECT, sample, (255,), text, 'read 255 as class 1 ("source_ids")')
        )
    if counted := one_based(ids, palette):
        void = ", and 0, which occurs only along outlines, is ignored" if 0 in ids else ""
        text = (
            f"the labels seem to count the {palette.num_classes} classes from 1: the sampled ids are "
            f"{ranges(sorted(ids))}{void}. Read as they are, every class would be learnt under the name of the next"
        )
        cure = 'count from 1 ("source_ids")'
        return _with_palette(
            reading, counted, _finding("ids-from-1", WRONG, sample, (palette.num_classes,), text, cure)
        )
    table, mark = id_table(palette), unknown_mark(palette)
    unknown = [value for value in sorted(ids) if table[value] == mark]
    if not unknown:
        return _with_doubt(reading, ids)
    own = ignoring_ids(palette, unknown)
    pixels = sum(ids[value].pixels for value in unknown)
    of_values = propose(sample.evidence)
    is_left_alone = len({int(table[value]) for value in ids.keys() - unknown} - {palette.ignore_id}) < 2
    if is_left_alone and of_values and of_values.num_classes > 1 and not any(ids[v].is_outline for v in unknown):
        text = (
            f"the sampled labels hold ids {ranges(unknown)}, which palette {palette.name} does not know: {pixels:,} "
            "pixels, without which there is nothing to learn"
        )
        change = "what the labels hold as classes, named by their values; put the real names there"
        return _with_palette(reading, of_values, _finding("ids-out-of-range", REJECT, sample, unknown, text, change))
    if len(unknown) == 1:
        kind, what = "void-value", f"id {unknown[0]}, which palette {palette.name} does not know"
        rim = " and occurs only along outlines" if ids[unknown[0]].is_outline else ""
        text = f"the sampled labels hold {what}{rim}: {pixels:,} pixels. It is probably meant to be ignored"
        if unknown[0] == palette.num_classes and 0 in ids and not rim and not palette.source_ids:
            text += "; but if 0 is meant to be ignored, the ids count from 1, and every class is read as the next"
            cure = f"ignore it; --palette {COUNTED} in its place counts from 1 and ignores 0"
            reading = replace(reading, counted=from_one(palette, unknown[0]))
            return _with_palette(reading, own, _finding(kind, REJECT, sample, unknown, text, cure))
    else:
        kind, what = "ids-out-of-range", f"ids {ranges(unknown)}"
        text = f"the sampled labels hold {what}, which palette {palette.name} does not know: {pixels:,} pixels"
    cure = f'ignore them ("source_ids"); if they are classes, name these in {OWN}'
    return _with_palette(reading, own, _finding(kind, REJECT, sample, unknown, text, cure))


def _with_doubt(reading: Reading, ids: dict[int, Use]) -> Reading:
    """The reading with an alternative palette, if ids that count from 1, with 0 ignored, would look the same."""
    palette = reading.palette
    first, last = palette.names[0], palette.num_classes
    if palette.source_ids or palette.ignore_id != last or sorted(ids) != [*range(last + 1)]:
        return reading
    if ids[0].is_outline or ids[last].is_outline:
        return reading
    doubt = (
        f"ids 0 to {last} are all there: 0 is read as {first}, and {last} is ignored. If 0 is meant to be ignored, "
        f"they count from 1, and --palette {COUNTED} reads them that way"
    )
    return replace(reading, reasons=(*reading.reasons, doubt), counted=from_one(palette, last))


def _finding(kind: str, grade: str, sample: _Sample, values: Sequence[int | Color], text: str, change: str) -> Finding:
    """A finding on values of the sample, whose cure is the proposed palette."""
    every = sample.examples(*values)
    cure = f"--palette {OWN}: {change}"
    return Finding(kind, grade, len(every), len(sample.labels), "sampled labels", text, cure, every[:SHOWN])


def _with_palette(reading: Reading, palette: Palette, finding: Finding) -> Reading:
    return replace(reading, palette=palette, flag=OWN, findings=(*reading.findings, finding))


def _with_known_colors(reading: Reading, sample: _Sample) -> Reading:
    """The reading with a palette that knows all colours that cover areas in three-channel labels."""
    palette, evidence = reading.palette, sample.evidence
    known, total = palette.known_colors(), sum(use.pixels for use in evidence.colors.values())
    unknown = {
        color: use
        for color, use in evidence.colors.items()
        if color not in known and use.solid and use.pixels >= MIN_SHARE * total
    }
    if not unknown or reading.coding == "ids":
        return reading
    if len(unknown) > MAX_CLASSES:
        return reading
    colors = sorted(unknown)
    share = sum(use.pixels for use in unknown.values()) / total
    text = (
        f"the sampled labels have areas of colours that palette {palette.name} does not know, {share:.1%} of their "
        f"pixels: {', '.join(map(str, colors[:6]))}{', ...' if len(colors) > 6 else ''}"
    )
    change = f'ignore them ("aliases"); if they are classes, name these in {OWN}'
    return _with_palette(
        reading,
        ignoring_colors(palette, colors),
        _finding("colors-out-of-palette", REJECT, sample, colors, text, change),
    )


def _with_coding(reading: Reading, sample: _Sample, read: Read) -> Reading:
    """The reading with the coding that prepare would use, or the likelier one if that would fail or misread labels."""
    evidence, palette = sample.evidence, reading.palette
    if reading.coding != "auto":
        return replace(reading, reasons=(*reading.reasons, f"labels are read by their {reading.coding}, as requested"))
    knows_colors = bool(evidence.mapped) and evidence.mapped.keys() <= palette.known_colors()
    if evidence.is_shuffled and not knows_colors and not is_grey(evidence.mapped):
        own = propose_colors(evidence.mapped)
        text = (
            "the palette images give one index different colours from label to label, as PNG optimisers do, and "
            f"palette {palette.name} does not know these colours: the indices, which would be read, mean nothing"
        )
        cure = f"--palette {OWN} --label-coding colors: their colours as classes; put the names of the classes there"
        finding = Finding(
            "shuffled-palettes",
            WRONG,
            evidence.labels,
            evidence.labels,
            "sampled labels",
            text,
            cure,
            sample.examples()[:SHOWN],
        )
        if own:
            reading = _with_palette(reading, own, finding)
            return replace(reading, coding="colors", coding_flag="colors")
        return replace(reading, findings=(*reading.findings, finding))
    paths = [label.path for label in sample.labels]
    try:
        coding, reason = settle_coding(paths, palette, "auto", read)
        return replace(reading, coding=coding, reasons=(*reading.reasons, *([reason] if reason else [])))
    except InputError as error:
        return _with_likelier_coding(reading, sample, str(error))


def _with_likelier_coding(reading: Reading, sample: _Sample, fault: str) -> Reading:
    """The reading with the coding that the evidence supports, for labels that can be read in two ways."""
    evidence, palette = sample.evidence, reading.palette
    knows_colors = evidence.mapped.keys() <= palette.known_colors()
    why = "their colour maps differ from label to label" if evidence.is_shuffled else "the palette knows their colours"
    coding = "colors"
    if not knows_colors and is_grey(evidence.mapped):
        greys = [color for color in sorted(evidence.mapped) if color not in palette.known_colors()]
        means = {color: int(id_table(palette)[color[0]]) for color in greys}
        if evidence.is_shuffled and unknown_mark(palette) not in means.values():
            palette = replace(palette, aliases=(*palette.aliases, *means.items()))
            reading = replace(reading, palette=palette, flag=OWN)
            why = 'their maps of greys differ from label to label, so that the greys are the ids (under "aliases")'
        else:
            coding, why = "ids", "all of them have one map of greys"
    elif not knows_colors:
        by_color = sum(label.is_mapped and label.colors <= palette.known_colors() for label in sample.labels)
        maps = sum(label.is_mapped for label in sample.labels)
        coding = "colors" if 2 * by_color >= maps else "ids"
        why = f"the palette knows the colours of {by_color} of {maps} sampled palette images"
    flags = f"--palette {OWN} --label-coding {coding}" if reading.flag == OWN else f"--label-coding {coding}"
    finding = Finding(
        "two-readings",
        REJECT,
        sum(label.is_mapped for label in sample.labels),
        len(sample.labels),
        "sampled labels",
        fault,
        f"{flags}: {why}",
        sample.examples()[:SHOWN],
    )
    return replace(
        reading,
        coding=coding,
        coding_flag=coding,
        reasons=(*reading.reasons, f"labels are read by their {coding}: {why}"),
        findings=(*reading.findings, finding),
    )
