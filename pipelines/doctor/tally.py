"""Observations on the pairs: counts, a few examples of each kind, and 35 bytes per pair for finding copies."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.doctor.verdict import Example
from pipelines.runner import handover
from trainer.formats.labels import Color

EXAMPLES = 6
"""Examples kept of each kind: those with the lowest numbers, regardless of the order in which pairs are examined."""
MAX_COLORS = 1024
"""Number of unknown colours kept: those with the most pixels."""
REACH = 8
"""Maximum offset between label and image that can be detected, in pixels."""
FAULTS = (
    *("unreadable", "animations", "lossy-labels", "deep-labels", "transparent-labels", "damaged-images"),
    *("damaged-labels", "sizes", "exif", "unknown-ids", "masks-0-255", "unknown-colors"),
    *("two-readings", "failed"),
)
"""Kinds of faults that prepare would reject, see `look`."""
DOUBTS = ("blended-ids", "turned-labels")
"""Kinds of labels that prepare would accept although they are probably wrong."""
PRINT = np.dtype(
    [
        *(("number", "<i8"), ("image", "<u8"), ("label", "<u8"), ("hash", "<u8"), ("is_hashed", "?")),
        *(("fault", "u1"), ("doubt", "u1")),
    ]
)
"""Kept for every pair: digests of both files (0: not read), a perceptual hash of the image if it was decoded, and the
positions of its fault and doubt in FAULTS and DOUBTS, from 1 (0: none)."""


@dataclass(frozen=True)
class Seen:
    """The number of times something was observed, and examples of it."""

    count: int
    examples: tuple[Example, ...]

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.count + other.count, tuple(sorted(self.examples + other.examples)[:EXAMPLES]))


@dataclass(frozen=True)
class Alignment:
    """The match of labels' boundaries with their images, summed over some pairs.

    Attributes:
      score: float64 [2 REACH + 1, 2 REACH + 1], sums of the fit of labels shifted by (y, x) - REACH pixels.
      votes: int64 of the same shape: number of labels that fit best at each shift.
    """

    score: np.ndarray = field(default_factory=lambda: np.zeros((2 * REACH + 1,) * 2))
    votes: np.ndarray = field(default_factory=lambda: np.zeros((2 * REACH + 1,) * 2, np.int64))

    def __add__(self, other: Alignment) -> Alignment:
        return Alignment(self.score + other.score, self.votes + other.votes)


@dataclass(frozen=True)
class DoctorTally:
    """The observations on some of the pairs. Tallies of parts are added up.

    Attributes:
      looked, decoded: number of pairs of which the headers, and all pixels, were read.
      kinds: observations by kind, see `look`.
      pixels, labels: split -> int64 [256]: pixels of every class id, and labels that contain it.
      unknown_ids, unknown_colors: values that the palette does not know -> pixels; of colours only MAX_COLORS.
      area_colors: those of the unknown colours that cover areas -> pixels of these labels; only MAX_COLORS.
      unknown_color_pixels: number of pixels of all unknown colours, kept or not.
      alignment: the alignment of labels on images.
      parts: arrays of PRINT.
    """

    looked: int = 0
    decoded: int = 0
    kinds: Mapping[str, Seen] = field(default_factory=dict)
    pixels: Mapping[str, np.ndarray] = field(default_factory=dict)
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    unknown_ids: Mapping[int, int] = field(default_factory=dict)
    unknown_colors: Mapping[Color, int] = field(default_factory=dict)
    area_colors: Mapping[Color, int] = field(default_factory=dict)
    unknown_color_pixels: int = 0
    alignment: Alignment = field(default_factory=Alignment)
    parts: tuple[np.ndarray, ...] = ()

    def __add__(self, other: DoctorTally) -> DoctorTally:
        return DoctorTally(
            looked=self.looked + other.looked,
            decoded=self.decoded + other.decoded,
            kinds=_added(self.kinds, other.kinds),
            pixels=_added(self.pixels, other.pixels),
            labels=_added(self.labels, other.labels),
            unknown_ids=_added(self.unknown_ids, other.unknown_ids),
            unknown_colors=_largest(_added(self.unknown_colors, other.unknown_colors)),
            area_colors=_largest(_added(self.area_colors, other.area_colors)),
            unknown_color_pixels=self.unknown_color_pixels + other.unknown_color_pixels,
            alignment=self.alignment + other.alignment,
            parts=self.parts + other.parts,
        )

    def seen(self, kind: str) -> Seen:
        return self.kinds.get(kind, Seen(0, ()))

    @property
    def prints(self) -> np.ndarray:
        """PRINT [n], in the order of the plan."""
        prints = np.concatenate([np.zeros(0, PRINT), *self.parts])
        return prints[np.argsort(prints["number"])]


def seen_of(number: int, path: str, kind: str, detail: str) -> DoctorTally:
    """The tally of one observation on a pair, whose image or label has that path."""
    return DoctorTally(kinds={kind: Seen(1, (Example(number, path, detail),))})


def of_colors(pixels: Mapping[Color, int]) -> DoctorTally:
    """The tally of colours that the palette does not know, and their pixels."""
    return DoctorTally(unknown_colors=pixels, unknown_color_pixels=sum(pixels.values()))


def with_print(one: DoctorTally, number: int, image: int = 0, label: int = 0, hash: int | None = None) -> DoctorTally:
    """The tally of an examined pair, with its PRINT."""
    row = np.zeros(1, PRINT)
    row["number"], row["image"], row["label"] = number, image, label
    row["hash"], row["is_hashed"] = hash or 0, hash is not None
    for field_name, kinds in (("fault", FAULTS), ("doubt", DOUBTS)):
        row[field_name] = next((place for place, kind in enumerate(kinds, 1) if kind in one.kinds), 0)
    return replace(one, looked=1, parts=(row,))


def _largest(colors: dict[Color, int]) -> dict[Color, int]:
    """The MAX_COLORS colours with the most pixels."""
    if len(colors) <= MAX_COLORS:
        return colors
    return dict(heapq.nlargest(MAX_COLORS, colors.items(), key=lambda item: (item[1], item[0])))


def _added(one: Mapping, other: Mapping) -> dict:
    return {**one, **{key: one[key] + value if key in one else value for key, value in other.items()}}


def total(parts: Iterable[DoctorTally]) -> DoctorTally:
    """The sum of the tallies, with PRINTs joined into one part."""
    summed = sum(parts, start=DoctorTally())
    return replace(summed, parts=(summed.prints,))


def write(tally: DoctorTally, folder: str, digest: str) -> None:
    """Writes a tally beside the plan with that digest."""
    rest = {
        "looked": tally.looked,
        "decoded": tally.decoded,
        "kinds": {kind: [seen.count, seen.examples] for kind, seen in tally.kinds.items()},
        "pixels": {split: counts.tolist() for split, counts in tally.pixels.items()},
        "labels": {split: counts.tolist() for split, counts in tally.labels.items()},
        "unknown_ids": list(tally.unknown_ids.items()),
        "unknown_colors": list(tally.unknown_colors.items()),
        "area_colors": list(tally.area_colors.items()),
        "unknown_color_pixels": tally.unknown_color_pixels,
    }
    text = np.frombuffer(json.dumps(rest).encode(), np.uint8)
    alignment = tally.alignment
    arrays = {"prints": tally.prints, "score": alignment.score, "votes": alignment.votes}
    handover.write_tally(folder, digest, **arrays, rest=text)


def read(folder: str, digest: str) -> DoctorTally:
    """The inverse of `write`. Raises InputError if it cannot be read."""
    content = handover.read_tally(folder, digest)
    rest = json.loads(content["rest"].tobytes())
    return DoctorTally(
        looked=rest["looked"],
        decoded=rest["decoded"],
        kinds={
            kind: Seen(count, tuple(Example(*one) for one in examples))
            for kind, (count, examples) in rest["kinds"].items()
        },
        pixels={split: np.array(counts, np.int64) for split, counts in rest["pixels"].items()},
        labels={split: np.array(counts, np.int64) for split, counts in rest["labels"].items()},
        unknown_ids=dict(rest["unknown_ids"]),
        unknown_colors={tuple(color): pixels for color, pixels in rest["unknown_colors"]},
        area_colors={tuple(color): pixels for color, pixels in rest["area_colors"]},
        unknown_color_pixels=rest["unknown_color_pixels"],
        alignment=Alignment(content["score"], content["votes"]),
        parts=(content["prints"],),
    )
