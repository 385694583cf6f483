"""Labels and masks from their files, and what `deeplab segment` notes of a masks folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.inputs.layouts import name_of
from trainer import storage
from trainer.formats import images
from trainer.formats.labels import LabelError, Palette
from trainer.options import InputError

NOTES_FILE = "segment.json"


class Unusable(ValueError):
    """A label or mask that cannot be evaluated.

    Attributes: the `path` of the file, and the `reason` in words.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class Sources:
    """Where labels and masks lie, and how they are coded: the folder of labels, those of masks, the classes."""

    labels: str
    masks: tuple[str, ...]
    palette: Palette

    def read(self, relative: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Label and masks, uint8 [H, W] each, of the label file at that path below `labels`. Raises Unusable."""
        label = _read_label(storage.join(self.labels, relative), self.palette)
        paths = [storage.join(folder, f"{name_of(relative)}.png") for folder in self.masks]
        return label, [_read_mask(path, label, self.palette) for path in paths]


def _read_label(path: str, palette: Palette) -> np.ndarray:
    """The label file as uint8 [H, W] class ids and the ignore id."""
    try:
        return palette.to_ids(images.decode_label(storage.read(path)))
    except (FileNotFoundError, images.ImageError, LabelError) as error:
        raise Unusable(path, str(error)) from None


def _read_mask(path: str, label: np.ndarray, palette: Palette) -> np.ndarray:
    """The mask file as uint8 [H, W] class ids: of the label's size, with a class wherever the label has one."""
    try:
        mask = images.decode_label(storage.read(path))
        # Masks hold class ids, whatever ids the label files of the raw set use; colours mean the same in both.
        mask = palette.check_ids(mask) if mask.ndim == 2 else palette.to_ids(mask)
    except FileNotFoundError:
        raise Unusable(path, "no mask found for this label") from None
    except (images.ImageError, LabelError) as error:
        raise Unusable(path, str(error)) from None
    if mask.shape != label.shape:
        (h, w), (label_h, label_w) = mask.shape, label.shape
        raise Unusable(path, f"the mask is {w}x{h} pixels, its label {label_w}x{label_h}")
    open_pixels = int(((mask == palette.ignore_id) & (label != palette.ignore_id)).sum())
    if open_pixels:
        raise Unusable(path, f"no class (id {palette.ignore_id}) in {open_pixels} pixels that have one in the label")
    return mask


def segment_notes(folder: str, palette: Palette) -> dict[str, Any]:
    """The segment.json of a masks folder; empty for masks made otherwise. InputError for masks of other classes."""
    path = storage.join(folder, NOTES_FILE)
    if not storage.exists(path):
        return {}
    notes = storage.read_json(path)
    written = [entry["name"] for entry in notes.get("palette", {}).get("classes", [])]
    if written and written != list(palette.names):
        raise InputError(
            f"{path}: the masks have {len(written)} classes ({', '.join(written)}), but the evaluation has "
            f"{palette.num_classes} ({', '.join(palette.names)}); give the --model or --palette of the masks"
        )
    return notes
