"""Corrects a reading that would fail or misread the labels, as far as the sample of them gives evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines.doctor.proposals import (
    MAX_CLASSES,
    MIN_SHARE,
    are_masks,
    blends_of,
    ignoring_colors,
    ignoring_ids,
    is_grey,
    propose,
    propose_colors,
    two_classes,
)
from pipelines.doctor.reading import COUNTED, OWN, Reading, Sample, are_grey_ids
from pipelines.doctor.verdict import REJECT, SHOWN, WRONG, Finding
from pipelines.inputs.coding import settle_coding
from pipelines.inputs.evidence import Evidence, Use, by_greys, from_one, one_based
from pipelines.inputs.sampling import Read
from trainer.accounts import counted, percent
from trainer.formats import codings
from trainer.formats.labels import Color, Palette, id_table, ranges, unknown_mark
from trainer.options import InputError
from trainer.terminal import some


def with_grey_ids(reading: Reading, sample: Sample) -> tuple[Reading, Sample]:
    """The reading by ids, and the sample with ids, of three-channel labels whose greys are ids."""
    colors = sample.evidence.colors
    if reading.coding != "auto" or sample.evidence.mapped or not are_grey_ids(colors.keys(), reading.palette):
        return reading, sample
    text = (
        f"labels have three channels of the same ids: palette {reading.palette.name} does not know these greys as "
        "colours, but their values as ids"
    )
    finding = finding_on("colors-out-of-palette", REJECT, sample, sorted(colors), text, "")
    finding = replace(finding, cure="--label-coding ids")
    reading = replace(reading, coding="ids", coding_flag="ids", findings=(*reading.findings, finding))
    labels = (
        replace(one, ids=one.ids | {color[0] for color in one.colors}, colors=frozenset()) for one in sample.labels
    )
    return reading, Sample(tuple(labels), by_greys(sample.evidence))


def with_known_ids(reading: Reading, sample: Sample) -> Reading:
    """The reading with a palette that knows all ids of labels without colours."""
    palette, ids = reading.palette, sample.evidence.ids
    if not ids:
        return reading
    if reading.coding != "ids" and not sample.evidence.mapped and codings.are_greys(sorted(ids), palette):
        return reading  # they are read as colours
    if are_masks(ids) and not palette.source_ids and palette.ignore_id == 255:
        return _with_foreground(reading, sample)
    if counted := one_based(ids, palette):
        return _from_1(reading, sample, counted)
    table, mark = id_table(palette), unknown_mark(palette)
    unknown = [value for value in sorted(ids) if table[value] == mark]
    return _without(unknown, reading, sample) if unknown else _with_doubt(reading, ids)


def _with_foreground(reading: Reading, sample: Sample) -> Reading:
    """The reading with a palette that reads 0 and 255 as two classes."""
    palette, ids = reading.palette, sample.evidence.ids
    own = two_classes(blends_of(ids))
    if palette.num_classes == 2:
        own = replace(palette, source_ids=own.source_ids)
    why = f"which palette {palette.name} ignores; only class 0 would be left, with an mIoU near 1"
    return _with_palette(reading, own, of_masks(sample, ids, why))


def of_masks(sample: Sample, ids: dict[int, Use], why: str) -> Finding:
    """The finding that labels are masks of 0 and 255, with or without blends; `why` no palette reads them."""
    text, change = "the sampled labels contain only 0 and 255", 'read 255 as class 1 ("source_ids")'
    if blends_of(ids):
        text += ", and blends of the two along their boundaries, as where they were smoothed or scaled like images"
        change += ", and ignore what is between"
    text += f": masks whose foreground is 255, {why}"
    return finding_on("masks-0-255", REJECT, sample, (255,), text, change)


def _from_1(reading: Reading, sample: Sample, counted: Palette) -> Reading:
    """The reading with the palette `counted`, which counts the classes from 1."""
    palette, ids = reading.palette, sample.evidence.ids
    void = ", and 0, which occurs only along outlines, is ignored" if 0 in ids else ""
    text = (
        f"the labels seem to count the {palette.num_classes} classes from 1: the sampled ids are "
        f"{ranges(sorted(ids))}{void}. Read as they are, every class would be learnt under the name of the next"
    )
    cure = 'count from 1 ("source_ids")'
    finding = finding_on("ids-from-1", WRONG, sample, (palette.num_classes,), text, cure)
    return _with_palette(reading, counted, finding)


def _without(unknown: list[int], reading: Reading, sample: Sample) -> Reading:
    """The reading with a palette that ignores ids, or has what the labels hold as classes if little would be left."""
    palette, ids, table = reading.palette, sample.evidence.ids, id_table(reading.palette)
    own = ignoring_ids(palette, unknown)
    count = counted(sum(ids[value].pixels for value in unknown), "pixel")
    of_values = propose(sample.evidence)
    is_left_alone = len({int(table[value]) for value in ids.keys() - unknown} - {palette.ignore_id}) < 2
    if is_left_alone and of_values and of_values.num_classes > 1 and not any(ids[v].is_outline for v in unknown):
        text = (
            f"the sampled labels hold ids {ranges(unknown)}, which palette {palette.name} does not know: {count}, "
            "without which there is nothing to learn"
        )
        change = "what the labels hold as classes, named by their values; put the real names there"
        return _with_palette(reading, of_values, finding_on("ids-out-of-range", REJECT, sample, unknown, text, change))
    if len(unknown) == 1:
        kind, what = "void-value", f"id {unknown[0]}, which palette {palette.name} does not know"
        rim = " and occurs only along outlines" if ids[unknown[0]].is_outline else ""
        text = f"the sampled labels hold {what}{rim}: {count}. It is probably meant to be ignored"
        if unknown[0] == palette.num_classes and 0 in ids and not rim and not palette.source_ids:
            text += "; but if 0 is meant to be ignored, the ids count from 1, and every class is read as the next"
            cure = f"ignore it; --palette {COUNTED} in its place counts from 1 and ignores 0"
            reading = replace(reading, counted=from_one(palette, unknown[0]))
            return _with_palette(reading, own, finding_on(kind, REJECT, sample, unknown, text, cure))
    else:
        kind, what = "ids-out-of-range", f"ids {ranges(unknown)}"
        text = f"the sampled labels hold {what}, which palette {palette.name} does not know: {count}"
    cure = f'ignore them ("source_ids"); if they are classes, name these in {OWN}'
    return _with_palette(reading, own, finding_on(kind, REJECT, sample, unknown, text, cure))


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


def finding_on(
    kind: str, grade: str, sample: Sample, values: Sequence[int | Color], text: str, change: str
) -> Finding:
    """A finding on values of the sample, whose cure is the proposed palette."""
    every = sample.examples(*values)
    cure = f"--palette {OWN}: {change}"
    return Finding(
        kind,
        grade,
        count=len(every),
        of=len(sample.labels),
        unit="sampled labels",
        text=text,
        cure=cure,
        examples=every[:SHOWN],
    )


def _with_palette(reading: Reading, palette: Palette, finding: Finding) -> Reading:
    return replace(reading, palette=palette, flag=OWN, findings=(*reading.findings, finding))


def with_known_colors(reading: Reading, sample: Sample) -> Reading:
    """The reading with a palette that knows all colours that cover areas in labels which mean classes by colours."""
    palette, colors = reading.palette, dict(sample.evidence.colors)
    if _knows_most(palette, sample.evidence):
        colors = {**sample.evidence.mapped, **colors}
    known, total = palette.known_colors(), sum(use.pixels for use in colors.values())
    unknown = {
        color: use
        for color, use in colors.items()
        if color not in known and use.solid and use.pixels >= MIN_SHARE * total
    }
    if not unknown or len(unknown) > MAX_CLASSES or reading.coding == "ids":
        return reading
    colors = sorted(unknown)
    share = sum(use.pixels for use in unknown.values()) / total
    text = (
        f"the sampled labels have areas of colours that palette {palette.name} does not know, {percent(share, 1)}% "
        f"of their pixels: {some(colors, 6)}"
    )
    change = f'ignore them ("aliases"); if they are classes, name these in {OWN}'
    return _with_palette(
        reading,
        ignoring_colors(palette, colors),
        finding_on("colors-out-of-palette", REJECT, sample, colors, text, change),
    )


def _knows_most(palette: Palette, evidence: Evidence) -> bool:
    """Whether colour maps differ from label to label, and the palette knows the colours of most of their pixels."""
    known, mapped = palette.known_colors(), evidence.mapped
    pixels = sum(use.pixels for color, use in mapped.items() if color in known)
    return evidence.is_shuffled and 2 * pixels > sum(use.pixels for use in mapped.values())


def with_coding(reading: Reading, sample: Sample, read: Read) -> Reading:
    """The reading with the coding that prepare would use, or the likelier one if that would fail or misread labels."""
    evidence, palette = sample.evidence, reading.palette
    if reading.coding != "auto":
        return reading
    if evidence.is_shuffled and not _knows_most(palette, evidence) and not is_grey(evidence.mapped):
        own = propose_colors(evidence.mapped)
        text = (
            "the palette images give one index different colours from label to label, as PNG optimisers do, and "
            f"palette {palette.name} does not know these colours: the indices, which would be read, mean nothing"
        )
        cure = f"--palette {OWN} --label-coding colors: their colours as classes; put the names of the classes there"
        finding = Finding(
            "shuffled-palettes",
            WRONG,
            count=evidence.labels,
            of=evidence.labels,
            unit="sampled labels",
            text=text,
            cure=cure,
            examples=sample.examples()[:SHOWN],
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


def _with_likelier_coding(reading: Reading, sample: Sample, fault: str) -> Reading:
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
        count=sum(label.is_mapped for label in sample.labels),
        of=len(sample.labels),
        unit="sampled labels",
        text=fault,
        cure=f"{flags}: {why}",
        examples=sample.examples()[:SHOWN],
    )
    return replace(
        reading,
        coding=coding,
        coding_flag=coding,
        reasons=(*reading.reasons, f"labels are read by their {coding}: {why}"),
        findings=(*reading.findings, finding),
    )
