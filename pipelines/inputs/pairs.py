"""Pairs of an image and its label, by name.

Images and labels are rows that are sorted on disk and merged, so a set need not fit in memory.
"""

from __future__ import annotations

import heapq
import itertools
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple

from pipelines.inputs.hashes import repeated
from pipelines.inputs.layouts import Candidates, reject
from pipelines.inputs.names import partners
from pipelines.inputs.rows import Row, Rows
from trainer import storage
from trainer.accounts import Reject
from trainer.options import InputError

ALONE = NO_LABEL, NO_IMAGE = "image without a label of that name", "label without an image of that name"
"""Reasons of rejects that have no partner; `of_unread` may add to them."""


class Pair(NamedTuple):
    """An image and its label.

    Attributes:
      key: the unique name of the image in the set; a safe relative path.
      image: the path of the image, local or gs://.
      label: the path of the label, local or gs://.
      split: "train", "val", "test", or another name from folders or the manifest; "" if not assigned yet.
      size: the size of both files together, in bytes.
      modified: the sum of both files' `storage.File.modified`, which changes when either file does.
    """

    key: str
    image: str
    label: str
    split: str
    size: int
    modified: int


class Pairs(Sequence):
    """A sequence of pairs that is kept on disk."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._rows = Rows(map(tuple, pairs))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Pair]:
        return itertools.starmap(Pair, self._rows)

    def __getitem__(self, index: int) -> Pair:
        return Pair(*self._rows[index])


class Labels(Sequence):
    """The paths of the labels of pairs."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> str:
        return self._pairs[index].label


def pair_by_key(candidates: Candidates) -> tuple[Pairs, list[Reject]]:
    """Pairs images and labels that have the same key; the rest are rejects.

    The split of a pair is "" if folders, lists and manifest do not give one.
    """
    rejects: list[Reject] = []
    images: dict[str, list[Row]] = {}
    labels: dict[str, list[Row]] = {}

    def paired(key: str, image: list[Row], label: list[Row]) -> Pair | None:
        if fault := _fault(key, image, label):
            rejects.extend(reject(key, path, fault) for path, *_ in image)
            return None
        ((image_path, image_size, image_time),), ((label_path, label_size, label_time),) = image, label
        split = candidates.split_of(key) or ""
        return Pair(key, image_path, label_path, split, image_size + label_size, image_time + label_time)

    def same() -> Iterator[Pair]:
        for key, image, label in _joined(candidates.images, candidates.labels):
            if not (image and label):
                (images if image else labels)[key] = image or label
            elif pair := paired(key, image, label):
                yield pair

    pairs = Pairs(same())
    # The names of the rest may only differ in the encoding of accents.
    label_of = partners(images, labels)
    others = [paired(key, images[key], labels.get(label_of.get(key, ""), [])) for key in sorted(images)]
    for key in labels.keys() - set(label_of.values()):
        rejects += [reject(key, path, NO_IMAGE) for path, *_ in labels[key]]
    others = [pair for pair in others if pair]
    return Pairs(heapq.merge(pairs, others)) if others else pairs, rejects


def _joined(images: Iterable[Row], labels: Iterable[Row]) -> Iterator[tuple[str, list[Row], list[Row]]]:
    """Yields every key in order, with the rows (path, size, modified) of its images and of its labels."""
    image_groups, label_groups = _grouped(images), _grouped(labels)
    image, label = next(image_groups, None), next(label_groups, None)
    while image or label:
        if label is None or (image is not None and image[0] < label[0]):
            yield *image, []
            image = next(image_groups, None)
        elif image is None or label[0] < image[0]:
            yield label[0], [], label[1]
            label = next(label_groups, None)
        else:
            yield *image, label[1]
            image, label = next(image_groups, None), next(label_groups, None)


def _grouped(rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yields every key in order, with its rows (path, size, modified)."""
    for key, group in itertools.groupby(rows, itemgetter(0)):
        yield key, [row[1:] for row in group]


def _fault(key: str, images: list[Row], labels: list[Row]) -> str | None:
    """The reason, for humans, why the files of a key are not a pair; None if they are."""
    if len(images) > 1:
        return f"{len(images)} images have the same name: {_names(images)}; rename or remove all but one"
    if not labels:
        return NO_LABEL
    if len(labels) > 1:
        return f"{len(labels)} labels have the image's name: {_names(labels)}; remove all but one"
    try:
        storage.safe_relative(key)
    except InputError as error:
        return str(error)
    return None


def _names(files: Iterable[Row]) -> str:
    paths = [path for path, *_ in files]
    names = [posixpath.basename(path) for path in paths]
    return ", ".join(names if len(set(names)) == len(names) else paths)


def is_alone(reject: Reject) -> bool:
    """Whether an image or a label was rejected for want of a partner."""
    return reject.reason.startswith(ALONE)


def of_unread(rejects: Iterable[Reject], unread: Mapping[str, str]) -> list[Reject]:
    """The rejects; those that are alone name the file that would be their partner if its format were read.

    Args:
      unread: the name without folder and suffix -> the path, of files in formats that are not read.
    """
    return [replace(one, reason=one.reason + _partner(one, unread)) if is_alone(one) else one for one in rejects]


def _partner(reject: Reject, unread: Mapping[str, str]) -> str:
    path = unread.get(posixpath.basename(reject.key), "")
    if not path or posixpath.dirname(path) == posixpath.dirname(reject.path.replace("\\", "/")):
        return ""
    name, suffix = posixpath.basename(path), posixpath.splitext(path)[1]
    return f"; there is {name}, but {suffix} files are not read: save it as PNG, or as JPEG if it is no label"


def shared_labels(layout: str, pairs: Pairs) -> Iterator[str]:
    """A warning about labels that several images share, which only manifests allow."""
    shared = repeated(pair.label for pair in pairs) if layout == "manifest" else ()
    if shared:
        sharers = [pair for pair in pairs if hash(pair.label) in shared]
        one = next(pair for pair in sharers if pair.label == sharers[0].label and pair.key != sharers[0].key)
        yield (
            f"warning: {len(sharers)} images share their labels with others, such as {sharers[0].key} and {one.key}, "
            f"whose label is {sharers[0].label}"
        )
