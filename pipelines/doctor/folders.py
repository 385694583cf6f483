"""Pairs of images and labels in folders that the user names with --images and --labels."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from pipelines.inputs.layouts import Candidates, Keyed, by_images, not_read
from pipelines.inputs.names import SEPARATOR, split_named, split_order, without_suffix
from pipelines.inputs.rows import Row
from trainer import storage
from trainer.formats.images import SUFFIXES
from trainer.formats.labels import Palette
from trainer.formats.palettes import CITYSCAPES, CITYSCAPES_TRAINIDS
from trainer.options import InputError
from trainer.storage import File
from trainer.terminal import some

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
        *("input", "inputs", "raw", "camera"),
    )
)
"""Words in names, in lower case, that describe the kind of a file rather than identify it."""
SHOWN = 8
"""Folders that a message names."""
_POLYGONS = (".json", ".xml")
_COCO = re.compile(r"(^|/)(_annotations\.coco|instances_\w+)\.json$")
_BRUSH = re.compile(r"task-\d+-annotation-\d+-by-")
"""How the names of Label Studio's brush masks begin."""


def named(root: str, files: Sequence[File], images: str, labels: str) -> Candidates:
    """The images and labels in the folders that two patterns name.

    A pattern is relative to the set. It names folders, with all that is below them, or files; a star stands for any
    characters within a name. A file's key consists of what its pattern's stars stand for and of the path below the
    folder; without the words that describe a kind, if more pairs are found that way.

    Raises InputError if a pattern names no images, or no label has the name of an image.
    """
    found = {"--images": _matching(files, _below(root, images)), "--labels": _matching(files, _below(root, labels))}
    # `--images train --labels train/*_mask.png`: what both name is a label.
    taken = {file.relative for _, file in found["--labels"]}
    found["--images"] = [(key, file) for key, file in found["--images"] if file.relative not in taken]
    for flag, pattern in (("--images", images), ("--labels", labels)):
        if not found[flag]:
            raise InputError(f"{flag} {pattern} names no images below {root}{advice(files)}")
    candidates = [_candidates(found, change) for change in (lambda key: key, without_words)]
    best = max(candidates, key=lambda each: each[1])
    if not best[1]:
        one, other = (found[flag][0][1].relative for flag in ("--labels", "--images"))
        raise InputError(
            f"no label of --labels {labels} is named like an image of --images {images}: the first are {one} "
            f"and {other}; give a pattern that leaves out what differs, such as '*/label' and '*/image', or a manifest"
        )
    best[0].origin = f"{images} with {labels}{best[0].origin}"
    best[0].palette_hint = _hint(taken)
    return best[0]


def _candidates(found: dict[str, list[tuple[str, File]]], change: Callable[[str], str]) -> tuple[Candidates, int]:
    """The candidates with their keys changed by a function, and the number of labels with an image."""
    rows = {
        flag: [(change(key), file.path, file.size, file.modified) for key, file in members]
        for flag, members in found.items()
    }
    splits = {
        change(key): split_of(posixpath.join(posixpath.dirname(key), file.relative)) for key, file in found["--images"]
    }
    labelled = splits.keys() & {key for key, *_ in by_images(Keyed(rows["--images"]), Keyed(rows["--labels"]))[0]}
    return candidates(rows["--images"], rows["--labels"], splits), len(labelled)


def candidates(images: list[Row], labels: list[Row], splits: dict[str, str]) -> Candidates:
    """Images and labels by their keys, which may differ by a rule; `origin` is a note on these and on splits.

    Images of a split without any label, such as those of a benchmark's test, are left out.

    Args:
      images, labels: rows (key, path, size, modified).
      splits: key of an image -> its split, "" if its path names none.
    """
    by_name, note = by_images(Keyed(images), Keyed(labels))
    labelled = {key for key, *_ in by_name} & splits.keys()
    known = {splits[key] for key in labelled}
    alone = [row for row in images if splits[row[0]] and labelled and splits[row[0]] not in known]
    if alone:
        names = sorted({splits[key] for key, *_ in alone}, key=split_order)
        count = f"{len(alone)} {'image' if len(alone) == 1 else 'images'}"
        note += f", left out: {count} of {' and '.join(names)}, without a label"
        left_out = {key for key, *_ in alone}
        images = [row for row in images if row[0] not in left_out]
    return Candidates(note, Keyed(images), by_name, lambda key: splits.get(key) or None)


def split_of(path: str) -> str:
    """The split that the first folder of a path names, such as "val" for val_images/a.png; "" if none does."""
    folders = [*without_words(path).split("/")[:-1], *path.split("/")[:-1]]
    return next(filter(None, map(split_named, folders)), "")


def without_words(path: str) -> str:
    """A path without the words that describe the kind of a file."""
    return name_key(path)[0]


def name_key(path: str) -> tuple[str, bool]:
    """A path without the words that describe its kind, and whether these words mark it as a label."""
    kept, is_label = [], False
    for part in path.split("/"):
        part = re.sub(r"ground[_\-. ]truth", "groundtruth", part, flags=re.IGNORECASE)
        words = [word for word in re.split(r"[_\-. ]+", part) if word]
        said = {word.lower() for word in words} & (LABEL_WORDS | IMAGE_WORDS)
        is_label |= bool(said & LABEL_WORDS)
        rest = [word for word in words if word.lower() not in said]
        kept += ["_".join(rest)] if rest else []
    return "/".join(kept), is_label


def says_image(path: str) -> bool:
    """Whether a word in a path says that it is one of images."""
    return not IMAGE_WORDS.isdisjoint(re.split(r"[_\-. /]+", path.lower()))


def _below(root: str, pattern: str) -> str:
    """A pattern relative to the set, also one that begins with ./ or with the path of the set."""
    if storage.is_remote(pattern):
        return pattern.removeprefix(f"{root.rstrip('/')}/")
    whole = storage.absolute(root).replace(os.sep, "/")
    return posixpath.normpath(pattern).removeprefix(f"{whole}/")


def _matching(files: Iterable[File], pattern: str) -> list[tuple[str, File]]:
    """Pairs (key, file) of the images that a pattern names."""
    expression = re.compile("([^/]*)".join(map(re.escape, pattern.strip("/").split("*"))) + "(?:/(.+))?")
    matches = ((expression.fullmatch(file.relative), file) for file in files if _is_image(file))
    parts = lambda match: filter(None, match.groups())
    return [("/".join(map(without_suffix, parts(match))), file) for match, file in matches if match]


def _hint(labels: Iterable[str]) -> Palette | None:
    """The palette of Cityscapes' labels, which their names tell."""
    for ending, palette in (("_labelIds.png", CITYSCAPES), ("_labelTrainIds.png", CITYSCAPES_TRAINIDS)):
        if all(re.search(rf"_gt(Fine|Coarse){ending}$", label) for label in labels):
            return palette
    return None


def _is_image(file: File) -> bool:
    return posixpath.splitext(file.relative)[1].lower() in SUFFIXES


def advice(files: Sequence[File]) -> str:
    """The end of a message on a set without pairs: which folders hold images, what is not read, and what to do."""
    folders = Counter(posixpath.dirname(file.relative) or "." for file in files if _is_image(file))
    suffixes = Counter(posixpath.splitext(file.relative)[1].lower() for file in files)
    polygons = [f"{count} {suffix}" for suffix, count in sorted(suffixes.items()) if suffix in _POLYGONS]
    stems = {posixpath.basename(without_suffix(file.relative)) for file in files if _is_image(file)}
    texts = [file.relative for file in files if file.relative.lower().endswith(".txt")]
    yolo = sum(posixpath.basename(text)[:-4] in stems for text in texts)
    text = ""
    if any(map(_BRUSH.match, stems)):
        return (
            ". Masks named task-...-annotation-... are Label Studio's, one for each class of an image: docs/sets.md "
            "has a script that joins them to labels"
        )
    if coco := [file.relative for file in files if _COCO.search(file.relative)]:
        text = f". {some(coco, SHOWN)} may hold COCO's objects: docs/sets.md has a script that draws them as labels"
        if not suffixes[".png"]:  # else labels may be there, as of COCO-Stuff
            return text
    if 2 * yolo > folders.total():  # else half of the images may be labels
        return (
            f". {yolo} .txt named like images may hold polygons, as YOLO's do: docs/sets.md has a script that draws "
            "them as labels"
        )
    text += not_read(suffixes)
    if polygons and not coco and len(folders) < 2:
        text += f". {' and '.join(polygons)} may hold polygons: have the tool that drew them export masks as PNG"
    if len(folders) > 1:
        shown = [f"{name} ({count})" for name, count in _patterns(folders)]
        text += (
            f". Images are in {some(shown, SHOWN)}. If labels are among them, give both: --images FOLDER "
            "--labels FOLDER, in which a star stands for any name"
        )
    elif len(stems) < folders.total() or any(_beginnings(stem) & stems for stem in stems):
        text += (
            ". All images are in one folder. If labels are among them, give both by their names, such as "
            "--images '*.jpg' --labels '*_mask.png'"
        )
    return text


def _beginnings(stem: str) -> set[str]:
    """The beginnings of a name up to a separator: of `a_1_mask`, `a` and `a_1`."""
    return {stem[: place.start()] for place in SEPARATOR.finditer(stem)}


def _patterns(folders: Counter[str]) -> list[tuple[str, int]]:
    """Folders and their numbers of images; many of them as patterns."""
    merged = folders
    for alike in (lambda parts: (parts[0], parts[-1]), lambda parts: parts[-1], lambda parts: parts[0]):
        if len(merged) <= SHOWN:
            break
        groups: dict[object, list[str]] = {}
        for folder in folders:
            parts = folder.split("/")
            groups.setdefault((len(parts), alike(parts)), []).append(folder)
        merged = Counter({_common(group): sum(folders[name] for name in group) for group in groups.values()})
    return sorted(merged.items())


def _common(folders: Sequence[str]) -> str:
    """The pattern of paths of one depth: a star for each part in which they differ."""
    split = [folder.split("/") for folder in folders]
    return "/".join(parts[0] if len({*parts}) == 1 else "*" for parts in zip(*split, strict=True))
