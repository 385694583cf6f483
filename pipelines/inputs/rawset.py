"""Raw sets: finds images and their labels, pairs them by name, and gives each pair a key and a split.

An image's key is its path below its image folder without the suffix, so that `train/a` and `val/a` are two images and
adding images changes no other image's key. Nothing is read but names, lists and manifests, and time is linear in the
number of files.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipelines.inputs.layouts import Candidates, left_out, not_recognised, recognise, reject
from pipelines.inputs.manifest import MANIFESTS, SUFFIXES, read_manifest
from pipelines.inputs.names import hidden, partners
from trainer import storage
from trainer.accounts import Reject
from trainer.formats.labels import Palette
from trainer.options import InputError
from trainer.storage import File


@dataclass(frozen=True)
class Pair:
    """One image with its label.

    Attributes:
      key: names the image in the set; a safe relative path, unique.
      image, label: paths, local or gs://.
      split: "train", "val", "test" or what folders or the manifest say.
      size: bytes of both files.
      modified: sum of both files' `storage.File.modified`; changes when either file does.
    """

    key: str
    image: str
    label: str
    split: str
    size: int
    modified: int


@dataclass(frozen=True)
class RawSet:
    """What `scan` found.

    Attributes:
      root: the folder (of the manifest, when that was given).
      layout: one of `options.LAYOUTS`, never "auto".
      pairs: sorted by key.
      rejects: images and labels that cannot be used, with reasons.
      summary: a human-readable sentence, and another one in a line of its own where images are grouped.
      palette_hint: the palette the layout implies, if it does.
    """

    root: str
    layout: str
    pairs: tuple[Pair, ...]
    rejects: tuple[Reject, ...]
    summary: str
    palette_hint: Palette | None = None


def scan(root: str, layout: str = "auto", val_fraction: float = 0.1, group_by: str = "") -> RawSet:
    """Finds and pairs the images and labels of a raw set.

    Args:
      root: a folder or a manifest file, local or gs://.
      layout: one of `options.LAYOUTS`; "auto" takes a manifest, then the first of the layouts that the folder has.
      val_fraction: share of images (of groups, with `group_by`) that go to "val" where the set has no splits of its
        own, 0 <= it < 1.
      group_by: regular expression; images in whose keys it finds the same text (its first group, if it has one) are
        of one film or one tile, and go to one split.

    Raises:
      InputError: the folder is missing, has no such layout, or not one image with a label; or `group_by` is no
        regular expression, or finds nothing in any key.
    """
    manifest = _manifest_path(root, layout)
    if manifest:
        folder = posixpath.dirname(manifest) or "."
        return raw_set(folder, "manifest", read_manifest(manifest), val_fraction, group_by)
    try:
        files = storage.files(root)
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error}") from None
    seen = [file for file in files if not hidden(file.relative)]
    recognised = recognise(seen, layout)
    if recognised is None:
        raise InputError(not_recognised(root, layout, seen))
    name, candidates = recognised
    candidates.origin += left_out(files)
    return raw_set(root, name, candidates, val_fraction, group_by)


def raw_set(root: str, layout: str, candidates: Candidates, val_fraction: float, group_by: str) -> RawSet:
    """The set of these candidates, paired. Raises InputError where not one image has a label."""
    pairs, rejects = pair_by_key(candidates)
    rejects = sorted(candidates.rejects + rejects, key=lambda reject: (reject.key, reject.path))
    if not pairs:
        example = f"; for example {rejects[0].path}: {rejects[0].reason}" if rejects else ""
        raise InputError(f"{root}: {layout} ({candidates.origin}), but not one image has a label{example}")
    pairs, note = split_by_group(pairs, val_fraction, group_by)
    counts = Counter(pair.split for pair in pairs)
    order = sorted(counts, key=lambda split: (*(split != known for known in ("train", "val", "test")), split))
    summary = f"{layout}: {candidates.origin}, {' + '.join(f'{counts[s]} {s}' for s in order)} images"
    summary += f", {len(rejects)} rejected" if rejects else ""
    summary += f"\n{note}" if note else ""
    return RawSet(root, layout, tuple(pairs), tuple(rejects), summary, candidates.palette_hint)


def pair_by_key(candidates: Candidates) -> tuple[list[Pair], list[Reject]]:
    """Pairs images and labels that have the same key; everything else is a reject.

    The split of a pair is "" where folders, lists and manifest say nothing.
    """
    label_of = partners(candidates.images, candidates.labels)
    pairs, rejects = [], []
    for key, images in sorted(candidates.images.items()):
        labels = candidates.labels[label_of[key]] if key in label_of else []
        fault = _fault(key, images, labels)
        if fault:
            rejects += [reject(key, image.path, fault) for image in images]
            continue
        image, label = images[0], labels[0]
        size, modified = image.size + label.size, image.modified + label.modified
        pairs.append(Pair(key, image.path, label.path, candidates.split_of(key) or "", size, modified))
    for key in candidates.labels.keys() - set(label_of.values()):
        labels = candidates.labels[key]
        rejects += [reject(key, label.path, "label without an image of that name") for label in labels]
    return pairs, rejects


def split_by_group(pairs: Sequence[Pair], val_fraction: float, group_by: str) -> tuple[list[Pair], str]:
    """Gives every pair a split: its own, else that of the others in its group, else by the hash of the group.

    Returns:
      The pairs in their order, and a sentence on the groups; empty without `group_by`.

    Raises:
      InputError: `group_by` is no regular expression, or finds nothing in any key.
    """
    first = _same_files(pairs)
    found = [group_of(first.get(pair.key, pair.key), group_by) if group_by else None for pair in pairs]
    if group_by and not any(found):
        raise InputError(f"--group-by {group_by!r} finds nothing in any key, such as {pairs[0].key!r}")
    if not group_by and not first:
        return [p if p.split else replace(p, split=hash_split(p.key, val_fraction)) for p in pairs], ""
    # A key that nothing is found in is a group of its own, or that of the image which it is one file with.
    groups = [group or first.get(pair.key, pair.key) for pair, group in zip(pairs, found, strict=True)]
    own: dict[str, set[str]] = {}
    for pair, group in zip(pairs, groups, strict=True):
        own.setdefault(group, set()).update({pair.split} - {""})

    def split(pair: Pair, group: str) -> str:
        known = next(iter(own[group])) if len(own[group]) == 1 else ""
        return pair.split or known or hash_split(group, val_fraction)

    pairs = [replace(pair, split=split(pair, group)) for pair, group in zip(pairs, groups, strict=True)]
    notes = []
    if group_by:
        alone = [pair.key for pair, group in zip(pairs, found, strict=True) if not group]
        note = f"--group-by: {len({*found} - {None})} groups"
        if alone:
            note += f"; keys in which it finds nothing are groups of their own: {len(alone)}, such as {alone[0]!r}"
        notes.append(note)
        splits = {pair.split for pair in pairs}
        for name, cure in (("train", "lower"), ("val", "raise")) if val_fraction else ():
            if name not in splits:
                notes.append(
                    f"warning: no group is in split {name}; {cure} --val-fraction, or list the splits in a manifest"
                )
    for key, other in list(first.items())[:1]:
        notes.append(
            f"images that are the files of others, through links: {len(first)}, such as {key}, which is {other}; "
            "they share a split where the set gives none"
        )
    if torn := sorted(group for group, splits in own.items() if len(splits) > 1):
        notes.append(
            "warning: groups that lie in several splits, as the set's own folders, lists or manifest say: "
            f"{len(torn)}, such as {torn[0]!r} in {' and '.join(sorted(own[torn[0]]))}"
        )
    return pairs, "\n".join(notes)


def _same_files(pairs: Sequence[Pair]) -> dict[str, str]:
    """Key of an image -> that of the first which is the same file, through links; nothing for images of their own."""
    alike: dict[tuple[int, int], list[Pair]] = {}
    for pair in pairs:
        alike.setdefault((pair.size, pair.modified), []).append(pair)
    first: dict[str, str] = {}
    for candidates in alike.values():
        keys: dict[str, str] = {}
        for pair in candidates if len(candidates) > 1 else ():
            key = keys.setdefault(storage.real(pair.image), pair.key)
            if key != pair.key:
                first[pair.key] = key
    return first


def group_of(key: str, group_by: str) -> str | None:
    """What the regular expression `group_by` finds in `key`: its first group, else all of it; None for nothing.

    Raises InputError when it is no regular expression.
    """
    try:
        found = re.search(group_by, key)
    except re.error as error:
        raise InputError(f"--group-by {group_by!r} is no regular expression: {error}") from None
    # An alternative may leave the first group out; what is found in no place of the text is no name of a group.
    return (found and next((group for group in found.groups() if group is not None), found[0])) or None


def hash_split(key: str, val_fraction: float) -> str:
    """ "train" or "val" by the md5 of the key: adding images moves none of the others."""
    share = int.from_bytes(hashlib.md5(key.encode()).digest()[:8], "big") / 2**64
    return "val" if share < val_fraction else "train"


def _fault(key: str, images: list[File], labels: list[File]) -> str | None:
    """Why the files of a key are no pair, in words; None when they are one."""
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


def _names(files: Iterable[File]) -> str:
    return ", ".join(posixpath.basename(file.path) for file in files)


def _manifest_path(root: str, layout: str) -> str | None:
    """The manifest, when the input is one or a folder with one."""
    is_file = storage.exists(root)  # first, for who may read objects need not be allowed to list them
    if not is_file and storage.is_dir(root):
        if layout not in ("auto", "manifest"):
            return None
        return next((path for name in MANIFESTS if storage.exists(path := storage.join(root, name))), None)
    if not is_file:
        raise InputError(f"{root} not found; expected a folder with images and labels, or a manifest")
    if not root.lower().endswith(SUFFIXES):
        raise InputError(f"{root} is a file; expected a folder, or a manifest named *.csv or *.jsonl")
    if layout not in ("auto", "manifest"):
        raise InputError(f"{root} is a manifest, not the layout {layout}; omit --layout")
    return root
