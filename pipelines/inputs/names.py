"""Names of images: what an image, its label, its mask and an entry of a list share, and which of them mean splits.

A name is a path without the suffix, below a folder that depends on who asks.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable

from trainer.formats.images import SUFFIXES

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
CITYSCAPES_IMAGE = "_leftImg8bit"
"""How the names of Cityscapes' images end, but for the suffix."""
CITYSCAPES_LABELS = ("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png")
"""How those of its labels end: with class ids, and with the ids that `Palette.source_ids` translates."""
BLANKS = " \t\r\n"
"""What separates words in lists; names may well hold other white space, such as U+00A0."""


def cityscapes_key(label: str) -> str | None:
    """Key of the image that a Cityscapes label belongs to, by its path; None for other labels."""
    for ending in CITYSCAPES_LABELS:
        if label.endswith(ending):
            return label.removesuffix(ending) + CITYSCAPES_IMAGE
    return None


def name_of(path: str) -> str:
    """What an image, its label and its mask share: the path without an image's suffix (Cityscapes: the image's).

    Only suffixes of images are cut: `cam_1.5m_0001` is a whole name.
    """
    if (key := cityscapes_key(path)) is not None:
        return key
    stem, suffix = posixpath.splitext(path)
    return stem if suffix.lower() in SUFFIXES else path


def spellings(entry: str) -> tuple[str, ...]:
    """The paths, with suffix or without, that a line of a list may mean, best first.

    Lists of Pascal VOC hold `NAME`, `NAME 1` (or 0, -1) and `/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png`.
    """
    entry = entry.strip(BLANKS)
    paths = [entry]
    if marked := re.fullmatch(f"(.+?)[{BLANKS}]+(-1|0|1)", entry):
        paths.append(marked[1])
    first, *others = re.split(f"[{BLANKS}]+", entry)
    if others and name_of(first) != first:
        paths.append(first)
    paths += [path.replace("\\", "/") for path in paths if "\\" in path]
    return tuple(dict.fromkeys(spelled for path in paths for spelled in (path, name_of(path))))


def composed(name: str) -> str:
    """The name with every accent in one character with its letter; macOS writes "ü" as two, everybody else as one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def by_composed(names: Iterable[str]) -> dict[str, str]:
    """Composed name -> name, for those that differ from all others in more than how their accents are written."""
    names_by_form: dict[str, list[str]] = {}
    for name in names:
        names_by_form.setdefault(composed(name), []).append(name)
    return {form: alike[0] for form, alike in names_by_form.items() if len(alike) == 1}


def partners(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Name -> the other of the same name, or of one that writes its accents differently and is no other's partner."""
    names, others = set(names), set(others)
    mine, theirs = by_composed(names - others), by_composed(others - names)
    return {name: name for name in names & others} | {mine[form]: theirs[form] for form in mine.keys() & theirs.keys()}


def hidden(relative: str) -> bool:
    return relative.startswith(".") or "/." in relative


def split_named(name: str) -> str | None:
    """The split that a folder, or a manifest, calls by that name: "Validation" is "val"; None for other words."""
    return SPLIT_FOLDERS.get(name.lower())


def split_order(name: str) -> int:
    """Training, validation, test, and what is none of them."""
    names = [*SPLIT_FOLDERS]
    return names.index(name.lower()) if name.lower() in names else len(names)
