"""Pairs the labels and masks to evaluate by their names. Opens none of them."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pipelines.evaluate.sources import STAGE, Comparison, Sources, segment_rejects
from pipelines.inputs.mask_names import RESERVED
from pipelines.inputs.names import CITYSCAPES_LABELS, Naming, cityscapes_key, hidden, name_of, naming, normal, partners
from pipelines.inputs.selection import Choice, NoneNamed, Selection
from pipelines.runner import handover
from pipelines.runner.chunks import labels_per_chunk
from trainer import storage
from trainer.accounts import Reject
from trainer.formats import images
from trainer.formats.labels import Palette
from trainer.options import InputError
from trainer.terminal import printable

JPEG = (".jpg", ".jpeg")
LABEL_SUFFIXES = tuple(suffix for suffix in images.SUFFIXES if suffix not in JPEG)
"""Suffixes of labels: those of images without JPEG, which blurs class ids."""


@dataclass(frozen=True)
class Plan:
    """The comparisons to make.

    Attributes:
      sources: folders and palette.
      comparisons: the labels that have a mask in every folder, with their masks; sorted by key.
      rejects: the other labels, and images of the selection without a label.
      without_label: folder of masks -> number of its masks without a label.
      selection: a sentence on the selection of images; "" without one.
      notes: sentences on files in the folder of labels that are left out.
    """

    sources: Sources
    comparisons: tuple[Comparison, ...]
    rejects: tuple[Reject, ...] = ()
    without_label: Mapping[str, int] = field(default_factory=dict)
    selection: str = ""
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """The number of labels, rejects included."""
        return len(self.comparisons) + len(self.rejects)

    @functools.cached_property
    def lines(self) -> tuple[bytes, ...]:
        """The contents of the plan's file: a line with the sources, and one for each chunk."""
        size = labels_per_chunk(len(self.comparisons))
        rows = [asdict(comparison) for comparison in self.comparisons]
        chunks = [{"first": first, "rows": rows[first : first + size]} for first in range(0, len(rows), size)]
        # Names may contain any character; JSON in ASCII escapes line separators.
        return tuple(json.dumps(value, sort_keys=True).encode() for value in (self.sources.to_json(), *chunks))

    @property
    def chunks(self) -> int:
        return len(self.lines) - 1

    @functools.cached_property
    def digest(self) -> str:
        return handover.digest_of(self.lines)


def read_chunk(folder: str, digest: str, number: int) -> tuple[int, list[Comparison]]:
    """The number of the first label, and the comparisons, of a chunk. Raises InputError if the plan was changed."""
    chunk = json.loads(handover.read_line(folder, digest, 1 + number))
    return chunk["first"], [Comparison(row["key"], row["label"], tuple(row["masks"])) for row in chunk["rows"]]


def pair(sources: Sources, selection: Selection | None = None) -> Plan:
    """Pairs labels with masks by name. Raises InputError if a folder is missing or empty, or nothing pairs up.

    Args:
      selection: the images to evaluate; None for all that have a label.
    """
    masks = {folder: list_masks(folder) for folder in sources.masks}
    masked = set().union(*masks.values())
    labels = list_labels(sources.labels, sources.palette, masked)
    rule = None
    # Where labels lie beside their images, these have the names of the masks, but are faults if they are JPEGs.
    readable = labels.files.keys() - labels.faults.keys() or labels.files.keys()
    if readable.isdisjoint(masked):
        rule = naming(sorted(masked), sorted(readable))
        labels = labels.by_images(rule) if rule else labels
    # The key of each label among the masks of each folder.
    mask_keys = {folder: partners(labels.files, masks[folder]) for folder in sources.masks}
    without_label = {folder: len(masks[folder]) - len(mask_keys[folder]) for folder in sources.masks}
    files, rejects, note = labels.files, [], ""
    if selection:
        try:
            files, choice = _selected(selection, files, sources.labels, rule)
        except NoneNamed as error:
            cure = "`deeplab records export` writes the labels of records with the names of their images"
            raise InputError(f"{error}. If labels have other names than their images: {cure}") from None
        rejects = [Reject(name, sources.labels, STAGE, reason) for name, reason in choice.missing]
        note = choice.note
    comparisons, left = [], [segment_rejects(folder) for folder in sources.masks]
    for key, names in sorted(files.items()):
        paths = [masks[folder][mask_keys[folder][key]] if key in mask_keys[folder] else [] for folder in sources.masks]
        fault = labels.faults.get(key) or _fault(key, names, paths, sources.masks) or _left(paths, sources.masks, left)
        if fault:
            rejects += [Reject(key, storage.join(sources.labels, name), STAGE, fault) for name in names]
        else:
            comparisons.append(Comparison(key, names[0], tuple(path for (path,) in paths)))
    if not comparisons:
        raise _nothing_paired(sources, labels, masks, rejects)
    return Plan(sources, tuple(comparisons), tuple(rejects), without_label, note, labels.notes)


def _nothing_paired(
    sources: Sources, labels: Labels, masks: Mapping[str, Mapping[str, Sequence[str]]], rejects: Sequence[Reject]
) -> InputError:
    """The error that no label has a mask, with the likely cause."""
    first = min(name for names in labels.files.values() for name in names)
    mask = min((path for paths in masks[sources.masks[0]].values() for path in paths), default="(none)")
    found = (
        f"no label in {sources.labels} has a mask of the same path in {' and '.join(sources.masks)}: the first "
        f"label is {first}, the first mask {mask}"
    )
    if cure := _deeper(labels.files, masks):
        return InputError(f"{found}; {cure}")
    reason = f"; rejected: {rejects[0].path}: {rejects[0].reason}" if rejects else ""
    return InputError(
        f"{found}{reason}. If other files lie among the labels, such as images or "
        "labels of another kind, link the right ones into a folder of their own, with the names of the images, as "
        "`deeplab records export` writes those of records"
    )


def _deeper(labels: Collection[str], masks: Mapping[str, Collection[str]]) -> str:
    """The cure, if all masks of a folder lie in a folder below it, and labels have their paths there; else ""."""
    for folder, keys in masks.items():
        tops = {key.partition("/")[0] for key in keys}
        if len(tops) == 1 and any(key.partition("/")[2] in labels for key in keys):
            return f"give --masks {storage.join(folder, *tops)}"
    return ""


def _selected(
    selection: Selection, files: dict[str, list[str]], folder: str, rule: Naming | None
) -> tuple[dict[str, list[str]], Choice]:
    """Those of the labels in a folder, as in `Labels.files`, whose images are selected, and the choice."""
    # The paths of labels that are named like their images.
    paths = {
        storage.join(folder, rule.image_of(name_of(name)) if rule else name): key
        for key, names in files.items()
        for name in names
    }
    choice = selection.choose(list(paths))
    chosen = set(itertools.compress(paths.values(), choice.taken))
    # If a key has several labels, its reject lists all of them.
    return {key: names for key, names in files.items() if key in chosen}, choice


def _fault(key: str, labels: Sequence[str], masks: Sequence[Sequence[str]], folders: Sequence[str]) -> str | None:
    """The reason why the files of a key cannot be compared; None if they can."""
    if len(labels) > 1:
        return f"{len(labels)} labels have the same name but for the suffix: {', '.join(labels)}; keep one"
    try:
        storage.safe_relative(labels[0])
    except InputError as error:
        return str(error)
    if lacking := [folder for folder, paths in zip(folders, masks, strict=True) if not paths]:
        return f"no mask {key}.png in {', '.join(lacking)}"
    for folder, paths in zip(folders, masks, strict=True):
        if len(paths) > 1:
            return f"{len(paths)} masks in {folder} have the label's name: {', '.join(paths)}; keep one"
    return None


def _left(masks: Sequence[Sequence[str]], folders: Sequence[str], rejects: Sequence[Mapping[str, str]]) -> str | None:
    """The reason why one of a label's masks is not of its image as it is now; None if all are."""
    for folder, (path,), reasons in zip(folders, masks, rejects, strict=True):
        if reason := reasons.get(name_of(path)):
            return (
                f"{storage.join(folder, path)} is not from the last `deeplab segment`, which rejected its image "
                f"({reason}); run it again once that is mended, or remove the mask"
            )
    return None


@dataclass(frozen=True)
class Labels:
    """The labels of a folder.

    Attributes:
      files: key -> paths below the folder; several if they differ only in their suffix.
      faults: key -> the reason why its file is not a readable label.
      notes: sentences on files that are left out.
    """

    files: dict[str, list[str]]
    faults: dict[str, str]
    notes: tuple[str, ...]

    def by_images(self, rule: Naming) -> Labels:
        """The same with the names of the images, which differ from those of the labels by a rule, as keys.

        Faults that have the name of a label's image are left out: they are that image.
        """
        files: dict[str, list[str]] = {}
        for key in self.files.keys() - self.faults.keys():
            files.setdefault(rule.image_of(key), []).extend(self.files[key])
        named = {key: rule.image_of(key) for key in self.faults}
        faults = {named[key]: reason for key, reason in self.faults.items() if key not in files}
        count = len(self.faults) - len(faults)
        files = {named[key]: self.files[key] for key in self.faults if key not in files} | files
        notes = (f"images beside the labels, left out: {count}",) if count else ()
        return Labels(files, faults, (*self.notes, *notes, str(rule)))


def list_labels(folder: str, palette: Palette, masks: Collection[str]) -> Labels:
    """Finds the labels in a folder. Raises InputError if there are none.

    Args:
      palette: decides which of Cityscapes' codings is read.
      masks: keys of masks. A file that is no label but has one of these keys is a fault; others are left out.
    """
    files = _listing(folder, "--labels")
    seen = [name for name in files if not hidden(name)]
    names = [name for name in seen if name.lower().endswith(LABEL_SUFFIXES)]
    if not names:
        raise InputError(f"--labels {folder}: none of its {len(files)} files ends in {' or '.join(LABEL_SUFFIXES)}")
    tops = {name.partition("/")[0] for name in names}
    # SegNet's layout: images in train, their labels in trainannot.
    splits = {top for top in tops if f"{top}annot" in tops}
    names = [name for name in names if name.partition("/")[0] not in splits]
    faults: dict[str, tuple[str, str]] = {}
    if any(name.endswith(CITYSCAPES_LABELS) for name in names):
        names, faults = _of_cityscapes(folder, names, palette)
    for name in seen:
        if name.lower().endswith(JPEG) and name_of(name) in masks:
            faults[name_of(name)] = (name, "is a JPEG, which blurs class ids; expected a lossless label (PNG)")
    by_key: dict[str, list[str]] = {}
    for name in names:
        top, slash, below = name.partition("/")
        split = top.removesuffix("annot")
        key = name_of(f"{split}/{below}" if slash and split in splits else name)
        by_key.setdefault(normal(key), []).append(name)
    faults = {key: fault for key, fault in faults.items() if key not in by_key}
    by_key |= {key: [name] for key, (name, _) in faults.items()}
    left_out = Counter(_suffix(name) for name in set(seen) - {name for names in by_key.values() for name in names})
    kinds = [f"{count} of {suffix}" for suffix, count in sorted(left_out.items())]
    kinds += [f"{len(files) - len(seen)} hidden"] if len(files) > len(seen) else []
    notes = (f"files in {folder} that are not labels, left out: {', '.join(kinds)}",) if kinds else ()
    return Labels(by_key, {key: reason for key, (_, reason) in faults.items()}, notes)


def _of_cityscapes(folder: str, names: list[str], palette: Palette) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Cityscapes' labels in the coding that the palette reads, of several side by side; and key -> (path, fault)."""
    ending = CITYSCAPES_LABELS[bool(palette.source_ids)]
    read = [name for name in names if name.endswith(ending)]
    if not read:
        raise InputError(f"--labels {folder}: no file ends in {ending}, which palette {palette.name} reads")
    others = [name for name in names if cityscapes_key(name) and not name.endswith(ending)]
    fault = f"no label that ends in {ending}, which the palette reads"
    return read, {name_of(name): (name, fault) for name in others}


def _suffix(name: str) -> str:
    base = name.rpartition("/")[2]
    return printable(base[base.rfind(".") :]) if "." in base else "no suffix"


def list_masks(folder: str) -> dict[str, list[str]]:
    """Key -> paths of its masks below the folder; several if they differ only in the case of their suffix."""
    files = _listing(folder, "--masks")
    names = [name for name in files if name.lower().endswith(".png") and not hidden(name)]
    if not names:
        kinds = Counter(_suffix(name) for name in files if not hidden(name))
        most = ", ".join(f"{count} in {suffix}" for suffix, count in kinds.most_common(3))
        found = f", but {most}" if kinds else ""
        raise InputError(
            f"--masks {folder}: none of its {len(files)} files ends in .png{found}; expected a PNG of class ids or of "
            "the palette's colours for every image, named like its label"
        )
    by_key: dict[str, list[str]] = {}
    for name in names:
        if name.split("/")[0] not in RESERVED:
            by_key.setdefault(normal(name_of(name)), []).append(name)
    return by_key


def _listing(folder: str, flag: str) -> list[str]:
    """Paths of all files below `folder`. Raises InputError if it does not exist."""
    try:
        return [file.relative for file in storage.files(folder)]
    except FileNotFoundError:
        found = "is a file" if storage.exists(folder) else storage.absence(folder, "folder not found")
        raise InputError(f"{flag} {folder}: {found}; expected a folder") from None
    except OSError as error:
        raise InputError(f"{flag} {folder} cannot be read: {error}") from None


def compared_names(folders: Sequence[str]) -> list[str]:
    """The names of the folders in the report: as many of their last parts as are needed to distinguish them."""
    paths = [folder.rstrip("/").split("/") for folder in folders]
    for count in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-count:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names
