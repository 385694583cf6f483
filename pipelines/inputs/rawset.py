"""Raw sets: finds images and their labels, pairs them by name, and gives each pair a key and a split.

An image's key is its path below its image folder without the suffix, so `train/a` and `val/a` are two images, and
adding images changes no other image's key. Only names, lists and manifests are read. Images and labels are rows that
are sorted on disk and merged; in memory there are only eight bytes per image.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import os
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from pipelines.inputs.layouts import Candidates, Folders, left_out, not_recognised, recognise, reject, seen
from pipelines.inputs.manifest import MANIFESTS, SUFFIXES, read_manifest
from pipelines.inputs.names import partners
from pipelines.inputs.rows import Row, Rows
from trainer import storage
from trainer.accounts import Reject
from trainer.formats.labels import Palette
from trainer.options import InputError

MAX_SPLIT = 100
"""Bytes; file names have at most 255, and those of shards and of the files beside them begin with the split."""


class Pair(NamedTuple):
    """One image with its label.

    Attributes:
      key: names the image in the set; a safe relative path, unique.
      image, label: paths, local or gs://.
      split: "train", "val", "test", or another name from folders or the manifest.
      size: of both files together, in bytes.
      modified: sum of both files' `storage.File.modified`; changes when either file does.
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


@dataclass(frozen=True)
class RawSet:
    """The result of `scan`.

    Attributes:
      root: the folder of the set, or of its manifest.
      layout: one of `options.LAYOUTS`, never "auto".
      pairs: sorted by key.
      rejects: images and labels that cannot be used, with reasons.
      summary: a human-readable sentence; more lines on groups and on splits without images.
      palette_hint: the palette that the layout implies, if any.
    """

    root: str
    layout: str
    pairs: Pairs
    rejects: tuple[Reject, ...]
    summary: str
    palette_hint: Palette | None = None

    @property
    def labels(self) -> Labels:
        return Labels(self.pairs)


def scan(root: str, layout: str = "auto", val_fraction: float = 0.1, group_by: str = "") -> RawSet:
    """Finds and pairs the images and labels of a raw set.

    Args:
      root: a folder or a manifest file, local or gs://.
      layout: one of `options.LAYOUTS`; "auto" takes a manifest, else the first layout that the folder has.
      val_fraction: share of images (of groups, with `group_by`) that go to "val" if the set has no splits of its own,
        in [0, 1).
      group_by: regular expression; images whose keys match with the same text (its first group, if it has one), such
        as those of one film, go to the same split.

    Raises:
      InputError: the folder is missing, does not have that layout, or has no image with a label; or `group_by` is not
        a regular expression, or matches no key.
    """
    manifest = _manifest_path(root, layout)
    if manifest:
        folder = posixpath.dirname(manifest) or "."
        return raw_set(folder, "manifest", read_manifest(manifest), val_fraction, group_by)
    suffixes: Counter[str] = Counter()
    try:
        folders = Folders(root, seen(storage.walk(root), suffixes))
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error}") from None
    recognised = recognise(folders, layout)
    if recognised is None:
        raise InputError(not_recognised(root, layout, folders))
    name, candidates = recognised
    candidates.origin += left_out(suffixes)
    return raw_set(root, name, candidates, val_fraction, group_by)


def raw_set(root: str, layout: str, candidates: Candidates, val_fraction: float, group_by: str) -> RawSet:
    """Pairs the candidates and assigns splits. Raises InputError if no image has a label."""
    pairs, rejects = pair_by_key(candidates)
    rejects = sorted(candidates.rejects + rejects, key=lambda reject: (reject.key, reject.path))
    if not pairs:
        example = f"; for example {rejects[0].path}: {rejects[0].reason}" if rejects else ""
        raise InputError(f"{root}: {layout} ({candidates.origin}), but no image has a label{example}")
    unsplit = pairs
    pairs, note = split_by_group(pairs, val_fraction, group_by)
    counts = Counter(pair.split for pair in pairs)
    if long := next((split for split in counts if len(os.fsencode(split)) > MAX_SPLIT), ""):
        size = len(os.fsencode(long))
        raise InputError(
            f"{root}: the name of a split is {size} bytes long, {long[:40]!r}...; file names begin with it, so "
            f"the limit is {MAX_SPLIT}"
        )
    notes = filter(
        None,
        (
            note,
            *_shared_labels(layout, pairs),
            *_empty_splits(unsplit, counts, val_fraction, "group" if group_by else "image"),
        ),
    )
    order = sorted(counts, key=lambda split: (*(split != known for known in ("train", "val", "test")), split))
    summary = f"{layout}: {candidates.origin}, {' + '.join(f'{counts[s]} {s}' for s in order)} images"
    summary += f", {len(rejects)} rejected" if rejects else ""
    summary = "\n".join((summary, *notes))
    return RawSet(root, layout, pairs, tuple(rejects), summary, candidates.palette_hint)


def pair_by_key(candidates: Candidates) -> tuple[Pairs, list[Reject]]:
    """Pairs images and labels that have the same key; everything else is a reject.

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
    # The names of the rest may differ only in how accents are encoded.
    label_of = partners(images, labels)
    others = [paired(key, images[key], labels.get(label_of.get(key, ""), [])) for key in sorted(images)]
    for key in labels.keys() - set(label_of.values()):
        rejects += [reject(key, path, "label without an image of that name") for path, *_ in labels[key]]
    others = [pair for pair in others if pair]
    return Pairs(heapq.merge(pairs, others)) if others else pairs, rejects


def _joined(images: Iterable[Row], labels: Iterable[Row]) -> Iterator[tuple[str, list[Row], list[Row]]]:
    """Yields every key in order, with the rows (path, size, modified) of its images and of its labels."""
    ours, theirs = _grouped(images), _grouped(labels)
    image, label = next(ours, None), next(theirs, None)
    while image or label:
        if label is None or (image is not None and image[0] < label[0]):
            yield *image, []
            image = next(ours, None)
        elif image is None or label[0] < image[0]:
            yield label[0], [], label[1]
            label = next(theirs, None)
        else:
            yield *image, label[1]
            image, label = next(ours, None), next(theirs, None)


def _grouped(rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yields every key in order, with its rows (path, size, modified)."""
    for key, group in itertools.groupby(rows, itemgetter(0)):
        yield key, [row[1:] for row in group]


def split_by_group(pairs: Pairs, val_fraction: float, group_by: str) -> tuple[Pairs, str]:
    """Assigns a split to every pair: its own, else that of the others in its group, else by the hash of the group.

    Returns:
      The pairs in order, and a sentence on the groups; "" without `group_by`.

    Raises:
      InputError: `group_by` is not a regular expression, or finds nothing in any key.
    """
    first = _same_files(pairs)
    if not group_by and not first:
        if all(pair.split for pair in pairs):
            return pairs, ""
        by_hash = lambda pair: pair if pair.split else pair._replace(split=hash_split(pair.key, val_fraction))
        return Pairs(map(by_hash, pairs)), ""

    def found(pair: Pair) -> str | None:
        return group_of(first.get(pair.key, pair.key), group_by) if group_by else None

    def group(pair: Pair) -> str:
        # A key without a match is a group of its own, or shares that of the image which is the same file.
        return found(pair) or first.get(pair.key, pair.key)

    own: dict[str, set[str]] = {}
    names: set[str] = set()
    alone: list[str] = []
    count = 0
    for pair in pairs:
        name = found(pair)
        names.update([name] if name else ())
        if not name:
            count += 1
            alone += [pair.key] if not alone else []
        if pair.split:
            own.setdefault(group(pair), set()).add(pair.split)
    if group_by and not names:
        raise InputError(f"--group-by {group_by!r} finds nothing in any key, such as {pairs[0].key!r}")

    def split(pair: Pair) -> str:
        known = own.get(group(pair), ())
        return pair.split or (next(iter(known)) if len(known) == 1 else hash_split(group(pair), val_fraction))

    pairs = Pairs(pair._replace(split=split(pair)) for pair in pairs)
    notes = []
    if group_by:
        note = f"--group-by: {len(names)} groups"
        if alone:
            note += f"; keys in which it finds nothing are groups of their own: {count}, such as {alone[0]!r}"
        notes.append(note)
    return pairs, "\n".join([*notes, *_links(first), *_torn(own)])


def _shared_labels(layout: str, pairs: Pairs) -> Iterator[str]:
    """A warning about labels that several images share, which only manifests allow."""
    shared = _repeated(hash(pair.label) for pair in pairs) if layout == "manifest" else ()
    if shared:
        sharers = [pair for pair in pairs if hash(pair.label) in shared]
        one = next(pair for pair in sharers if pair.label == sharers[0].label and pair.key != sharers[0].key)
        yield (
            f"warning: {len(sharers)} images share their labels with others, such as {sharers[0].key} and {one.key}, "
            f"whose label is {sharers[0].label}"
        )


def _empty_splits(pairs: Pairs, splits: Collection[str], val_fraction: float, what: str) -> Iterator[str]:
    """Warnings about empty splits.

    Args:
      pairs: as the set gives them, some without a split.
      splits: the splits that have images.
      what: "image" or "group": what is assigned to a split by its hash.
    """
    for name, use, cure in (("train", "is learnt from", "lower"), ("val", "epochs are scored on", "raise")):
        if name in splits:
            continue
        if all(pair.split for pair in pairs):
            yield (
                f"warning: no image is in split {name}, which {use}: the set's own folders, lists or manifest name "
                f"only {' and '.join(sorted(splits))}"
            )
        elif val_fraction:
            yield (
                f"warning: no {what} is in split {name}, which {use}; {cure} --val-fraction, or list the splits in a "
                "manifest"
            )


def _links(first: Mapping[str, str]) -> Iterator[str]:
    """A note on images that are links to the files of other images.

    Args:
      first: key of such an image -> key of the other.
    """
    for key, other in itertools.islice(first.items(), 1):
        yield (
            f"images that are links to the files of others: {len(first)}, such as {key}, which is {other}; "
            "they share a split where the set gives none"
        )


def _torn(own: Mapping[str, set[str]]) -> Iterator[str]:
    """A warning about groups with images in several splits.

    Args:
      own: group -> the splits that the set itself gives its images.
    """
    if torn := sorted(group for group, splits in own.items() if len(splits) > 1):
        yield (
            "warning: groups that the set's own folders, lists or manifest spread over several splits: "
            f"{len(torn)}, such as {torn[0]!r} in {' and '.join(sorted(own[torn[0]]))}"
        )


def _same_files(pairs: Pairs) -> dict[str, str]:
    """Key -> key of the first image that is the same file, through links; only for images that repeat another."""
    facts = _repeated(hash((pair.size, pair.modified)) for pair in pairs)
    alike = lambda: (pair for pair in pairs if facts and hash((pair.size, pair.modified)) in facts)
    places = _repeated(hash(storage.real(pair.image)) for pair in alike() if not storage.is_remote(pair.image))
    first: dict[str, str] = {}
    keys: dict[str, str] = {}
    for pair in alike() if places else ():
        place = storage.real(pair.image)
        if hash(place) in places and (key := keys.setdefault(place, pair.key)) != pair.key:
            first[pair.key] = key
    return first


def _repeated(hashes: Iterable[int]) -> frozenset[int]:
    """The hashes that occur more than once."""
    ordered_hashes = np.fromiter(hashes, np.int64)
    ordered_hashes.sort()
    return frozenset(ordered_hashes[1:][ordered_hashes[1:] == ordered_hashes[:-1]].tolist())


def group_of(key: str, group_by: str) -> str | None:
    """The text that the regular expression `group_by` matches in `key`: its first group, else all of it; else None.

    Raises InputError if it is not a regular expression.
    """
    try:
        match = re.search(group_by, key)
    except re.error as error:
        raise InputError(f"--group-by {group_by!r} is not a regular expression: {error}") from None
    # With alternatives the first group may not take part in the match; an empty match names no group.
    return (match and next((group for group in match.groups() if group is not None), match[0])) or None


def hash_split(key: str, val_fraction: float) -> str:
    """ "train" or "val", by the md5 of the key, so that adding images does not move the others."""
    share = int.from_bytes(hashlib.md5(key.encode()).digest()[:8], "big") / 2**64
    return "val" if share < val_fraction else "train"


def _fault(key: str, images: list[Row], labels: list[Row]) -> str | None:
    """The reason, for humans, why the files of a key are not a pair; None if they are."""
    if len(images) > 1:
        return f"{len(images)} images have the same name: {_names(images)}; rename or remove all but one"
    if not labels:
        return "image without a label of that name"
    if len(labels) > 1:
        return f"{len(labels)} labels have the image's name: {_names(labels)}; remove all but one"
    try:
        storage.safe_relative(key)
    except InputError as error:
        return str(error)
    return None


def _names(files: Iterable[Row]) -> str:
    return ", ".join(posixpath.basename(path) for path, *_ in files)


def _manifest_path(root: str, layout: str) -> str | None:
    """The path of the manifest, if the input is one or a folder with one; else None."""
    manifests = [storage.join(root, name) for name in MANIFESTS]
    with ThreadPoolExecutor(1 + len(manifests)) as pool:
        known = {path: pool.submit(storage.exists, path) for path in (root, *manifests)}
    is_file = known[root].result()  # first: permission to read objects does not imply permission to list them
    if not is_file and storage.is_dir(root):
        if layout not in ("auto", "manifest"):
            return None
        return next((path for path in manifests if known[path].result()), None)
    if not is_file:
        raise InputError(f"{root} not found; expected a folder with images and labels, or a manifest")
    if not root.lower().endswith(SUFFIXES):
        raise InputError(f"{root} is a file; expected a folder, or a manifest named *.csv or *.jsonl")
    if layout not in ("auto", "manifest"):
        raise InputError(f"{root} is a manifest, not the layout {layout}; omit --layout")
    return root
