"""Raw sets: finds pictures and their labels, pairs them by name, and gives each pair a key and a split.

Layouts (`--layout`, or `auto`, which takes the first that is there):

    manifest    a .csv (header image,label[,split]) or .jsonl file, or a folder with manifest.csv or manifest.jsonl
    voc         JPEGImages, SegmentationClassAug or SegmentationClass, ImageSets/Segmentation/{train,val,...}.txt
    cityscapes  leftImg8bit/<split>/<city>/*_leftImg8bit.png, gtFine/<split>/<city>/*_gtFine_label[Train]Ids.png
    camvid      images/<split> with labels/<split>, or SegNet's train with trainannot, val with valannot, ...
    paired      images with labels, masks or annotations

A picture's key is its path below its picture folder without the suffix, so that `train/a` and `val/a` are two
pictures and adding pictures changes no other picture's key. Nothing is read but names, lists and manifests, and
time is linear in the number of files.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipelines.inputs.layouts import Found, hidden, not_recognised, recognise, reject
from pipelines.inputs.manifest import read_manifest
from trainer import storage
from trainer.formats import images
from trainer.formats.labels import JSON_FORM, Color, Palette, ranges
from trainer.formats.palettes import CAMVID, CITYSCAPES, CITYSCAPES_TRAINIDS, VOC, resolve
from trainer.formats.records import Reject
from trainer.options import InputError
from trainer.storage import File

LAYOUTS = ("auto", "manifest", "voc", "cityscapes", "camvid", "paired")
MANIFESTS = ("manifest.csv", "manifest.jsonl")


@dataclass(frozen=True)
class Pair:
    """One picture with its label.

    Attributes:
      key: names the picture in the set; a safe relative path, unique.
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
      layout: one of LAYOUTS, never "auto".
      pairs: sorted by key.
      rejects: pictures and labels that cannot be used, with reasons.
      saw: one sentence for people.
      palette_hint: the palette the layout implies, if it does.
    """

    root: str
    layout: str
    pairs: tuple[Pair, ...]
    rejects: tuple[Reject, ...]
    saw: str
    palette_hint: Palette | None = None


def scan(root: str, layout: str = "auto", val_fraction: float = 0.1) -> RawSet:
    """Finds and pairs the pictures and labels of a raw set.

    Args:
      root: a folder or a manifest file, local or gs://.
      layout: one of LAYOUTS.
      val_fraction: share of pictures that go to "val" where the set has no splits of its own, 0 <= it < 1.

    Raises:
      InputError: no such folder, no such layout in it, or not one picture with a label.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not 0 <= val_fraction < 1:
        raise InputError(f"val_fraction must be at least 0 and less than 1, got {val_fraction}")
    manifest = _manifest_path(root, layout)
    if manifest:
        folder = posixpath.dirname(manifest) or "."
        return _raw_set(folder, "manifest", read_manifest(manifest), val_fraction)
    try:
        files = storage.files(root)
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error}") from None
    files = [file for file in files if not hidden(file.relative)]
    recognised = recognise(files, layout)
    if recognised is None:
        raise InputError(not_recognised(root, layout, files))
    return _raw_set(root, *recognised, val_fraction)


def _raw_set(root: str, layout: str, found: Found, val_fraction: float) -> RawSet:
    pairs, rejects = pair_by_key(found, val_fraction)
    rejects = sorted(found.rejects + rejects, key=lambda reject: (reject.key, reject.path))
    if not pairs:
        example = f"; for example {rejects[0].path}: {rejects[0].reason}" if rejects else ""
        raise InputError(f"{root}: {layout} ({found.what}), but not one picture has a label{example}")
    counts = Counter(pair.split for pair in pairs)
    order = sorted(counts, key=lambda split: (*(split != known for known in ("train", "val", "test")), split))
    saw = f"{layout}: {found.what}, {' + '.join(f'{counts[s]} {s}' for s in order)} pictures"
    saw += f", {len(rejects)} rejected" if rejects else ""
    return RawSet(root, layout, tuple(pairs), tuple(rejects), saw, found.palette_hint)


def pair_by_key(found: Found, val_fraction: float) -> tuple[list[Pair], list[Reject]]:
    """Pairs pictures and labels that have the same key; everything else is a reject."""
    pairs, rejects = [], []
    for key, pictures in sorted(found.images.items()):
        labels = found.labels.get(key, [])
        reason = _why_not(key, pictures, labels)
        if reason:
            rejects += [reject(key, picture.path, reason) for picture in pictures]
            continue
        image, label = pictures[0], labels[0]
        split = found.split_of(key) or hash_split(key, val_fraction)
        size, modified = image.size + label.size, image.modified + label.modified
        pairs.append(Pair(key, image.path, label.path, split, size, modified))
    for key in found.labels.keys() - found.images.keys():
        rejects += [reject(key, label.path, "label without a picture of that name") for label in found.labels[key]]
    return pairs, rejects


def hash_split(key: str, val_fraction: float) -> str:
    """ "train" or "val" by the md5 of the key: adding pictures moves none of the others."""
    share = int.from_bytes(hashlib.md5(key.encode()).digest()[:8], "big") / 2**64
    return "val" if share < val_fraction else "train"


def _why_not(key: str, pictures: list[File], labels: list[File]) -> str | None:
    if len(pictures) > 1:
        return f"{len(pictures)} pictures have the same name: {_names(pictures)}; rename or remove all but one"
    if not labels:
        return "picture without a label of that name"
    if len(labels) > 1:
        return f"{len(labels)} labels have the picture's name: {_names(labels)}; remove all but one"
    try:
        storage.safe_relative(key)
    except InputError as error:
        return str(error)
    return None


def _names(files: Iterable[File]) -> str:
    return ", ".join(posixpath.basename(file.path) for file in files)


def _manifest_path(root: str, layout: str) -> str | None:
    """The manifest, when the input is one or a folder with one."""
    if storage.is_dir(root):
        if layout not in ("auto", "manifest"):
            return None
        return next((path for name in MANIFESTS if storage.exists(path := storage.join(root, name))), None)
    if not storage.exists(root):
        raise InputError(f"there is no {root}; expected a folder with pictures and labels, or a manifest")
    if not root.lower().endswith((".csv", ".jsonl")):
        raise InputError(f"{root} is a file; expected a folder, or a manifest named *.csv or *.jsonl")
    if layout not in ("auto", "manifest"):
        raise InputError(f"{root} is a manifest, but the layout is to be {layout}; leave --layout away")
    return root


def detect_palette(rawset: RawSet, palette: str = "auto") -> tuple[Palette, str]:
    """Says which palette the labels of a raw set are coded by.

    Args:
      rawset: from `scan`.
      palette: "auto", the name of a built-in palette, or a palette file. With "auto", palette.json in the set's
        folder decides, then the layout, then what a sample of labels holds.

    Returns:
      The palette, and a sentence that says why.

    Raises:
      InputError: no such palette, or "auto" cannot tell.
    """
    if palette != "auto":
        return resolve(palette), f"palette {palette}, as asked for"
    file = storage.join(rawset.root, "palette.json")
    if storage.exists(file):
        found = resolve(file)
        return found, f"palette {found.name} of {found.num_classes} classes, from {file}"
    if rawset.palette_hint:
        return rawset.palette_hint, f"palette {rawset.palette_hint.name}, as is usual for {rawset.layout} sets"
    sample = _sample(rawset.pairs)
    found = _palette_of(sample, rawset.layout)
    if found is None:
        raise InputError(
            f"{rawset.root}: cannot tell the palette; {sample.describe()}. Pass --palette camvid, voc, cityscapes or "
            f"cityscapes-trainids, or a JSON file (also found as palette.json in that folder) like {JSON_FORM}"
        )
    return found, f"palette {found.name}: {sample.describe()}"


@dataclass(frozen=True)
class Sample:
    """What some labels of a set hold.

    Attributes:
      labels: how many could be read.
      ids: ids or palette indices of single-channel labels.
      colors: RGB colours of three-channel labels, at most a thousand.
      embedded: the colour maps that palette PNGs carry.
    """

    labels: int
    ids: frozenset[int]
    colors: frozenset[Color]
    embedded: frozenset[tuple[Color, ...]]

    def describe(self) -> str:
        if not self.labels:
            return "not one of the sampled labels could be read"
        ids = [f"ids {ranges(sorted(self.ids))}"] if self.ids else []
        colors = [str(color) for color in sorted(self.colors)[:6]]
        more = ", ..." if len(self.colors) > 6 else ""
        colors = [f"{len(self.colors)} colours {', '.join(colors)}{more}"] if colors else []
        subject = "1 sampled label holds" if self.labels == 1 else f"{self.labels} sampled labels hold"
        return f"{subject} {' and '.join(ids + colors)}"


def _sample(pairs: tuple[Pair, ...], most: int = 32) -> Sample:
    """Looks into `most` labels, evenly spaced; those that cannot be read are left out."""
    count = min(most, len(pairs))
    labels, ids, colors, embedded = 0, set(), set(), set()
    for pair in (pairs[index * len(pairs) // count] for index in range(count)):
        try:
            data = storage.read(pair.label)
            label = images.decode_label(data)
        except (images.ImageError, OSError):
            continue
        labels += 1
        if label.ndim == 2:
            ids.update(np.flatnonzero(np.bincount(label.ravel(), minlength=256)).tolist())
            embedded |= _embedded(data)
        elif len(colors) < 1000:
            packed = np.unique(label.astype(np.int32) @ np.int32([1 << 16, 1 << 8, 1]))[:1000].tolist()
            colors.update((code >> 16, code >> 8 & 255, code & 255) for code in packed)
    return Sample(labels, frozenset(ids), frozenset(colors), frozenset(embedded))


def _embedded(data: bytes) -> set[tuple[Color, ...]]:
    """The colour map of a palette PNG; none for other pictures."""
    with Image.open(io.BytesIO(data), formats=images.FORMATS) as picture:
        flat = picture.getpalette("RGB") if picture.mode == "P" else None
    return {tuple(zip(flat[0::3], flat[1::3], flat[2::3], strict=True))} if flat else set()


def _palette_of(sample: Sample, layout: str) -> Palette | None:
    """The one built-in palette that a sample can be coded by; None when there is none, or more than one."""
    if sample.ids and sample.colors:
        return None
    if sample.colors:
        fits = [palette for palette in (VOC, CAMVID, CITYSCAPES) if sample.colors <= palette.known_colors()]
        return fits[0] if len(fits) == 1 else None
    if sample.embedded:
        for palette in (VOC, CAMVID, CITYSCAPES_TRAINIDS):
            known = {*range(palette.num_classes), palette.ignore_id}
            maps = {colors[: palette.num_classes] for colors in sample.embedded}
            if maps == {palette.colors} and sample.ids <= known:
                return palette
    # Ids alone say little; CamVid's folders, its range and most of its classes together say enough.
    if layout == "camvid" and len(sample.ids) >= 6 and max(sample.ids) <= CAMVID.ignore_id:
        return CAMVID
    return None
