"""Findings on images of 16 bits, of which prepare may keep few levels, or scale some and others not."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.doctor.tally import DoctorTally, Seen
from pipelines.doctor.verdict import SHOWN, WRONG, Finding

FEW_LEVELS = 64
"""Of 256: 14 bits in 16 leave that many, 12 bits 16."""
FAINT = 15
"""The largest value that is black even if it is not scaled."""
CURE = "save all of them with 8 bits, or stretch them to 16, by the same factor"
KINDS = ("scaled-images", "dark-images", "unscaled-images")


def kind_of(brightest: int) -> tuple[str, str]:
    """The kind, one of KINDS, of an image of 16 bits whose largest value is `brightest`, and details."""
    if FAINT < brightest <= 255:
        return "unscaled-images", f"no value is over {brightest}, so it is read as 8 bits"
    levels = brightest // 257 + 1
    detail = f"no value is over {brightest:,}, which leaves {levels} of 256 levels"
    return "dark-images" if brightest > FAINT and levels <= FEW_LEVELS else "scaled-images", detail


def of_depth(tally: DoctorTally) -> Iterator[Finding]:
    """Findings on what scaling to 8 bits makes of the images of 16 bits."""
    scaled, dark, unscaled = map(tally.seen, KINDS)
    decoded = scaled.count + dark.count + unscaled.count
    if dark.count > scaled.count:
        text = "images of 16 bits use a small part of the range, as images of 12 bits do, and become nearly black"
        yield _finding("dark-images", dark, decoded, text)
    if unscaled.count and unscaled.count < decoded:
        text = (
            "images of 16 bits have no value over 255, and are not scaled to 8 bits as the others are: they look up "
            "to 257 times as bright"
        )
        yield _finding("unscaled-images", unscaled, decoded, text)


def _finding(kind: str, seen: Seen, of: int, text: str) -> Finding:
    return Finding(
        kind,
        WRONG,
        count=seen.count,
        of=of,
        unit="images of 16 bits",
        text=text,
        cure=CURE,
        examples=seen.examples[:SHOWN],
    )
