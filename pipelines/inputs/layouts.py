"""The folder layouts of raw sets: which files are images, which are labels, and which belong together.

    voc         JPEGImages, SegmentationClassAug or SegmentationClass, ImageSets/Segmentation/{train,val,...}.txt
    cityscapes  leftImg8bit/<split>/<city>/*_leftImg8bit.png, gtFine/<split>/<city>/*_gtFine_label[Train]Ids.png
    camvid      images/<split> with labels/<split>, or SegNet's train with trainannot, val with valannot, ...
    paired      images with labels, masks or annotations, or MMSegmentation's img_dir with ann_dir

In the last two, names of labels may begin or end in another way than those of images (`a_mask` for `a`).

A fifth, `manifest`, is a list of the files; see `manifest`. Only names and Pascal VOC's lists are read. Files are rows
that are sorted on disk, so that a set may have more of them than fit in memory.
"""

from __future__ import annotations

import functools
import itertools
import posixpath
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np

from pipelines.inputs import voc
from pipelines.inputs.names import (
    CITYSCAPES_LABELS,
    Names,
    cityscapes_key,
    hidden,
    naming,
    normal,
    split_named,
    split_order,
)
from pipelines.inputs.rows import Row, Rows, ordered
from trainer import storage
from trainer.accounts import Reject
from trainer.formats.images import SUFFIXES
from trainer.formats.labels import Palette
from trainer.formats.palettes import CITYSCAPES, CITYSCAPES_TRAINIDS, VOC
from trainer.storage import File

UNREAD = (
    *(".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".pnm", ".tga", ".exr", ".dcm"),
    *(".npy", ".npz", ".mat"),
)
"""Suffixes of image and label formats that no command reads, in lower case."""
MOST_UNREAD = 100_000
"""The most files of these whose names are kept in memory."""
_PAIRED = {"labels": "images", "masks": "images", "annotations": "images", "ann_dir": "img_dir"}
_IMAGES_OF = {
    **dict.fromkeys(("SegmentationClassAug", "SegmentationClass", "SegmentationObject"), "JPEGImages"),
    **dict.fromkeys(("gtFine", "gtCoarse"), "leftImg8bit"),
    **_PAIRED,
}
"""Folder of labels -> the folder beside it that holds their images."""


class Folders:
    """The files of a set by their top-level folders; files directly in the root are under "".

    Args:
      root: the folder of the set.
      rows: (relative path, size, modified) of its files.
    """

    def __init__(self, root: str, rows: Iterable[Row]) -> None:
        self._root = root
        self._rows = Rows()
        self._spans: dict[str, tuple[int, int]] = {}
        for top, group in itertools.groupby(ordered(_split(rows)), itemgetter(0)):
            start = len(self._rows)
            self._rows.extend(group)
            self._spans[top] = start, len(self._rows)

    def __contains__(self, top: str) -> bool:
        return top in self._spans

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._spans))

    def of(self, top: str) -> Iterator[Row]:
        """Yields rows (path below it, path, size, modified) of the files in a top-level folder.

        The path below it is in its normal form: the names of objects may have folders "." and "".
        """
        folder = storage.join(self._root, top, "") if top else storage.join(self._root, "")
        for _, below, size, modified in self._rows.span(*self._spans.get(top, (0, 0))):
            yield normal(below), folder + below, size, modified


def _split(rows: Iterable[Row]) -> Iterator[Row]:
    for relative, size, modified in rows:
        top, slash, below = relative.partition("/")
        yield (top, below, size, modified) if slash else ("", top, size, modified)


class Keyed:
    """Files by their keys: sorted rows (key, path, size, modified).

    Args:
      rows: such rows, in any order.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = Rows(ordered(rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def keys(self) -> int:
        """The number of distinct keys."""
        return sum(1 for _ in itertools.groupby(self, itemgetter(0)))

    @property
    def names(self) -> Names:
        """The keys, sorted."""
        return _Names(self)

    @functools.cached_property
    def tops(self) -> frozenset[str]:
        """The top-level folders of the keys; "" for keys without a folder."""
        return frozenset(key.rpartition("/")[0].partition("/")[0] for key, *_ in self)


class _Names:
    """The keys of files."""

    def __init__(self, files: Keyed) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[str]:
        return map(itemgetter(0), self._files)


class Splits:
    """The splits of keys, in twelve bytes of memory each.

    Args:
      rows: pairs (key, split); the split is "" if it is not known.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        names: dict[str, int] = {}
        hashes, numbers = array("q"), array("I")
        for key, split in rows:
            hashes.append(hash(key))
            numbers.append(names.setdefault(split, len(names)))
        order = np.argsort(hashes, kind="stable")
        self._names, self._hashes, self._numbers = [*names], np.array(hashes)[order], np.array(numbers)[order]

    def of(self, key: str) -> str | None:
        """The split of a key; None if it is not known."""
        place = int(np.searchsorted(self._hashes, hash(key), side="right")) - 1
        if place < 0 or self._hashes[place] != hash(key):
            return None
        return self._names[self._numbers[place]] or None


@dataclass
class Candidates:
    """Images and labels of one layout, by key, before they are paired.

    Attributes:
      origin: the folders or the manifest that they come from, human-readable.
      images, labels: files by key; a key without a partner, or with several files, becomes a reject.
      split_of: the split of a key; None leaves it to the hash of the key.
      rejects: entries of lists that name no usable file.
      palette_hint: the palette that the layout implies, if any.
    """

    origin: str
    images: Keyed
    labels: Keyed
    split_of: Callable[[str], str | None] = lambda key: None
    rejects: list[Reject] = field(default_factory=list)
    palette_hint: Palette | None = None


def recognise(folders: Folders, layout: str) -> tuple[str, Candidates] | None:
    """The layout of these files and its candidates: for "auto" the first that fits; else None."""
    finders = {"voc": _find_voc, "cityscapes": _find_cityscapes, "camvid": _find_camvid, "paired": _find_paired}
    for name, find in finders.items():
        if layout in ("auto", name) and (candidates := find(folders)):
            return name, candidates
    return None


def by_images(images: Keyed, labels: Keyed) -> tuple[Keyed, str]:
    """The labels by the names of their images, and a note if these differ from their own, see `names.naming`."""
    rule = naming(images.names, labels.names)
    if not rule:
        return labels, ""
    return Keyed((rule.image_of(name), *facts) for name, *facts in labels), f" ({rule})"


def labels_beside_images(folders: Iterable[str]) -> tuple[str, str] | None:
    """The first folder of labels that has the folder of its images beside it, and that folder; None if there is none.

    Args:
      folders: the folders that hold files, as paths with forward slashes.
    """
    known = {""}
    for folder in folders:
        while folder not in known:
            known.add(folder)
            folder = folder.rpartition("/")[0]
    for folder in sorted(known):
        above, slash, name = folder.rpartition("/")
        split = name.removesuffix("annot")
        beside = _IMAGES_OF.get(name) or (split if split != name and split_named(split) else None)
        if beside and (images := above + slash + beside) in known:
            return folder, images
    return None


def reject(key: str, path: str, reason: str) -> Reject:
    return Reject(key=key, path=path, stage="scan", reason=reason)


def left_out(suffixes: Counter[str]) -> str:
    """A note on images that are skipped because of their names; "" if there are none.

    Args:
      suffixes: number of files for each suffix in UNREAD, and of "hidden" images.
    """
    counts = [f"{count} {name}" for name, count in sorted(suffixes.items())]
    return f", left out: {', '.join(counts)}" if counts else ""


def not_read(suffixes: Counter[str]) -> str:
    """A sentence on files in formats that are not read, to be added to another; "" if there are none.

    Args:
      suffixes: number of files for each suffix.
    """
    counts = [f"{count} {suffix}" for suffix, count in sorted(suffixes.items()) if suffix in UNREAD]
    return f". Files of these formats are not read: {', '.join(counts)}; save them as PNG" if counts else ""


def seen(files: Iterable[File], suffixes: Counter[str], unread: dict[str, str]) -> Iterator[Row]:
    """Yields rows (relative path, size, modified) of files that are not hidden.

    Args:
      suffixes: counts the others, and those in UNREAD, for `left_out`.
      unread: receives the paths of the first MOST_UNREAD in UNREAD, for `pairs.of_unread`.
    """
    for file in files:
        relative = file.relative
        if not hidden(relative):
            if (suffix := relative[relative.rfind(".") :].lower()) in UNREAD:
                suffixes[suffix] += 1
                if len(unread) < MOST_UNREAD:
                    unread[posixpath.splitext(posixpath.basename(relative))[0]] = file.path
            yield relative, file.size, file.modified
        elif posixpath.splitext(relative)[1].lower() in (*SUFFIXES, *UNREAD):
            suffixes["hidden"] += 1


def keyed(rows: Iterable[Row], prefix: str = "") -> Iterator[Row]:
    """Yields rows (key, path, size, modified) of the images among rows of `Folders.of`; keys have no suffix."""
    for below, path, size, modified in rows:
        dot = below.rfind(".")
        if below[dot:].lower() in SUFFIXES:
            yield prefix + below[:dot], path, size, modified


def _find_voc(folders: Folders) -> Candidates | None:
    label_folders = [name for name in ("SegmentationClassAug", "SegmentationClass") if name in folders]
    if "JPEGImages" not in folders or not label_folders:
        return None
    images = Keyed(keyed(folders.of("JPEGImages")))
    labels = Keyed(_preferred([keyed(folders.of(name)) for name in label_folders]))
    origin = f"JPEGImages with {' and '.join(label_folders)}"
    lists = voc.find_lists(folders.of("ImageSets"))
    if not lists.used:
        return Candidates(origin + lists.note, images, labels, palette_hint=VOC)
    # The lists define the set: of VOC's 17125 images only 2913 are meant for segmentation.
    named = voc.listed(lists.used.items(), images)
    used = [f"{name}.txt" for name in voc.LISTS if name in lists.used]
    left_out = images.keys() - len(named.splits)
    origin += f" by {', '.join(used)}" + (f" ({left_out} in no list)" if left_out else "") + named.note + lists.note
    if named.torn:
        origin += f" (in lists of several splits, and used in the first of {', '.join(used)}: {named.torn})"
    labels = Keyed(voc.labels_of((key for key, _ in named.splits), labels))
    images = Keyed(voc.among(images, named.splits))
    return Candidates(origin, images, labels, Splits(named.splits).of, named.rejects, VOC)


def _preferred(alternatives: Iterable[Iterable[Row]]) -> Iterator[Row]:
    """Yields, for every key, the rows of the first alternative that has any."""
    ranked = ((row[0], rank, *row[1:]) for rank, rows in enumerate(alternatives) for row in rows)
    for _, group in itertools.groupby(ordered(ranked), itemgetter(0)):
        first, *others = group
        yield from ((row[0], *row[2:]) for row in (first, *others) if row[1] == first[1])


def _find_cityscapes(folders: Folders) -> Candidates | None:
    if "leftImg8bit" not in folders or "gtFine" not in folders:
        return None
    images = Keyed(keyed(folders.of("leftImg8bit")))
    coded = [Keyed(_cityscapes_labels(folders.of("gtFine"), ending)) for ending in CITYSCAPES_LABELS]
    if not images or not any(coded):
        return None
    # A set has one coding. Train ids are preferred, unless only some of the images have them.
    coding = 0 if coded[0].keys() >= coded[1].keys() else 1
    return Candidates(
        f"leftImg8bit with gtFine/*{CITYSCAPES_LABELS[coding]}",
        images,
        coded[coding],
        lambda key: _split_of_folder(key) or (key.split("/")[0] if "/" in key else None),
        palette_hint=(CITYSCAPES_TRAINIDS, CITYSCAPES)[coding],
    )


def _cityscapes_labels(rows: Iterable[Row], ending: str) -> Iterator[Row]:
    """Yields the labels of one coding, by the keys of their images."""
    for below, *facts in rows:
        if below.endswith(ending):
            yield cityscapes_key(below), *facts


def _split_of_folder(key: str) -> str | None:
    return split_named(key.split("/")[0]) if "/" in key else None


def _in_split_folders(files: Keyed) -> bool:
    return bool(files) and all(map(split_named, files.tops))


def _find_camvid(folders: Folders) -> Candidates | None:
    if "images" in folders and "labels" in folders:
        images, labels = (Keyed(keyed(folders.of(name))) for name in ("images", "labels"))
        if _in_split_folders(images) and labels:
            origin = f"images/{_braces(images)} with labels/{_braces(labels)}"
            labels, note = by_images(images, labels)
            origin += note + _others(folders, "labels")
            return Candidates(origin, images, labels, _split_of_folder)
    named = [name for name in sorted(folders, key=lambda name: (split_order(name), name)) if split_named(name)]
    splits = [name for name in named if name + "annot" in folders]
    if not splits:
        return None
    images = Keyed(row for name in splits for row in keyed(folders.of(name), name + "/"))
    labels = Keyed(row for name in splits for row in keyed(folders.of(name + "annot"), name + "/"))
    labels, note = by_images(images, labels)
    origin = f"{', '.join(splits)} with {', '.join(name + 'annot' for name in splits)}{note}"
    if alone := [name for name in named if name not in splits]:
        origin += f" ({', '.join(alone)} left out: no {alone[0]}annot)"
    return Candidates(origin, images, labels, _split_of_folder) if images and labels else None


def _braces(files: Keyed) -> str:
    names = sorted(files.tops - {""}, key=lambda name: (split_order(name), name))
    return "{" + ",".join(names) + "}" if len(names) > 1 else "".join(names)


def _find_paired(folders: Folders) -> Candidates | None:
    for name, beside in _PAIRED.items():
        if name not in folders or beside not in folders:
            continue
        images, labels = (Keyed(keyed(folders.of(top))) for top in (beside, name))
        if images and labels:
            splits = set(filter(None, map(split_named, images.tops)))
            # A folder "train" alone may hold images of trains; beside a folder "val" or "test" it is a split.
            split_of = _split_of_folder if len(splits) > 1 or _in_split_folders(images) else lambda key: None
            labels, note = by_images(images, labels)
            note += _others(folders, name)
            return Candidates(f"{beside} with {name}{note}", images, labels, split_of)
    return None


def _others(folders: Folders, used: str) -> str:
    """A note on folders beside that of the labels which may hold labels too; "" without any."""
    beside = [name for name in _PAIRED if name != used and _PAIRED[name] == _PAIRED[used] and name in folders]
    named = [name for name in beside if any(True for _ in keyed(folders.of(name)))]
    return f" (not read, although they may hold labels: {', '.join(named)})" if named else ""
