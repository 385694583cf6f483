"""The folder layouts of raw sets: which files are pictures, which are labels, and which belong together.

    voc         JPEGImages, SegmentationClassAug or SegmentationClass, ImageSets/Segmentation/{train,val,...}.txt
    cityscapes  leftImg8bit/<split>/<city>/*_leftImg8bit.png, gtFine/<split>/<city>/*_gtFine_label[Train]Ids.png
    camvid      images/<split> with labels/<split>, or SegNet's train with trainannot, val with valannot, ...
    paired      images with labels, masks or annotations

Names and Pascal VOC's lists are all that is looked at.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from trainer import storage
from trainer.formats.labels import Palette
from trainer.formats.palettes import CITYSCAPES, CITYSCAPES_TRAINIDS, VOC
from trainer.formats.records import Reject
from trainer.storage import File

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_VOC_LISTS = {  # a picture in several lists goes to the first of these, so that none is trained on and judged by
    **{"test": "test", "val": "val", "train": "train", "trainaug": "train", "train_aug": "train", "trainval": None},
}

ByKey = dict[str, list[File]]


@dataclass
class Found:
    """Pictures and labels of one layout, by key, before they are paired.

    Attributes:
      what: the folders or files, for people.
      split_of: split of a key; None leaves it to the hash of the key.
    """

    what: str
    images: ByKey
    labels: ByKey
    split_of: Callable[[str], str | None] = lambda key: None
    rejects: list[Reject] = field(default_factory=list)
    palette_hint: Palette | None = None


def recognise(files: list[File], layout: str) -> tuple[str, Found] | None:
    """The first layout that these files have, or the one that was asked for, if they have it."""
    folders = _by_top_folder(files)
    finders = {"voc": _find_voc, "cityscapes": _find_cityscapes, "camvid": _find_camvid, "paired": _find_paired}
    for name, find in finders.items():
        if layout in ("auto", name) and (found := find(folders)):
            return name, found
    return None


def reject(key: str, path: str, reason: str) -> Reject:
    return Reject(key=key, path=path, stage="scan", reason=reason)


def without_suffix(path: str) -> str:
    return posixpath.splitext(path)[0]


def hidden(relative: str) -> bool:
    return relative.startswith(".") or "/." in relative


def _by_top_folder(files: Iterable[File]) -> dict[str, list[tuple[str, File]]]:
    """Files by their top folder, each with its path below that; files that lie in no folder are under ""."""
    folders: dict[str, list[tuple[str, File]]] = {}
    for file in files:
        top, slash, below = file.relative.partition("/")
        folders.setdefault(top if slash else "", []).append((below if slash else top, file))
    return folders


def _pictures(entries: Iterable[tuple[str, File]], prefix: str = "") -> ByKey:
    by_key: ByKey = {}
    for below, file in entries:
        stem, suffix = posixpath.splitext(below)
        if suffix.lower() in PICTURE_SUFFIXES:
            by_key.setdefault(prefix + stem, []).append(file)
    return by_key


def _find_voc(folders: dict) -> Found | None:
    label_folders = [name for name in ("SegmentationClassAug", "SegmentationClass") if name in folders]
    if "JPEGImages" not in folders or not label_folders:
        return None
    images = _pictures(folders["JPEGImages"])
    labels: ByKey = {}
    for name in reversed(label_folders):
        labels.update(_pictures(folders[name]))
    what = f"JPEGImages with {' and '.join(label_folders)}"
    splits, source = _voc_splits(folders)
    if not splits:
        return Found(what, images, labels, palette_hint=VOC)
    # The lists say what the set is: of VOC's 17125 pictures only 2913 are meant for segmentation.
    rejects = [
        reject(key, f"JPEGImages/{key}", f"listed in {source[key]}, but there is no such picture in JPEGImages")
        for key in splits
        if key not in images
    ]
    left_out = len(images.keys() - splits.keys())
    what += f" by {', '.join(dict.fromkeys(source.values()))}" + (f" ({left_out} in no list)" if left_out else "")
    images = {key: images[key] for key in splits if key in images}
    labels = {key: labels[key] for key in images if key in labels}
    return Found(what, images, labels, splits.get, rejects, VOC)


def _voc_splits(folders: dict) -> tuple[dict[str, str | None], dict[str, str]]:
    """Split of every listed key, and the list it is from."""
    lists = {
        without_suffix(posixpath.basename(below)): file
        for below, file in folders.get("ImageSets", [])
        if re.fullmatch(r"Segmentation/\w+\.txt", below)
    }
    splits: dict[str, str | None] = {}
    source: dict[str, str] = {}
    for name, split in _VOC_LISTS.items():
        if name not in lists:
            continue
        for line in storage.read(lists[name].path).decode("utf-8-sig", errors="replace").splitlines():
            words = line.split()
            # Some lists of the augmented set hold "/JPEGImages/KEY.jpg /SegmentationClassAug/KEY.png".
            if words and (key := without_suffix(posixpath.basename(words[0]))) not in splits:
                splits[key], source[key] = split, f"{name}.txt"
    return splits, source


def _find_cityscapes(folders: dict) -> Found | None:
    if "leftImg8bit" not in folders or "gtFine" not in folders:
        return None
    images = _pictures(folders["leftImg8bit"])
    coded = {coding: _cityscapes_labels(folders["gtFine"], coding) for coding in ("labelTrainIds", "labelIds")}
    if not images or not any(coded.values()):
        return None
    # One set is read by one coding. Class ids as they are come first, unless they are there for a part only.
    coding = "labelTrainIds" if len(coded["labelTrainIds"]) >= len(coded["labelIds"]) else "labelIds"
    return Found(
        f"leftImg8bit with gtFine/*_{coding}.png",
        images,
        coded[coding],
        lambda key: SPLIT_FOLDERS.get(key.split("/")[0], key.split("/")[0]) if "/" in key else None,
        palette_hint=CITYSCAPES_TRAINIDS if coding == "labelTrainIds" else CITYSCAPES,
    )


def _cityscapes_labels(entries: list[tuple[str, File]], coding: str) -> ByKey:
    """Labels of one coding under the keys of their pictures."""
    ending = f"_gtFine_{coding}.png"
    labels = [(below.removesuffix(ending) + "_leftImg8bit.png", f) for below, f in entries if below.endswith(ending)]
    return _pictures(labels)


def _split_of_folder(key: str) -> str | None:
    return SPLIT_FOLDERS.get(key.split("/")[0]) if "/" in key else None


def _in_split_folders(by_key: ByKey) -> bool:
    return bool(by_key) and all(_split_of_folder(key) for key in by_key)


def _find_camvid(folders: dict) -> Found | None:
    if "images" in folders and "labels" in folders:
        images, labels = _pictures(folders["images"]), _pictures(folders["labels"])
        if _in_split_folders(images) and labels:
            what = f"images/{_braces(images)} with labels/{_braces(labels)}"
            return Found(what, images, labels, _split_of_folder)
    splits = [name for name in SPLIT_FOLDERS if name in folders and name + "annot" in folders]
    images, labels = {}, {}
    for name in splits:
        images |= _pictures(folders[name], name + "/")
        labels |= _pictures(folders[name + "annot"], name + "/")
    what = f"{', '.join(splits)} with {', '.join(name + 'annot' for name in splits)}"
    return Found(what, images, labels, _split_of_folder) if images and labels else None


def _braces(by_key: ByKey) -> str:
    names = sorted({key.split("/")[0] for key in by_key if "/" in key}, key=[*SPLIT_FOLDERS].index)
    return "{" + ",".join(names) + "}" if len(names) > 1 else "".join(names)


def _find_paired(folders: dict) -> Found | None:
    images = _pictures(folders.get("images", []))
    for name in ("labels", "masks", "annotations"):
        labels = _pictures(folders.get(name, []))
        if images and labels:
            split_of = _split_of_folder if _in_split_folders(images) else lambda key: None
            return Found(f"images with {name}", images, labels, split_of)
    return None


def not_recognised(root: str, layout: str, files: list[File]) -> str:
    wanted = {
        "voc": "JPEGImages + SegmentationClass",
        "cityscapes": "leftImg8bit + gtFine",
        "camvid": "images/train + labels/train, or train + trainannot",
        "paired": "images + labels, masks or annotations",
        "manifest": "manifest.csv or manifest.jsonl",
    }
    looked = [f"{name} ({text})" for name, text in wanted.items() if layout in ("auto", name)]
    folders = _by_top_folder(files)
    seen = [f"{name}/" for name in sorted(folders) if name] + [below for below, _ in folders.get("", [])]
    message = f"{root}: no raw set that is known; looked for {'; '.join(looked)}; "
    message += f"saw {', '.join(seen[:8])}{', ...' if len(seen) > 8 else ''}" if seen else "it is empty"
    for name, entries in sorted(folders.items()):
        below = [File(f.path, path, f.size, f.modified) for path, f in entries]
        if name and (recognised := recognise(below, layout)):
            return message + f". {storage.join(root, name)} looks like {recognised[0]}: give that as --input"
    return message
