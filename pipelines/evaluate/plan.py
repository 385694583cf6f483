"""What there is to evaluate: labels and masks, paired by their names. No file is opened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.inputs.collection import RESERVED
from pipelines.inputs.layouts import CITYSCAPES_LABELS, hidden, name_of
from pipelines.inputs.selection import Selection
from trainer import storage
from trainer.accounts import Reject
from trainer.formats import images
from trainer.formats.labels import Palette
from trainer.options import InputError

STAGE = "evaluate"
LABEL_SUFFIXES = tuple(suffix for suffix in images.SUFFIXES if suffix not in (".jpg", ".jpeg"))
"""JPEG blurs class ids."""

_CHUNK = 64  # labels per element at most: a few seconds of work


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
      labels: paths, below the labels folder, of the labels that have a mask in every folder; sorted by key.
      rejects: the other labels, and images of the selection that no label was found for.
      without_label: masks folder -> how many of its masks have no label.
      note: what the selection took, human-readable; empty without one.
    """

    labels: tuple[str, ...]
    rejects: tuple[Reject, ...]
    without_label: dict[str, int]
    note: str = ""

    @property
    def total(self) -> int:
        """How many labels there are, with masks and without."""
        return len(self.labels) + len(self.rejects)

    def chunks(self) -> bytes:
        """One JSON line per chunk: {"first": number of its first label, "labels": paths}."""
        size = max(1, min(_CHUNK, len(self.labels) // 32))
        starts = range(0, len(self.labels), size)
        lines = [json.dumps({"first": first, "labels": self.labels[first : first + size]}) for first in starts]
        return "\n".join(lines).encode()


def pair(
    labels_folder: str, mask_folders: Sequence[str], palette: Palette, selection: Selection | None = None
) -> Plan:
    """Pairs labels with masks by name. Raises InputError when a folder is missing or empty, or nothing pairs up.

    Args:
      selection: the images to evaluate; None for all that have a label.
    """
    labels = list_labels(labels_folder, palette)
    masks = {folder: list_masks(folder) for folder in mask_folders}
    without_label = {folder: len(masks[folder] - labels.keys()) for folder in masks}
    rejects, note = [], ""
    if selection:
        paths = {storage.join(labels_folder, name): key for key, name in labels.items()}
        choice = selection.choose(list(paths))
        labels = {paths[path]: labels[paths[path]] for path in choice.paths}
        rejects = [Reject(name, labels_folder, STAGE, reason) for name, reason in choice.missing]
        note = choice.note
    lacking = {key: [folder for folder in masks if key not in masks[folder]] for key in labels}
    matched = tuple(labels[key] for key in sorted(labels) if not lacking[key])
    if not matched:
        raise InputError(
            f"no label in {labels_folder} has a mask of the same path in {' and '.join(mask_folders)}: the first "
            f"label is {min(labels.values())}, the first mask {min(masks[mask_folders[0]], default='(none)')}.png"
        )
    rejects += [
        Reject(key, storage.join(labels_folder, labels[key]), STAGE, f"no mask {key}.png in {', '.join(folders)}")
        for key, folders in sorted(lacking.items())
        if folders
    ]
    return Plan(matched, tuple(rejects), without_label, note)


def list_labels(folder: str, palette: Palette) -> dict[str, str]:
    """Key -> path below `folder` of every label. Raises InputError for two labels of one key."""
    names = _listing(folder, "--labels", LABEL_SUFFIXES)
    if any(name.endswith(CITYSCAPES_LABELS) for name in names):
        # Cityscapes keeps several codings of a label beside each other; the palette tells which one it reads.
        ending = CITYSCAPES_LABELS[bool(palette.source_ids)]
        names = [name for name in names if name.endswith(ending)]
        if not names:
            raise InputError(f"--labels {folder}: no file ends in {ending}, which palette {palette.name} reads")
    labels: dict[str, str] = {}
    for name in names:
        if labels.setdefault(name_of(name), name) != name:
            raise InputError(
                f"--labels {folder}: {labels[name_of(name)]} and {name} differ in their suffix alone; keep one"
            )
    return labels


def list_masks(folder: str) -> set[str]:
    """Keys of the masks in a folder."""
    names = _listing(folder, "--masks", (".png",))
    return {name_of(name) for name in names if name.split("/")[0] not in RESERVED}


def _listing(folder: str, flag: str, suffixes: tuple[str, ...]) -> list[str]:
    """Paths below `folder` of the files with these suffixes, but for hidden ones. Raises InputError without any."""
    try:
        files = storage.files(folder)
    except FileNotFoundError:
        raise InputError(f"{flag} {folder}: folder not found") from None
    names = [file.relative for file in files if file.relative.lower().endswith(suffixes)]
    names = [name for name in names if not hidden(name)]
    if not names:
        raise InputError(f"{flag} {folder}: none of its {len(files)} files ends in {' or '.join(suffixes)}")
    return names


def compared_names(folders: Sequence[str]) -> list[str]:
    """What the folders are called in the report: their last parts, as many as it takes to tell them apart."""
    paths = [folder.rstrip("/").split("/") for folder in folders]
    for count in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-count:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names
