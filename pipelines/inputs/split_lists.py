"""Lists of splits in sets whose folders are no splits: train.txt, valid.txt, test.txt, ... anywhere in the set.

Such sets are fast.ai's CamVid, the Oxford-IIIT Pets or SBD. Pascal VOC's layout has lists of its own, see `voc`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import replace

from pipelines.inputs import voc
from pipelines.inputs.layouts import Candidates, Keyed, Splits
from pipelines.inputs.names import split_named
from pipelines.inputs.rows import Row, Rows, among
from trainer import storage
from trainer.terminal import some

KNOWN = 0.9
"""Minimum share of a list's entries that name images with labels."""


def is_list(path: str) -> bool:
    """Whether a file is named like a list of a split."""
    stem, suffix = posixpath.splitext(posixpath.basename(path))
    return suffix == ".txt" and (stem in voc.LISTS or split_named(stem) is not None)


def applied(candidates: Candidates, root: str, lists: Iterable[str]) -> Candidates:
    """The candidates with the splits that lists in the set give, if its folders give none.

    The lists of one folder are used: those that name most images, and all of a split. Images that they do not name are
    left out, as in Pascal VOC's layout; but without a list of the training, they are the training.

    Args:
      root: the folder of the set.
      lists: paths relative to it, for which `is_list` is true.

    Raises:
      InputError: a list cannot be read.
    """
    lists = sorted(lists)
    if not lists or any(candidates.split_of(key) for key in candidates.images.names):
        return candidates
    images = Rows(among(candidates.images, candidates.labels))
    used = _used(root, lists, images)
    if not used:
        note = f" (lists that name other images, not read: {some(lists, 4)})"
        return replace(candidates, origin=candidates.origin + note)
    # Entries that name an image without a label, or none, are rejects.
    found = _listed(root, used, candidates.images)
    rejects = [*candidates.rejects, *found.rejects]
    note = f", splits by {', '.join(path for _, path in used)}"
    if others := [path for path in lists if path not in {path for _, path in used}]:
        note += f" (lists of fewer or other images, not read: {some(others, 4)})"
    if found.torn:
        note += f" (in lists of several splits: {found.torn})"
    note += found.note
    if not any(voc.LISTS[name] in ("train", None) for name, _ in used):
        known = Splits(found.splits)
        splits = Splits((key, known.of(key) or "train") for key, *_ in images)
        return replace(candidates, origin=candidates.origin + note, split_of=splits.of, rejects=rejects)
    if left_out := candidates.images.keys() - len(found.splits):
        note += f" ({left_out} in no list{' that is read' if others else ''})"
    return replace(
        candidates,
        origin=candidates.origin + note,
        images=Keyed(among(candidates.images, found.splits)),
        labels=Keyed(voc.labels_of((key for key, _ in found.splits), candidates.labels)),
        split_of=Splits(found.splits).of,
        rejects=rejects,
    )


def _used(root: str, lists: Iterable[str], images: Rows) -> list[tuple[str, str]]:
    """The lists of the folder whose lists name most images, as (name, path); none if no list names images of ours."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for path in lists:
        stem = posixpath.splitext(posixpath.basename(path))[0]
        name = stem if stem in voc.LISTS else split_named(stem)
        if _knows(_listed(root, [(name, path)], images)):
            groups.setdefault(posixpath.dirname(path), []).append((name, path))
    return max(groups.values(), key=lambda group: len(_listed(root, group, images).splits), default=[])


def _listed(root: str, lists: Iterable[tuple[str, str]], images: Iterable[Row]) -> voc.Listed:
    return voc.listed([(name, storage.join(root, path)) for name, path in lists], images, folder="")


def _knows(found: voc.Listed) -> bool:
    return len(found.splits) >= KNOWN * (len(found.splits) + len(found.rejects)) > 0
