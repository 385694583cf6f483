"""The Beam side of `deeplab evaluate`: labels and masks in, one sum of confusion matrices out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import apache_beam as beam
import cv2
import numpy as np

from pipelines.runner import run as runner
from pipelines.scores.trimap import BANDS, band_confusions
from trainer import metrics, storage
from trainer.formats import images
from trainer.formats.labels import LabelError, Palette
from trainer.formats.records import Reject

STAGE = "evaluate"
CITYSCAPES_LABELS = ("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png")


class Unusable(ValueError):
    """A label or mask that cannot be evaluated; (path, reason)."""


def read_label(path: str, palette: Palette) -> np.ndarray:
    """The label file as uint8 [H, W] class ids and the ignore id. Raises Unusable."""
    try:
        return palette.to_ids(images.decode_label(storage.read(path)))
    except (FileNotFoundError, images.ImageError, LabelError) as error:
        raise Unusable(path, str(error)) from None


def read_mask(path: str, label: np.ndarray, palette: Palette) -> np.ndarray:
    """The mask file as uint8 [H, W] class ids: of the label's size, with a class wherever the label has one.

    Raises Unusable.
    """
    try:
        mask = images.decode_label(storage.read(path))
        # Masks hold class ids, whatever ids the label files of the raw set use; colours mean the same in both.
        mask = palette.check_ids(mask) if mask.ndim == 2 else palette.to_ids(mask)
    except FileNotFoundError:
        raise Unusable(path, "there is no mask for this label") from None
    except (images.ImageError, LabelError) as error:
        raise Unusable(path, str(error)) from None
    if mask.shape != label.shape:
        (h, w), (label_h, label_w) = mask.shape, label.shape
        raise Unusable(path, f"the mask is {w}x{h} pixels, its label {label_w}x{label_h}")
    open_pixels = int(((mask == palette.ignore_id) & (label != palette.ignore_id)).sum())
    if open_pixels:
        raise Unusable(path, f"no class (id {palette.ignore_id}) in {open_pixels} pixels that have one in the label")
    return mask


@dataclass(frozen=True)
class Tally:
    """What is known after some of the pictures.

    Attributes:
      confusion: int64 [masks folders, bands + 1, classes, classes], see `trimap.band_confusions`.
      pictures: pairs (numbers, int64 [n]; their mIoU, float32 [n, masks folders]); NaN where nothing could be scored.
      rejects: the labels that could not be used.
    """

    confusion: np.ndarray
    pictures: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    rejects: tuple[Reject, ...] = ()


def add(one: Tally, other: Tally) -> Tally:
    """The tally of the pictures of both."""
    return Tally(one.confusion + other.confusion, one.pictures + other.pictures, one.rejects + other.rejects)


class SumTallies(beam.CombineFn):
    """Adds tallies of parts of the set."""

    def create_accumulator(self) -> Tally | None:
        return None

    def add_input(self, accumulator: Tally | None, tally: Tally) -> Tally:
        return tally if accumulator is None else add(accumulator, tally)

    def merge_accumulators(self, accumulators: Iterable[Tally | None]) -> Tally | None:
        total = None
        for tally in accumulators:
            total = self.add_input(total, tally) if tally is not None else total
        return total

    def extract_output(self, accumulator: Tally | None) -> Tally | None:
        return accumulator


@dataclass(frozen=True)
class Inputs:
    """Where the pictures lie and how they are read."""

    labels: str
    masks: tuple[str, ...]
    palette: Palette

    def read(self, relative: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Label and masks, uint8 [H, W] each, of the label file at that path below `labels`. Raises Unusable."""
        label = read_label(storage.join(self.labels, relative), self.palette)
        paths = [storage.join(folder, f"{key_of(relative)}.png") for folder in self.masks]
        return label, [read_mask(path, label, self.palette) for path in paths]


class EvaluateChunk(beam.DoFn):
    """A chunk of the plan (JSON: first picture's number, label files) -> its Tally."""

    def __init__(self, inputs: Inputs, heartbeat: runner.Heartbeat) -> None:
        self.inputs, self.heartbeat = inputs, heartbeat

    def setup(self) -> None:
        cv2.setNumThreads(1)  # the workers are the parallelism

    def process(self, line: str) -> list[Tally]:
        chunk, palette = json.loads(line), self.inputs.palette
        classes = palette.num_classes
        total = np.zeros((len(self.inputs.masks), len(BANDS) + 1, classes, classes), np.int64)
        numbers, mious, rejects = [], [], []
        for number, relative in enumerate(chunk["labels"], start=chunk["first"]):
            try:
                label, masks = self.inputs.read(relative)
            except Unusable as error:
                path, reason = error.args
                rejects.append(Reject(key_of(relative), path, STAGE, reason))
            else:
                confusion = band_confusions(label, masks, classes, palette.ignore_id)
                total += confusion
                numbers.append(number)
                mious.append([metrics.mean_iou(whole) for whole in confusion.sum(1)])
            self.heartbeat.beat()
        scores = np.array(mious, np.float32).reshape(-1, len(self.inputs.masks))
        return [Tally(total, ((np.array(numbers, np.int64), scores),), tuple(rejects))]


def key_of(relative: str) -> str:
    """What a label, its masks and its photograph share: the path without suffix (Cityscapes: the picture's)."""
    for ending in CITYSCAPES_LABELS:
        if relative.endswith(ending):
            return relative.removesuffix(ending) + "_leftImg8bit"
    stem, dot, suffix = relative.rpartition(".")
    return stem if dot and "/" not in suffix else relative


def write_tally(total: Tally, path: str) -> None:
    """Writes a tally as an .npz file without pickled objects."""
    numbers, mious = (np.concatenate(parts) for parts in zip(*total.pictures, strict=True))
    rejects = json.dumps([asdict(reject) for reject in total.rejects]).encode()
    buffer = io.BytesIO()
    np.savez(buffer, confusion=total.confusion, numbers=numbers, mious=mious, rejects=np.frombuffer(rejects, np.uint8))
    storage.write(path, buffer.getvalue())


def read_tally(path: str) -> Tally:
    """The inverse of `write_tally`; pictures come as one pair, in order of their numbers."""
    with np.load(io.BytesIO(storage.read(path)), allow_pickle=False) as content:
        order = np.argsort(content["numbers"])
        rejects = json.loads(content["rejects"].tobytes())
        return Tally(
            content["confusion"],
            ((content["numbers"][order], content["mious"][order]),),
            tuple(Reject(**reject) for reject in rejects),
        )
