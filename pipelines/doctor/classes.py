"""Determines the palette and coding with which to read a set's labels: those that `deeplab prepare` would use or, if
these fail or would misread the labels, those for which a sample of the labels gives evidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pipelines.doctor.corrections import (
    of_masks,
    with_coding,
    with_grey_ids,
    with_known_colors,
    with_known_ids,
)
from pipelines.doctor.proposals import (
    MASK_CLASSES,
    MAX_ALIASES,
    are_codes,
    are_masks,
    ignoring_colors,
    is_grey,
    is_mixed,
    is_of_colors,
    propose,
    without_zero,
)
from pipelines.doctor.reading import COUNTED, OWN, LabelValues, Reading, Sample, are_numbers
from pipelines.doctor.verdict import REJECT, SHOWN, WRONG, Example, Finding
from pipelines.inputs.coding import NoPalette, Unlisted, classes_among, detect_palette
from pipelines.inputs.evidence import Use, by_greys, by_numbers, gather, one_based
from pipelines.inputs.rawset import RawSet
from pipelines.inputs.sampling import Read, sampled
from trainer.formats.label_images import Label
from trainer.formats.labels import MOST_CLASSES, Color, Palette, ranges
from trainer.formats.palettes import CAMVID, READ_BY_COLOR

BLACK_AND_WHITE = (
    '{"classes": [{"name": "background", "color": [0, 0, 0]}, {"name": "foreground", "color": [255, 255, 255]}]}'
)


def settle(raw: RawSet, palette: str, coding: str, read: Read) -> Reading:
    """Decides from a sample how to read the labels of a raw set.

    Args:
      raw: the set.
      palette, coding: the flags --palette and --label-coding.
      read: `read_label`, or a function that does the same in another process.

    Raises:
      InputError: --palette names no palette.
    """
    places = {pair.label: number for number, pair in enumerate(raw.pairs)}
    label_values: list[LabelValues] = []

    def labels() -> Iterator[Label]:
        for path, label in sampled([pair.label for pair in raw.pairs], read):
            label_values.append(LabelValues.of(path, places[path], label))
            yield label

    evidence = gather(labels())
    sample = Sample(tuple(label_values), by_numbers(evidence) if coding == "ids" else evidence)
    reading = _initial(raw, palette, sample, read)
    reading = replace(reading, coding=coding, coding_flag="" if coding == "auto" else coding)
    if reading.palette is not None and label_values:
        if coding != "auto":
            reading = replace(reading, reasons=(*reading.reasons, f"labels are read by their {coding}, as requested"))
        reading, sample = with_grey_ids(reading, sample)
        is_of_ids = coding == "auto" and not evidence.is_shuffled and are_numbers(evidence.meanings, reading.palette)
        by_ids = replace(sample, evidence=by_numbers(sample.evidence)) if is_of_ids else sample
        reading = with_known_ids(reading, by_ids)
        reading = with_known_colors(reading, sample)
        reading = with_coding(reading, sample, read)
    return replace(reading, evidence=sample.evidence)


def _initial(raw: RawSet, flag: str, sample: Sample, read: Read) -> Reading:
    """The reading with the palette that prepare would use; otherwise with one made from the values in the sample."""
    try:
        palette, reason, is_listed = detect_palette(raw, flag, read)
        # prepare finds the list of classes as well, but not beside a manifest, and the names may be improved.
        return Reading(palette, flag=OWN if is_listed else "" if flag == "auto" else flag, reasons=(reason,))
    except Unlisted as error:  # what the list does not know is found later, and ignored
        return Reading(error.palette, flag=OWN, reasons=(error.reason,))
    except NoPalette as error:
        seen = error.seen
    evidence = sample.evidence
    if not evidence.labels:
        cure = (
            "--palette FILE, with the colours that the labels had before they were blurred, as of black and "
            f"white masks, {BLACK_AND_WHITE}, and --mend"
        )
        return Reading(None, findings=(_unknown_palette(seen, cure, sample),))
    values = {color: use for color, use in {**evidence.colors, **evidence.mapped}.items() if use.solid}
    fits = [palette for palette in READ_BY_COLOR if values and _known_share(values, palette) > 0.99]
    if len(fits) == 1 and not evidence.ids and len(classes_among(values, fits[0])) > 1:
        name = fits[0].name
        reason = f"palette {name}: it knows the colours of 99 % of the sampled pixels that lie within an area"
        return Reading(fits[0], flag=name, reasons=(reason,))
    if raw.layout == "camvid" and evidence.ids and not values and one_based(evidence.ids, CAMVID):
        return Reading(CAMVID, flag=CAMVID.name, reasons=("palette camvid: the sampled ids are its own, from 1",))
    return _made(sample, seen)


def _made(sample: Sample, seen: str) -> Reading:
    """The reading with a palette made from the values in the sample; `seen` says what prepare found in the labels."""
    evidence = sample.evidence
    if evidence.ids and evidence.colors and not evidence.mapped and is_grey(evidence.colors):
        evidence = by_greys(evidence)
    palette = propose(evidence)
    if palette is None:
        cure = "give --palette"
        if are_codes(evidence):
            cure = (
                "write labels of class ids: so many colours number objects, as in COCO's panoptic PNGs and the full "
                "ADE20K; docs/sets.md shows how"
            )
        elif len({**evidence.indices, **evidence.ids}) > MOST_CLASSES:
            cure = (
                f"write labels of class ids, if these number objects; if they are classes, of which there can be at "
                f'most {MOST_CLASSES}, give --palette a JSON file whose "source_ids" join or ignore some'
            )
        return Reading(None, findings=(_unknown_palette(seen, cure, sample),))
    named = "named by their values; put the real names there"
    if palette.names == MASK_CLASSES:
        named = "black as background and white as foreground"
        named += ", and the greys between, where the labels were smoothed, are ignored" if palette.aliases else ""
    cure = f"--palette {OWN}, which is made of the sampled labels: {palette.num_classes} classes, {named}"
    if counted := without_zero(palette, evidence):
        cure += (
            f". If 0 means that a pixel is of no class, as in ADE20K, take {COUNTED} in its place, which ignores it"
        )
    reason = f"palette of {palette.num_classes} classes, made of what the sampled labels hold"
    if (0, 255) in palette.source_ids:
        reason += ", in which 0 is ignored, since it occurs only along outlines"
    ids = {**evidence.indices, **evidence.ids}
    if ids and (255, 1) in palette.source_ids and are_masks(ids):
        finding = of_masks(sample, ids, "and no palette reads them that way")
        return Reading(palette, flag=OWN, reasons=(reason,), findings=(finding,))
    findings = (_unknown_palette(seen, cure, sample),)
    if is_mixed(palette, evidence):
        findings += (_mixed(sample),)
    return Reading(palette, flag=OWN, reasons=(reason,), findings=findings, counted=counted)


def _known_share(values: dict[Color, Use], palette: Palette) -> float:
    """The share of the solid pixels whose colours `palette` knows."""
    known = palette.known_colors()
    return sum(use.solid for color, use in values.items() if color in known) / sum(
        use.solid for use in values.values()
    )


def _mixed(sample: Sample) -> Finding:
    """The finding that some labels hold ids and others colours."""
    text = (
        f"some labels hold ids {ranges(sorted(sample.evidence.ids))} and others colours, and nothing tells which id "
        f"is which colour: the ids are read as the classes of {OWN} in their order"
    )
    cure = f"put the classes in {OWN} into the order of the ids, from 0; or export all labels in one coding"
    every = [
        Example(label.number, label.path, label.describe())
        for label in sample.labels
        if label.ids and not label.is_mapped
    ]
    unit = "sampled labels"
    return Finding(
        "mixed-codings",
        WRONG,
        count=len(every),
        of=len(sample.labels),
        unit=unit,
        text=text,
        cure=cure,
        examples=tuple(every[:SHOWN]),
    )


def _unknown_palette(seen: str, cure: str, sample: Sample) -> Finding:
    text = f"no palette is known by which the labels can be read: {seen}"
    return Finding(
        "palette",
        REJECT,
        count=sample.evidence.labels,
        of=0,
        unit="sampled labels",
        text=text,
        cure=cure,
        examples=sample.examples()[:SHOWN],
    )


def ignores_all(reading: Reading) -> bool:
    """Whether the sampled labels mean classes by colours, none of which is that of a class of the palette."""
    colors = {**reading.evidence.colors, **reading.evidence.mapped}
    return is_of_colors(reading.evidence) and not classes_among(colors, reading.palette)


def of_values_alone(reading: Reading) -> Reading | None:
    """The reading with a palette of all values in the sample; None if that would have fewer than two classes.

    Colours that are no classes, such as those of outlines, are ignored, as where no palette is given.
    """
    palette = propose(reading.evidence)
    if palette is None or palette.num_classes < 2:
        return None
    if is_of_colors(reading.evidence):
        rest = sorted({*reading.evidence.colors, *reading.evidence.mapped} - palette.known_colors())
        palette = ignoring_colors(palette, rest) if len(rest) < MAX_ALIASES else palette
    is_mapped = bool(reading.evidence.mapped) and not is_grey(reading.evidence.mapped)
    coding = "colors" if is_mapped else reading.coding_flag
    return replace(reading, palette=palette, flag=OWN, coding=coding or reading.coding, coding_flag=coding)
