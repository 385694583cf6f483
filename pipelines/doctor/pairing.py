"""Pairs the images and labels of a folder by similar names, if it has no known layout or only part of one."""

from __future__ import annotations

import itertools
import posixpath
from collections import Counter
from dataclasses import replace

from pipelines.doctor import folders
from pipelines.doctor.findings import MANIFEST
from pipelines.doctor.verdict import REJECT, SHOWN, Example, Finding
from pipelines.inputs import class_lists, split_lists
from pipelines.inputs.layouts import Candidates
from pipelines.inputs.names import hidden
from pipelines.inputs.pairs import is_alone
from pipelines.inputs.rawset import RawSet, raw_set, scan
from pipelines.inputs.rows import Row
from pipelines.inputs.unrecognised import Unpaired
from trainer import storage
from trainer.formats.images import SUFFIXES
from trainer.options import InputError
from trainer.storage import File


def find(
    root: str, layout: str, val_fraction: float, group_by: str, images: str = "", labels: str = ""
) -> tuple[RawSet, tuple[Finding, ...]]:
    """The raw set as prepare would scan it, or one paired by similar names if that has more pairs; with findings.

    Args:
      images, labels: patterns of the folders of both, see `folders.named`, which alone are taken then; "" for none.

    Raises InputError if there is no pair.
    """
    if images:
        files = _files(root)
        return _set(root, files, folders.named(root, files, images, labels), val_fraction, group_by), ()
    known, fault, is_elsewhere = None, "", False
    try:
        known = scan(root, layout, val_fraction, group_by)
        alone = [reject for reject in known.rejects if is_alone(reject)]
        if not alone:
            return known, ()
    except Unpaired as error:
        fault, is_elsewhere = error.fault, error.is_elsewhere
    except InputError as error:
        fault = str(error)
    guessed = _guess(root, val_fraction, group_by) if layout in ("auto", "paired") else None
    if guessed is None or (known and len(guessed.pairs) <= len(known.pairs)):
        if known is None:
            is_told = is_elsewhere or not storage.is_dir(root)
            raise InputError(fault if is_told else fault + folders.advice(_files(root)))
        return known, ()
    if known:
        guessed = replace(guessed, palette_hint=known.palette_hint)
        fault = f"{len(alone)} images or labels have no partner of the same name, such as {alone[0].path}"
    text = f"prepare does not pair these files: {fault}"
    cure = f"--input {MANIFEST}, which pairs them by what their names share apart from words such as mask and image"
    examples = tuple(
        Example(n, pair.image, f"with {pair.label}") for n, pair in enumerate(itertools.islice(guessed.pairs, SHOWN))
    )
    kind = "pairing" if known else "layout"
    finding = Finding(
        kind, REJECT, count=len(guessed.pairs), of=0, unit="pairs found", text=text, cure=cure, examples=examples
    )
    return guessed, (finding,)


def _guess(root: str, val_fraction: float, group_by: str) -> RawSet | None:
    if not storage.is_dir(root):
        return None
    try:
        files = _files(root)
    except OSError:
        return None
    images: list[Row] = []
    labels: list[Row] = []
    splits: dict[str, str] = {}
    # Words in the folder of all images, such as "Semantic segmentation dataset", do not tell one kind from the other.
    parents = {posixpath.dirname(file.relative) for file in files if file.relative.lower().endswith(SUFFIXES)}
    shared = len(posixpath.commonpath(parents)) if parents else 0
    for file in files:
        stem, suffix = posixpath.splitext(file.relative)
        if suffix.lower() in SUFFIXES:
            key, is_label = folders.name_key(stem)[0], folders.name_key(stem[shared:])[1]
            (labels if is_label else images).append((key, file.path, file.size, file.modified))
            if not is_label:
                splits[key] = folders.split_of(key)
    candidates = folders.candidates(images, labels, splits)
    candidates.origin = f"pairs by words in their names{candidates.origin}"
    if _is_doubtful(candidates, len(storage.join(root, "")) + shared):
        return None
    try:
        return _set(root, files, candidates, val_fraction, group_by)
    except InputError:
        return None


def _is_doubtful(candidates: Candidates, shared: int) -> bool:
    """Whether files without a partner may be the labels, or other labels: at least half as many as there are pairs.

    In DRIVE, `mask` holds the fields of view, and `1st_manual`, which no word marks, the labels. Segments.ai exports
    `a_label_ground-truth.png`, which numbers objects, and `a_label_ground-truth_semantic.png`.

    Args:
      shared: length of the path of the folder that all images share.
    """
    labelled, known = ({key for key, *_ in files} for files in (candidates.labels, candidates.images))
    folder_of = lambda path: posixpath.dirname(path[shared:])
    pairs = Counter(folder_of(path) for key, path, *_ in candidates.images if key in labelled)
    alone = Counter(folder_of(path) for key, path, *_ in candidates.images if key not in labelled)
    unknown = sum(count for folder, count in alone.items() if folder not in pairs and not folders.says_image(folder))
    others = sum(1 for key, *_ in candidates.labels if key not in known)
    return 2 * max(unknown, others) >= pairs.total() > 0


def _files(root: str) -> list[File]:
    return [file for file in storage.files(root) if not hidden(file.relative)]


def _set(root: str, files: list[File], candidates: Candidates, val_fraction: float, group_by: str) -> RawSet:
    lists = class_lists.among(file.relative for file in files)
    of_splits = [file.relative for file in files if split_lists.is_list(file.relative)]
    candidates = split_lists.applied(candidates, root, of_splits)
    raw = raw_set(root, "manifest", candidates, val_fraction, group_by)
    return replace(raw, class_lists=tuple(storage.join(root, file) for file in lists))
