"""Names of images, which an image, its label, its mask and its entry in a list share; and names of splits.

A name is a path without the suffix, relative to a folder that depends on the caller.
"""

from __future__ import annotations

import itertools
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from trainer.formats.images import SUFFIXES

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_OF_A_SPLIT = re.compile(r"[-_. ]?(?:set|split|(?:19|20)\d\d)$")  # as in COCO's "train2017", or "test_set"
CITYSCAPES_IMAGE = "_leftImg8bit"
"""Ending of the names of Cityscapes' images, without the suffix."""
CITYSCAPES_LABELS = ("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png")
"""Endings of the names of its labels: with train ids, and with the ids that `Palette.source_ids` translates."""
SAMPLED_NAMES = 100
"""Number of names by which it is recognised how those of labels differ from those of images."""
SEPARATOR = re.compile(r"[-_. ]")
AFFIXES = 4
"""Bound on the beginnings, and on the endings, that are tried as parts of such a rule: the shortest."""
_NUMBER = re.compile(r"-?\d+")
BLANKS = " \t\r\n"
"""Characters around names and between words in lists; names may contain other white space, such as U+00A0."""


def cityscapes_key(label: str) -> str | None:
    """Key of the image of a Cityscapes label, given the label's path; None for other labels."""
    for ending in CITYSCAPES_LABELS:
        if label.endswith(ending):
            return label.removesuffix(ending) + CITYSCAPES_IMAGE
    return None


def name_of(path: str) -> str:
    """The name that an image, its label and its mask share: the path without an image suffix.

    For a label of Cityscapes, it is that of its image. Only image suffixes are cut off: `cam_1.5m_0001` is a name.
    """
    key = cityscapes_key(path)
    return without_suffix(path) if key is None else key


def without_suffix(path: str) -> str:
    """The path without the suffix of an image; what is behind another dot belongs to the name."""
    stem, suffix = posixpath.splitext(path)
    return stem if suffix.lower() in SUFFIXES else path


class Names(Protocol):
    """Names that can be counted, and iterated over several times."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...


class Naming(NamedTuple):
    """How a set names its images and its labels, whose names differ only in how they begin or end.

    Attributes:
      image: the beginning and the ending of the names of images, such as ("", "_sat"); the name is the last part of
        the path, without the suffix.
      label: the same of labels, such as ("", "_mask").
    """

    image: tuple[str, str]
    label: tuple[str, str]

    def image_of(self, label: str) -> str:
        """The name of the image of a label; the label's own if it is named in another way."""
        folder, slash, name = label.rpartition("/")
        (beginning, ending), (before, behind) = self.label, self.image
        core = name[len(beginning) : len(name) - len(ending)]
        if not (core and name.startswith(beginning) and name.endswith(ending)):
            return label
        return f"{folder}{slash}{before}{core}{behind}"

    def __str__(self) -> str:
        return f"labels named {'*'.join(self.label)} like images {'*'.join(self.image)}"


def naming(images: Names, labels: Names) -> Naming | None:
    """How the names of labels differ from those of their images; None if some are equal, or no rule is found.

    The rule may be `a_mask` for `a`, `label-7` for `image-7`, or `a_mask` for `a_sat`. It must pair most of the first
    labels, or of the first images if these are fewer.

    Args:
      images, labels: names without suffixes.
    """
    if len(images) < len(labels):
        rule = _rule(labels, images)
        return rule and Naming(rule.label, rule.image)
    return _rule(images, labels)


def _rule(images: Names, labels: Names) -> Naming | None:
    """`naming` of labels that are not more than the images."""
    few = [*itertools.islice(labels, SAMPLED_NAMES)]
    if not few or not {*few}.isdisjoint(images):
        return None
    of_images, of_labels = _affixes(itertools.islice(images, SAMPLED_NAMES)), _affixes(few)
    rules = [Naming(image, label) for image in of_images for label in of_labels if image != label]
    wanted = {rule: [rule.image_of(label) for label in few] for rule in rules}
    all_wanted = {name for names in wanted.values() for name in names}
    known = {name for name in images if name in all_wanted}
    pairs = {rule: sum(map(known.__contains__, wanted[rule])) for rule in rules}
    # Of several rules that pair as many, the one that cuts off least.
    best = max(rules, key=lambda rule: (pairs[rule], -len("".join(sum(rule, ())))), default=None)
    return best if best and 2 * pairs[best] > len(few) else None


def _affixes(names: Iterable[str]) -> list[tuple[str, str]]:
    """The beginnings up to a separator, and endings from one on, that most names have; "" is one of either."""
    bases = [name.rpartition("/")[2] for name in names]
    cuts = [(base, place.span()) for base in bases for place in SEPARATOR.finditer(base)]
    beginnings = Counter(base[:end] for base, (_, end) in cuts)
    endings = Counter(base[start:] for base, (start, _) in cuts)

    def common(counts: Counter[str]) -> list[str]:
        return ["", *sorted((part for part in counts if 2 * counts[part] > len(bases)), key=len)[:AFFIXES]]

    return [*itertools.product(common(beginnings), common(endings))]


def spellings(entry: str) -> tuple[str, ...]:
    """The paths, with or without suffix, that a line of a list may mean, most likely first.

    Lists of Pascal VOC have lines `NAME`, `NAME 1` (0, -1), or `/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png`;
    those of the Oxford-IIIT Pets have `NAME 1 1 1`.
    """
    entry = entry.strip(BLANKS)
    paths = [entry]
    if marked := re.fullmatch(f"(.+?)[{BLANKS}]+(-1|0|1)", entry):
        paths.append(marked[1])
    first, *others = re.split(f"[{BLANKS}]+", entry)
    if others and (name_of(first) != first or (len(others) > 1 and all(map(_NUMBER.fullmatch, others)))):
        paths.append(first)
    paths += [path.replace("\\", "/") for path in paths if "\\" in path]
    paths += map(normal, tuple(paths))
    return tuple(dict.fromkeys(spelled for path in paths for spelled in (path, name_of(path))))


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC); macOS decomposes "ü" into two characters."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def by_composed(names: Iterable[str]) -> dict[str, str]:
    """Composed name -> name, for names that differ from all others in more than the form of their accents."""
    names_by_form: dict[str, list[str]] = {}
    for name in names:
        names_by_form.setdefault(composed(name), []).append(name)
    return {form: alike[0] for form, alike in names_by_form.items() if len(alike) == 1}


def partners(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Name -> its partner in `others`: the same name, or the only one that differs just in the form of accents."""
    names, others = set(names), set(others)
    mine, theirs = by_composed(names - others), by_composed(others - names)
    return {name: name for name in names & others} | {mine[form]: theirs[form] for form in mine.keys() & theirs.keys()}


def normal(relative: str) -> str:
    """A path without folders "." and "", which names of objects may have, as masks and exported files are named."""
    if "./" not in relative and "//" not in relative:
        return relative
    top = "/" if relative.startswith("/") else ""  # of a path that is refused, see `storage.safe_relative`
    return top + "/".join(part for part in relative.split("/") if part not in ("", "."))


def hidden(relative: str) -> bool:
    """Whether a file, or a folder in its path, is hidden; "." and "..", which names of objects may have, are not."""
    has_dot = relative.startswith(".") or "/." in relative
    return has_dot and any(part.startswith(".") and part not in (".", "..") for part in relative.split("/"))


def split_named(name: str) -> str | None:
    """The split that a name in a folder or a manifest stands for: "val" for "Validation" or "val2017", else None."""
    return _SPLITS.get(_OF_A_SPLIT.sub("", name.lower()))


def split_order(name: str) -> int:
    """Sort key of a split: training, validation, test, then others."""
    order = ("train", "val", "test")
    return order.index(split) if (split := split_named(name)) else len(order)
