"""Pairs the images and labels of a folder by similar names, if it has no known layout or only part of one."""

from __future__ import annotations

import itertools
import posixpath
import re
from dataclasses import replace

from pipelines.doctor.findings import MANIFEST
from pipelines.doctor.verdict import REJECT, SHOWN, Example, Finding
from pipelines.inputs import class_lists
from pipelines.inputs.layouts import Candidates, Keyed, by_images, other_pairs
from pipelines.inputs.names import hidden, split_named
from pipelines.inputs.rawset import RawSet, raw_set, scan
from pipelines.inputs.rows import Row
from trainer import storage
from trainer.formats.images import SUFFIXES
from trainer.options import InputError
from trainer.storage import File

LABEL_WORDS = frozenset(
    (
        *("label", "labels", "labelled", "mask", "masks", "annot", "annotation", "annotations", "ann", "gt"),
        *("groundtruth", "truth", "seg", "segmentation", "segmentations", "target", "targets"),
        *("trainannot", "valannot", "testannot"),
    )
)
IMAGE_WORDS = frozenset(
    (
        *("image", "images", "img", "imgs", "rgb", "photo", "photos", "frame", "frames", "picture", "pictures"),
        *("input", "inputs", "raw"),
    )
)
"""Words in names, in lower case, that describe the kind of a file rather than identify it."""


def find(root: str, layout: str, val_fraction: float, group_by: str) -> tuple[RawSet, tuple[Finding, ...]]:
    """The raw set as prepare would scan it, or one paired by similar names if that has more pairs; with findings.

    Raises InputError if neither has a pair.
    """
    fault, known = "", None
    try:
        known = scan(root, layout, val_fraction, group_by)
        alone = [reject for reject in known.rejects if "without a" in reject.reason]
        if not alone:
            return known, ()
    except InputError as error:
        fault = str(error).removesuffix(other_pairs(root))
    guessed = _guess(root, val_fraction, group_by) if layout in ("auto", "paired") else None
    if guessed is None or (known and len(guessed.pairs) <= len(known.pairs)):
        if known is None:
            raise InputError(fault)
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
    finding = Finding(kind, REJECT, len(guessed.pairs), 0, "pairs found", text, cure, examples)
    return guessed, (finding,)


def _guess(root: str, val_fraction: float, group_by: str) -> RawSet | None:
    if not storage.is_dir(root):
        return None
    try:
        files = [file for file in storage.files(root) if not hidden(file.relative)]
    except OSError:
        return None
    images: list[Row] = []
    labels: list[Row] = []
    splits: dict[str, str] = {}
    for file in files:
        if posixpath.splitext(file.relative)[1].lower() in SUFFIXES:
            key, is_label = name_key(file)
            (labels if is_label else images).append((key, file.path, file.size, file.modified))
            splits.setdefault(key, next(filter(None, map(split_named, key.split("/")[:-1])), ""))
    keyed_images = Keyed(images)
    keyed_labels, note = by_images(keyed_images, Keyed(labels))
    candidates = Candidates(f"pairs by words in their names{note}", keyed_images, keyed_labels, splits.get)
    lists = class_lists.among(file.relative for file in files)
    try:
        raw = raw_set(root, "manifest", candidates, val_fraction, group_by)
    except InputError:
        return None
    return replace(raw, class_lists=tuple(storage.join(root, file) for file in lists))


def name_key(file: File) -> tuple[str, bool]:
    """A file's path without the words that describe its kind, and whether these words mark it as a label."""
    stem, _ = posixpath.splitext(file.relative)
    kept, is_label = [], False
    for part in stem.split("/"):
        part = re.sub(r"ground[_\-. ]truth", "groundtruth", part, flags=re.IGNORECASE)
        words = [word for word in re.split(r"[_\-. ]+", part) if word]
        said = {word.lower() for word in words} & (LABEL_WORDS | IMAGE_WORDS)
        is_label |= bool(said & LABEL_WORDS)
        rest = [word for word in words if word.lower() not in said]
        kept += ["_".join(rest)] if rest else []
    return "/".join(kept), is_label
