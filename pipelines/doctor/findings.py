"""Turns the tally of a set into findings, and into a palette that cures findings on values that were unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipelines.doctor.classes import ignores_all, of_values_alone
from pipelines.doctor.plan import HEADERS, Plan
from pipelines.doctor.proposals import MAX_ALIASES, PROPOSED, ignoring_colors, ignoring_ids, with_foreground
from pipelines.doctor.reading import OWN, Reading
from pipelines.doctor.tally import DOUBTS, FAULTS, MAX_COLORS, DoctorTally, Seen
from pipelines.doctor.verdict import NOTE, REJECT, SHOWN, WRONG, Example, Finding
from pipelines.inputs.pairs import is_alone
from pipelines.inputs.tiling import LARGE, TILED
from trainer.accounts import Reject, counted, percent
from trainer.formats.labels import Palette, ranges
from trainer.terminal import some, some_and_more

MANIFEST = "manifest.jsonl"
"""The list of good pairs that this command writes into its output folder."""
NEW_LABELS = "draw or export the labels again: they hold nothing else, however they are read"
NEW_CLASSES = "--palette FILE that also has a class for the rest, such as background"
NEW_VAL = "label images of val, or list other images as val in a manifest with a column split"
BY_HAND = frozenset((NEW_CLASSES, NEW_VAL))
"""Cures that only the user can bring; without them `deeplab train` refuses what is prepared."""
MENDED = "--mend rewrites them"
LEFT_OUT = f"--input {MANIFEST} leaves them out"
MENDABLE = frozenset(("lossy-labels", "sizes", "exif", "unknown-colors", "blended-ids", "turned-labels"))
"""Kinds of faulty labels that `mend` may repair."""
TINY_SHARE, TINY_AREA = 1e-4, 64
"""A class is tiny below this share of all labelled pixels, or this mean area in the labels that contain it, in pixels:
8x8 pixels are 2x2 features at stride 4."""
_IMAGE_KINDS = ("damaged-images", "large-images", "deep-images", "other-colors")
_TEXTS = {
    "unreadable": ("files cannot be read", f"fix their permissions or links; {LEFT_OUT}"),
    "animations": (
        "files hold several images: animations, or pages",
        f"save the intended one as a separate file; {LEFT_OUT}",
    ),
    "lossy-labels": (
        "labels are in a lossy coding, which blurs class ids and colours along every boundary",
        f"export them again as PNG; {MENDED} where their colours show the class, and ignores the rest; {LEFT_OUT}",
    ),
    "deep-labels": (
        "labels have values that do not fit into 8 bits, as instance ids do",
        f"export class ids instead; {LEFT_OUT}",
    ),
    "transparent-labels": (
        "labels have transparent pixels, whose class is ambiguous",
        f"save them without transparency; {LEFT_OUT}",
    ),
    "damaged-images": ("images cannot be decoded", f"copy or export them again; {LEFT_OUT}"),
    "damaged-labels": ("labels cannot be decoded", f"copy or export them again; {LEFT_OUT}"),
    "sizes": (
        "labels differ in size from their images",
        f"export both at one size; {MENDED} if both have the same aspect ratio and the palette knows their "
        f"ids, by nearest neighbour, with unknown colours and blends ignored; {LEFT_OUT}",
    ),
    "exif": (
        "labels do not match their images once these are turned upright by their EXIF orientation",
        f"{MENDED}, turned like their images, if they have the size of the images as stored and the palette knows "
        f"their ids, with unknown colours and blends ignored; {LEFT_OUT}",
    ),
    "failed": ("pairs crashed the process that examined them, or raised an unexpected error", LEFT_OUT),
}


def of_scan(rejects: Sequence[Reject], pairs: int) -> Iterator[Finding]:
    """Findings on images and labels without a partner, and on those that form no pair for other reasons."""
    alone = [reject for reject in rejects if is_alone(reject)]
    others = [reject for reject in rejects if reject not in alone]
    for kind, text, cure, members in (
        ("pairing", "images or labels have no partner of the same name", "give each a partner of its name", alone),
        ("names", "files or entries of lists make no usable pair", "correct these entries, or the names", others),
    ):
        if members:
            reasons = Counter(reject.reason.partition(";")[0] for reject in members).most_common(2)
            text = f"{text}: {'; '.join(f'{reason} ({count})' for reason, count in reasons)}"
            examples = tuple(Example(-1, reject.path, reject.reason) for reject in members[:SHOWN])
            cure += f"; {LEFT_OUT}"
            files = 2 * pairs + len(rejects)
            yield Finding(
                kind, REJECT, count=len(members), of=files, unit="files", text=text, cure=cure, examples=examples
            )


def of_files(tally: DoctorTally) -> Iterator[Finding]:
    """Findings on files, and on labels compared with their images."""
    for kind, (text, cure) in _TEXTS.items():
        if seen := tally.kinds.get(kind):
            yield _finding(kind, REJECT, seen, tally.looked, text, cure)
    if seen := tally.kinds.get("two-readings"):
        text = "labels can be read in two ways, by their indices and by their colours, which differ"
        cure = f"--label-coding ids or --label-coding colors; {LEFT_OUT}"
        yield _finding("two-readings", REJECT, seen, tally.decoded, text, cure)
    for kind, text, cure in (
        (
            "large-images",
            f"images of {TILED} have over {LARGE**2 / 1e6:.1f} megapixels, and an epoch takes one crop of each",
            "--tile 1024 of prepare, which makes a record of every tile, or --max-side, which shrinks them",
        ),
        ("deep-images", "images have 16 bits a sample; prepare scales them to 8", "none is needed"),
        ("other-colors", "images are neither RGB nor grey; prepare turns them into RGB", "none is needed"),
    ):
        if seen := tally.kinds.get(kind):
            yield _finding(kind, NOTE, seen, tally.looked, text, cure)
    if seen := tally.kinds.get("blended-ids"):
        text = (
            "labels blend from one class into the next through the ids in between, as if they were scaled or smoothed "
            "like images; this draws outlines of classes that are not there"
        )
        cure = f"scale labels by nearest neighbour; {MENDED}, with such outlines ignored; {LEFT_OUT}"
        yield _finding("blended-ids", WRONG, seen, tally.decoded, text, cure)
    if seen := tally.kinds.get("turned-labels"):
        text = (
            "labels fit their images as stored, but prepare turns these upright by their EXIF orientation, after "
            "which the two no longer match"
        )
        cure = f"{MENDED}, turned like their images; {LEFT_OUT}"
        yield _finding("turned-labels", WRONG, seen, tally.decoded, text, cure)


def _finding(kind: str, grade: str, seen: Seen, of: int, text: str, cure: str) -> Finding:
    unit = "images" if kind in _IMAGE_KINDS else "labels" if kind not in ("unreadable", "failed") else "pairs"
    return Finding(
        kind, grade, count=seen.count, of=of, unit=unit, text=text, cure=cure, examples=seen.examples[:SHOWN]
    )


def of_values(tally: DoctorTally, plan: Plan, reading: Reading) -> tuple[Reading, list[Finding]]:
    """Findings on values that the palette does not know, and a reading with a palette that ignores them."""
    findings = []
    is_proposed = reading.palette is not None and reading.palette.name == PROPOSED and reading.flag == OWN
    unseen = sum(subject.effort == HEADERS for subject in plan.subjects)
    if is_proposed and unseen:
        text = (
            f"labels were not decoded. Classes that occur only in these are not in {OWN}, which is made from the "
            "sampled labels: prepare would reject labels with such classes"
        )
        cure = "--full finds classes that the sample lacks"
        findings.append(
            Finding("palette-of-sample", NOTE, count=unseen, of=tally.looked, unit="labels", text=text, cure=cure)
        )
    if seen := tally.kinds.get("unknown-ids"):
        reading, finding = _without_unknown_ids(tally, seen, reading)
        findings.append(finding)
    if seen := tally.kinds.get("masks-0-255"):
        reading, finding = _with_foreground(tally, seen, reading)
        findings.append(finding)
    if seen := tally.kinds.get("unknown-colors"):
        reading, finding = _without_unknown_colors(tally, seen, reading, is_proposed)
        findings.append(finding)
    return reading, findings


def _without_unknown_ids(tally: DoctorTally, seen: Seen, reading: Reading) -> tuple[Reading, Finding]:
    unknown = sorted(tally.unknown_ids)
    pixels = counted(sum(tally.unknown_ids.values()), "pixel")
    text = f"labels hold ids {ranges(unknown)}, which the palette does not know: {pixels}"
    cure = f'--palette {OWN}: ignore them ("source_ids"); if they are classes, name them there'
    kind = "void-value" if len(unknown) == 1 else "ids-out-of-range"
    finding = _finding(kind, REJECT, seen, tally.decoded, text, cure)
    return replace(reading, palette=ignoring_ids(reading.palette, unknown), flag=OWN), finding


def _with_foreground(tally: DoctorTally, seen: Seen, reading: Reading) -> tuple[Reading, Finding]:
    text = (
        "labels contain only 0 and 255 beside labels of other ids, as masks do whose foreground is 255, which "
        f"palette {reading.palette.name} ignores"
    )
    cure = (
        "write class ids into them. If 255 is the foreground in all labels, give --palette a JSON file of two "
        f'classes with "source_ids": {{"0": 0, "1": 1, "255": 1}}; {LEFT_OUT}'
    )
    if _is_foreground(tally, reading.palette):
        text += ", and no label has other pixels of 255"
        cure = f'--palette {OWN}: read 255 as class 1 ("source_ids")'
        reading = replace(reading, palette=with_foreground(reading.palette), flag=OWN)
    return reading, _finding("masks-0-255", REJECT, seen, tally.decoded, text, cure)


def _without_unknown_colors(
    tally: DoctorTally, seen: Seen, reading: Reading, is_proposed: bool
) -> tuple[Reading, Finding]:
    colors = sorted(tally.unknown_colors)
    more = " or more" if len(colors) >= MAX_COLORS else ""
    text = f"labels hold {len(colors):,}{more} colour{'s' * (len(colors) != 1)} that the palette does not know, "
    text += counted(tally.unknown_color_pixels, "pixel")
    areas = sorted(tally.area_colors, key=lambda color: -tally.area_colors[color])
    if areas:
        text += f", of which {some(areas, 6)} cover{'s' * (len(areas) == 1)} areas, as a class that it lacks does"
    else:
        text += ", as where they were smoothed (anti-aliased) or scaled like images"
    cure = f"export them without smoothing; {MENDED}, with mixed colours ignored; {LEFT_OUT}"
    if len(colors) < MAX_ALIASES:
        cure = f'--palette {OWN}: ignore these colours ("aliases")'
        cure += "" if areas else "; or export the labels without smoothing"
        cure += '; if they are classes, name them there ("classes")' if is_proposed or areas else ""
        reading = replace(reading, palette=ignoring_colors(reading.palette, colors), flag=OWN)
    kind = "colors-out-of-palette" if areas else "anti-aliased"
    return reading, _finding(kind, REJECT, seen, tally.decoded, text, cure)


def _is_foreground(tally: DoctorTally, palette: Palette) -> bool:
    """Whether 255, which is all that some masks hold beside 0, is ignored nowhere, as far as every label tells."""
    is_ignored = any(pixels[palette.ignore_id] for pixels in tally.pixels.values())
    return palette.num_classes == 2 and tally.decoded == tally.looked and not is_ignored


def is_cured(kind: str, tally: DoctorTally, palette: Palette | None) -> bool:
    """Whether the palette from `of_values` can read labels with this fault."""
    if kind == "masks-0-255":
        return (255, 1) in palette.source_ids
    return kind == "unknown-ids" or (kind == "unknown-colors" and len(tally.unknown_colors) < MAX_ALIASES)


def of_nothing(tally: DoctorTally, plan: Plan, reading: Reading) -> tuple[Reading, list[Finding]]:
    """The finding that there is nothing to learn; and, if the labels hold more values, a reading with all of them."""
    palette = reading.palette
    if "masks-0-255" in tally.kinds and is_cured("masks-0-255", tally, palette):  # their foreground is to be learnt
        return reading, []
    used = np.flatnonzero(sum(class_pixels(tally, palette).values(), np.zeros(palette.num_classes, np.int64)))
    ignored = sum(int(pixels[palette.ignore_id]) for pixels in tally.pixels.values())
    cure = NEW_LABELS
    if len(used) == 1 and palette.num_classes > 1:
        kind, text = "one-class-set", f"every pixel that is not ignored is of one class, {palette.names[used[0]]}"
    elif len(used) == 1:
        kind, text, cure = "one-class-set", f"the palette has one class, {palette.names[0]}", NEW_CLASSES
    elif not len(used) and ignored:
        kind, text = "all-ignored-set", f"every pixel of all labels is ignored (id {palette.ignore_id})"
    elif not len(used) and "unknown-colors" in tally.kinds and ignores_all(reading):
        kind, text = "all-ignored-set", f"no colour of the sampled labels is of a class of palette {palette.name}"
    else:
        return reading, []
    if other := of_values_alone(reading):
        reading = other
        cure = f"--palette {OWN}: takes every value in the sampled labels as a class; put the names there"
    text = f"{text}: there is nothing to learn"
    return reading, [
        Finding(
            kind,
            WRONG,
            count=tally.decoded,
            of=tally.decoded,
            unit="labels",
            text=text,
            cure=cure,
            examples=_any(plan),
        )
    ]


def class_pixels(tally: DoctorTally, palette: Palette) -> dict[str, np.ndarray]:
    """Pixels of every class, by split."""
    return {split: pixels[: palette.num_classes] for split, pixels in sorted(tally.pixels.items())}


def of_classes(tally: DoctorTally, plan: Plan, palette: Palette) -> Iterator[Finding]:
    """Findings on single classes."""
    counts = class_pixels(tally, palette)
    whole = sum(counts.values(), np.zeros(palette.num_classes, np.int64))
    if seen := tally.kinds.get("one-class"):
        text = f"labels hold a single class: {seen.examples[0].detail}. That is right if it is background"
        yield _finding("one-class", NOTE, seen, tally.decoded, text, "look at a few of them")
    if seen := tally.kinds.get("all-ignored"):
        yield _finding("all-ignored", NOTE, seen, tally.decoded, "labels are entirely ignored", "none is needed")
    if np.count_nonzero(whole) > 1:
        yield from _absent(tally, plan, palette, counts)
        yield from _tiny(tally, palette, whole)


def _any(plan: Plan) -> tuple[Example, ...]:
    decoded = [subject for subject in plan.subjects if subject.effort][:SHOWN]
    return tuple(Example(subject.number, subject.label, "") for subject in decoded)


def _absent(tally: DoctorTally, plan: Plan, palette: Palette, counts: dict[str, np.ndarray]) -> Iterator[Finding]:
    whole = sum(counts.values())
    sample = "" if tally.decoded == tally.looked else " decoded"
    nowhere = [palette.names[index] for index in np.flatnonzero(whole == 0)]
    if nowhere:
        text = f"classes have no pixel in the{sample} labels: {_named(nowhere)}"
        cure = "none is needed if the set lacks them; otherwise check the palette"
        yield Finding(
            "absent-classes",
            NOTE,
            count=len(nowhere),
            of=palette.num_classes,
            unit="classes",
            text=text,
            cure=cure,
            examples=_any(plan),
        )
    for split, pixels in counts.items():
        missing = np.flatnonzero((pixels == 0) & (whole > 0))
        if not len(missing):
            continue
        names = [palette.names[index] for index in missing]
        is_wrong = split == "train" and not sample
        text = f"classes are in other splits, but have no pixel in the{sample} labels of split {split}: "
        text += f"{_named(names)}. " + ("They cannot be learnt" if split == "train" else "They cannot be scored")
        cure = "none is needed to train; a manifest with a column split redistributes the images"
        if is_wrong:
            cure = (
                "more training images that hold them: at most half of those in other splits, none in test, are moved"
            )
            if resplit(tally, plan, palette, ()):
                cure = f"--input {MANIFEST}, whose column split has some of the images that hold them in train"
        if split == "val" and not sample and not pixels.any() and tally.pixels[split][palette.ignore_id]:
            is_wrong, cure = True, NEW_VAL
            text += ": every pixel there is ignored, and `deeplab train` refuses records without a score"
        examples = _with_classes(tally, missing, palette)
        grade = WRONG if is_wrong else NOTE
        yield Finding(
            "absent-from-split",
            grade,
            count=len(names),
            of=palette.num_classes,
            unit="classes",
            text=text,
            cure=cure,
            examples=examples,
        )


def resplit(tally: DoctorTally, plan: Plan, palette: Palette, left_out: Collection[int]) -> dict[int, str]:
    """Number of a pair -> its new split: moves half of the pairs with classes that the training lacks to "train".

    None is taken from "test", on which models of others are compared, and at most half of any other split.

    Args:
      left_out: pairs that are not prepared.
    """
    counts = class_pixels(tally, palette)
    if "train" not in counts or tally.decoded < tally.looked:
        return {}
    sizes = Counter(subject.split for subject in plan.subjects)
    spare = {split: 0 if split == "test" else size // 2 for split, size in sizes.items()}
    moved: dict[int, str] = {}
    for index in np.flatnonzero((counts["train"] == 0) & (sum(counts.values()) > 0)).tolist():
        holders = [one.number for one in tally.seen(f"class {index}").examples if one.number not in left_out]
        wanted = max(1, len(holders) // 2) if moved.keys().isdisjoint(holders) else 0
        for number in holders:
            split = plan.subjects[number].split
            if wanted and spare[split]:
                moved[number] = "train"
                spare[split] -= 1
                wanted -= 1
    return moved


def _with_classes(tally: DoctorTally, classes: np.ndarray, palette: Palette) -> tuple[Example, ...]:
    """Examples of pairs whose labels contain one of these classes."""
    held = {}
    for index in classes.tolist():
        if seen := tally.kinds.get(f"class {index}"):
            held.setdefault(seen.examples[0][:2], []).append(palette.names[index])
    return tuple(Example(*of, f"holds {_named(names)}") for of, names in sorted(held.items())[:SHOWN])


def _tiny(tally: DoctorTally, palette: Palette, whole: np.ndarray) -> Iterator[Finding]:
    labels = sum(counts[: palette.num_classes] for counts in tally.labels.values())
    total = int(whole.sum())
    area = whole / np.maximum(labels, 1)
    tiny = np.flatnonzero((whole > 0) & ((whole < TINY_SHARE * total) | (area < TINY_AREA)))
    if len(tiny):
        facts = [(percent(whole[i] / total, 3), counted(round(area[i]), "pixel")) for i in tiny]
        parts = [
            f"{palette.names[i]} ({share} %, {size} a label)" for i, (share, size) in zip(tiny, facts, strict=True)
        ]
        text = f"classes are tiny, and will hardly be learnt: {_named(parts)}"
        cure = "larger images (no --max-side), more of them, or a palette that joins such classes"
        examples = _with_classes(tally, tiny, palette)
        yield Finding(
            "tiny-classes",
            NOTE,
            count=len(tiny),
            of=palette.num_classes,
            unit="classes",
            text=text,
            cure=cure,
            examples=examples,
        )


def _named(names: Sequence[str]) -> str:
    return some_and_more(names, 8)


def doubtful(tally: DoctorTally) -> dict[int, str]:
    """Number of a pair -> the kind of its fault or doubt."""
    prints = tally.prints
    kinds = {}
    for row in prints[(prints["fault"] > 0) | (prints["doubt"] > 0)]:
        kinds[int(row["number"])] = FAULTS[row["fault"] - 1] if row["fault"] else DOUBTS[row["doubt"] - 1]
    return kinds
