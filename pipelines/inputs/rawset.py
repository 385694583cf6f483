"""Raw sets: finds images and their labels, pairs them by name, and gives each pair a key and a split.

An image's key is its path below its image folder without the suffix, so `train/a` and `val/a` are two images, and
adding images changes no other image's key. Only names, lists and manifests are read.
"""

from __future__ import annotations

import itertools
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType

from pipelines.inputs import class_lists, split_lists
from pipelines.inputs.layouts import Candidates, Folders, left_out, recognise, seen
from pipelines.inputs.manifest import MANIFESTS, SUFFIXES, read_manifest
from pipelines.inputs.pairs import Labels, Pairs, of_unread, pair_by_key, shared_labels
from pipelines.inputs.rows import Row
from pipelines.inputs.splits import empty_splits, lacks_val, split_by_group
from pipelines.inputs.unrecognised import Unpaired, not_recognised, other_pairs
from trainer import leases, storage
from trainer.accounts import Reject
from trainer.formats.labels import Palette
from trainer.options import InputError

MAX_SPLIT = 100
"""Bound on the name of a split, in bytes: names of shards and of their sidecars, of at most 255, begin with it."""


@dataclass(frozen=True)
class RawSet:
    """The result of `scan`.

    Attributes:
      root: the folder of the set, or of its manifest.
      layout: one of `options.LAYOUTS`, never "auto".
      pairs: the pairs, sorted by key.
      rejects: images and labels that cannot be used, with reasons.
      summary: a human-readable sentence; more lines on groups and on splits without images.
      palette_hint: the palette that the layout implies, if any.
      is_hashed: whether the hash of the names alone decides which images go to "val".
      class_lists: paths of files that may list the classes, see `class_lists`.
    """

    root: str
    layout: str
    pairs: Pairs
    rejects: tuple[Reject, ...]
    summary: str
    palette_hint: Palette | None = None
    is_hashed: bool = False
    class_lists: tuple[str, ...] = ()

    @property
    def labels(self) -> Labels:
        return Labels(self.pairs)


def scan(root: str, layout: str = "auto", val_fraction: float = 0.1, group_by: str = "") -> RawSet:
    """Finds and pairs the images and labels of a raw set.

    Args:
      root: a folder or a manifest file, local or gs://.
      layout: one of `options.LAYOUTS`; "auto" takes a manifest, else the first layout that the folder has.
      val_fraction: share of images (of groups, with `group_by`) that go to "val" if the set names none for it,
        in [0, 1).
      group_by: regular expression; images whose keys match with the same text (its first group, if it has one), such
        as the frames of a film, go to the same split.

    Raises:
      InputError: the folder is missing, does not have that layout, or has no image with a label; or `group_by` is not
        a regular expression, or matches no key.
    """
    manifest = _manifest_path(root, layout)
    if manifest:
        folder = posixpath.dirname(manifest) or "."
        # Whoever wrote it said which images are validated.
        return raw_set(folder, "manifest", read_manifest(manifest), val_fraction, group_by, divides=False)
    suffixes: Counter[str] = Counter()
    unread: dict[str, str] = {}
    lists: list[str] = []
    held: list[str] = []
    try:
        folders = Folders(root, _noting(seen(_watching(storage.walk(root), held), suffixes, unread), lists))
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error}") from None
    recognised = recognise(folders, layout)
    if recognised is None:
        if held and (owner := leases.writer(root)):
            raise InputError(f"{owner}, and is not a raw set of a known layout yet; {leases.ONCE_ENDED}")
        raise not_recognised(root, layout, folders, suffixes)
    name, candidates = recognised
    candidates.origin += left_out(suffixes)
    if name == "paired":
        candidates = split_lists.applied(candidates, root, lists)
    raw = raw_set(root, name, candidates, val_fraction, group_by, unread=unread)
    files = itertools.chain(*(_named(folders, top) for top in class_lists.FOLDERS))
    raw = replace(raw, class_lists=tuple(storage.join(root, file) for file in class_lists.among(files)))
    if held and (owner := leases.writer(root)):  # such as `records export`
        warning = f"warning: {owner}, so images may be missing here that it has yet to write; {leases.ONCE_ENDED}"
        raw = replace(raw, summary=f"{raw.summary}\n{warning}")
    return raw


def _watching(files: Iterable[storage.File], held: list[str]) -> Iterator[storage.File]:
    """Yields the files, and adds the path of a lease of their folder to `held`: looking it up would take a request."""
    for file in files:
        if file.relative == leases.FILE:
            held.append(file.path)
        yield file


def _noting(rows: Iterable[Row], lists: list[str]) -> Iterator[Row]:
    """Yields the rows, and adds the paths of lists of splits to `lists`."""
    for row in rows:
        if row[0].endswith(".txt") and split_lists.is_list(row[0]):
            lists.append(row[0])
        yield row


def _named(folders: Folders, top: str) -> Iterator[str]:
    """Yields the paths, relative to the set, of the files in a top-level folder."""
    return (posixpath.join(top, below) for below, *_ in folders.of(top))


def raw_set(
    root: str,
    layout: str,
    candidates: Candidates,
    val_fraction: float,
    group_by: str,
    divides: bool = True,
    unread: Mapping[str, str] = MappingProxyType({}),
) -> RawSet:
    """Pairs the candidates and assigns splits, see `split_by_group`.

    Args:
      divides: as for `split_by_group`.
      unread: as for `of_unread`.

    Raises:
      InputError: no image has a label.
    """
    pairs, rejects = pair_by_key(candidates)
    rejects = sorted(of_unread(candidates.rejects + rejects, unread), key=lambda reject: (reject.key, reject.path))
    if not pairs:
        example = f"; for example {rejects[0].path}: {rejects[0].reason}" if rejects else ""
        cure = "" if layout == "manifest" else other_pairs(root)
        raise Unpaired(f"{root}: {layout} ({candidates.origin}), but no image has a label{example}", cure)
    unsplit = pairs
    pairs, note = split_by_group(pairs, val_fraction, group_by, divides)
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
            *shared_labels(layout, pairs),
            *empty_splits(unsplit, counts, val_fraction, divides, "group" if group_by else "image"),
        ),
    )
    order = sorted(counts, key=lambda split: (*(split != known for known in ("train", "val", "test")), split))
    summary = f"{layout}: {candidates.origin}, {' + '.join(f'{counts[s]} {s}' for s in order)} images"
    summary += f", {len(rejects)} rejected" if rejects else ""
    summary = "\n".join((summary, *notes))
    is_hashed = not any(pair.split for pair in unsplit) or (divides and lacks_val(unsplit))
    return RawSet(root, layout, pairs, tuple(rejects), summary, candidates.palette_hint, is_hashed)


def _manifest_path(root: str, layout: str) -> str | None:
    """The path of the manifest, if the input is one or a folder with one; else None."""
    manifests = [storage.join(root, name) for name in MANIFESTS]
    with ThreadPoolExecutor(2 + len(manifests)) as pool:
        known = {path: pool.submit(storage.exists, path) for path in (root, *manifests)}
        is_folder = pool.submit(storage.is_dir, root)
    is_file = known[root].result()  # first: permission to read objects does not imply permission to list them
    if not is_file and is_folder.result():
        if layout not in ("auto", "manifest"):
            return None
        return next((path for path in manifests if known[path].result()), None)
    if not is_file:
        raise InputError(f"{root} {storage.absence(root)}; expected a folder with images and labels, or a manifest")
    if not root.lower().endswith(SUFFIXES):
        raise InputError(f"{root} is a file; expected a folder, or a manifest named *.csv or *.jsonl")
    if layout not in ("auto", "manifest"):
        raise InputError(f"{root} is a manifest, not the layout {layout}; omit --layout")
    return root
