"""Reads labels and masks, and the segment.json of a folder of masks."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.masks.stamps import read_stamp
from pipelines.scores.trimap import band_confusions
from trainer import storage
from trainer.accounts import REJECTS_FILE, Reject, counted
from trainer.formats.codings import decode_ids, decode_mask, is_mask, mask_cure
from trainer.formats.images import ImageError
from trainer.formats.label_images import decode_label
from trainer.formats.labels import LabelError, Palette
from trainer.options import InputError
from trainer.prefetch import Read

STAGE = "evaluate"
NOTES_FILE = "segment.json"
OTHERS = (
    "made with another model or other options than segment.json in its folder says; make it again with "
    "`deeplab segment`, or remove it"
)
"""The reason to reject a mask that an earlier run left in its folder."""


class Unusable(ValueError):
    """A label or mask that cannot be evaluated.

    Attributes:
      path: the path of the file.
      reason: the reason, as a phrase for users.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class Comparison:
    """One label and the masks it is compared with.

    Attributes:
      key: the common name of the files.
      label: path of the label below the folder of labels.
      masks: path of the mask below each folder of masks.
    """

    key: str
    label: str
    masks: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """The folders of labels and masks, and how they are coded.

    Attributes:
      labels: folder of labels.
      masks: folders of masks.
      palette: the classes.
      coding: how to read labels that can be read in two ways, one of `trainer.formats.options.CODINGS`.
      mask_coding: how to read masks of other programs, likewise.
      made_by: the fingerprint of model and options in the segment.json of each folder of masks; "" if it has none.
        Shorter than `masks` if the last ones have none.
    """

    labels: str
    masks: tuple[str, ...]
    palette: Palette
    coding: str = "auto"
    mask_coding: str = "auto"
    made_by: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "labels": self.labels,
            "masks": list(self.masks),
            "palette": self.palette.to_json(),
            "codings": [self.coding, self.mask_coding],
            "made_by": list(self.made_by),
        }

    def label_path(self, comparison: Comparison) -> str:
        return storage.join(self.labels, comparison.label)

    def paths(self, comparison: Comparison) -> list[str]:
        """The files of label and masks."""
        masks = zip(self.masks, comparison.masks, strict=True)
        return [self.label_path(comparison), *(storage.join(folder, path) for folder, path in masks)]

    def read(self, comparison: Comparison, read: Read = storage.read) -> tuple[np.ndarray, list[np.ndarray]]:
        """Reads label and masks, uint8 [H, W] each. Raises Unusable if one of them cannot be used.

        Args:
          read: reads a file, like `storage.read`.
        """
        path, *paths = self.paths(comparison)
        label = self._read_label(path, read)
        made_by = itertools.chain(self.made_by, itertools.repeat(""))
        return label, [self._read_mask(path, label, maker, read) for path, maker in zip(paths, made_by, strict=False)]

    def confusions(self, comparison: Comparison, read: Read = storage.read) -> np.ndarray:
        """Confusion matrices, int64 [masks, bands + 1, classes, classes], see `band_confusions`. Raises as `read`."""
        label, masks = self.read(comparison, read)
        return band_confusions(label, masks, self.palette.num_classes, self.palette.ignore_id)

    def _read_label(self, path: str, read: Read) -> np.ndarray:
        """The label file as uint8 [H, W] class ids and the ignore id."""
        try:
            return decode_ids(read(path), self.palette, coding=self.coding)
        except FileNotFoundError:
            raise Unusable(path, "the label is listed, but not found") from None
        except (OSError, ImageError, LabelError) as error:
            raise Unusable(path, reason(error)) from None

    def _read_mask(self, path: str, label: np.ndarray, made_by: str, read: Read) -> np.ndarray:
        """The mask file as uint8 [H, W] class ids, of the label's size, with a class wherever the label has one.

        Args:
          made_by: the fingerprint that its stamp should have; "" for any.
        """
        palette = self.palette
        try:
            data = read(path)
            if stamp := read_stamp(data):
                # `segment --overwrite` leaves masks of images that are no longer in its input.
                if made_by and stamp.fingerprint not in ("", made_by):
                    raise Unusable(path, OTHERS)
                # This program's own masks hold class ids, whatever the colours of their model's palette.
                mask = palette.check_ids(decode_label(data))
            else:
                mask = decode_mask(data, palette, coding=self.mask_coding)
        except FileNotFoundError:
            raise Unusable(path, "no mask found for this label") from None
        except (OSError, ImageError, LabelError) as error:
            raise Unusable(path, reason(error)) from None
        if mask.shape != label.shape:
            (h, w), (label_h, label_w) = mask.shape, label.shape
            raise Unusable(path, f"the mask is {w}x{h} pixels, its label {label_w}x{label_h}")
        open_pixels = int(((mask == palette.ignore_id) & (label != palette.ignore_id)).sum())
        if open_pixels:
            cure = f"; {mask_cure(palette)}" if palette.num_classes <= 2 and is_mask(np.unique(mask), palette) else ""
            where = f"{counted(open_pixels, 'pixel')} that {'has' if open_pixels == 1 else 'have'} one in the label"
            raise Unusable(path, f"no class (id {palette.ignore_id}) in {where}{cure}")
        return mask


def reason(error: Exception) -> str:
    """The reason why a file could not be read; for system errors without the path, which is printed with it."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return str(error)


def segment_notes(folder: str, palette: Palette) -> dict[str, Any]:
    """The segment.json of a folder of masks; empty if there is none. Raises InputError for masks of other classes."""
    path = storage.join(folder, NOTES_FILE)
    if not storage.exists(path):
        return {}
    try:
        notes = storage.read_json(path)
        written = [entry["name"] for entry in notes.get("palette", {}).get("classes", [])]
        texts = (*written, *(notes.get(name) or "" for name in ("input", "head", "status", "fingerprint")))
        if not all(isinstance(text, str) for text in texts) or not isinstance(notes.get("crf") or {}, dict):
            raise TypeError
    except (AttributeError, KeyError, TypeError, InputError):
        raise InputError(f"{path} is not what `deeplab segment` writes; move it away, or run segment again") from None
    if written and written != list(palette.names):
        raise InputError(
            f"{path}: the masks have {len(written)} classes ({', '.join(written)}), but the evaluation has "
            f"{palette.num_classes} ({', '.join(palette.names)}); give the --model or --palette of the masks"
        )
    return notes


def segment_rejects(folder: str) -> dict[str, str]:
    """Key -> reason, of the images that the last `deeplab segment` into a folder of masks rejected.

    A mask of such an image is of its earlier contents, or of another program.
    """
    path = storage.join(folder, REJECTS_FILE)
    if not (storage.exists(storage.join(folder, NOTES_FILE)) and storage.exists(path)):
        return {}
    reasons = {}
    for line in storage.read(path).splitlines():
        with contextlib.suppress(ValueError, TypeError):  # edited by hand
            reject = Reject(**json.loads(line))
            reasons |= {str(reject.key): str(reject.reason)} if reject.stage == "segment" else {}
    return reasons
