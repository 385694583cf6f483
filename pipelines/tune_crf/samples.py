"""The labelled images to tune on: chooses them, and reads them from the records."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import InFlight, guarded
from pipelines.scores.trimap import trimap_distance
from trainer import storage
from trainer.accounts import Accounts, Reject
from trainer.formats import images, label_images
from trainer.formats.dataset import Dataset, open_shard
from trainer.formats.examples import decode
from trainer.formats.frames import CorruptRecord, Frame, read_frames, scan_frames
from trainer.formats.labels import Palette
from trainer.options import InputError

STAGE = "tune-crf"


@dataclass(frozen=True)
class Sample:
    """An image of the records.

    Attributes:
      key: its name.
      shard, offset: the file of its record, and the record's offset in bytes.
      reason: the reason why it cannot be used; "" if it can.
      identity: the identity of the record, see `storage.identity`; "" if it cannot be used.
    """

    key: str
    shard: str
    offset: int
    reason: str = ""
    identity: str = ""


def digest(*parts: object) -> str:
    """A digest for the names of files: 24 hex digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def scan(folder: str, dataset: Dataset, split: str) -> Iterator[Sample]:
    """Yields every source image of a split, unreadable ones with a reason. Raises OSError for an unreadable shard."""
    for shard in dataset.of_split(split):
        originals, reason = 0, ""
        with open_shard(folder, shard.name) as file:
            for frame in scan_frames(file):
                reason = str(frame) if isinstance(frame, CorruptRecord) else ""
                sample = _sample(shard.name, frame)
                if sample is not None:
                    originals += 1
                    yield sample
        # Nothing can be read after a damaged length; the records that dataset.json counts there are lost as well.
        for number in range(originals, shard.images):
            yield Sample(f"{shard.name} lost {number}", shard.name, -1, reason or "the shard ends before it")


def _sample(shard: str, frame: Frame | CorruptRecord) -> Sample | None:
    """The sample of a record; None for an augmented copy."""
    place = f"{shard} record {frame.index}"
    if isinstance(frame, CorruptRecord):
        return Sample(place, shard, frame.offset, str(frame))
    try:
        record = decode(frame.data)
    except ValueError as error:
        return Sample(place, shard, frame.offset, f"record {frame.index}: {error}")
    return None if record.copy else Sample(record.key, shard, frame.offset, identity=storage.identity(frame.data))


def choose(folder: str, dataset: Dataset, split: str, most: int) -> list[Sample]:
    """At most `most` images of the split (0: all), in the order of the hashes of their keys.

    The hash spreads them over the split and always chooses the same ones; a larger choice extends a smaller one.
    """
    candidates = sorted(scan(folder, dataset, split), key=lambda sample: digest(sample.key, sample.shard))
    return candidates[: most or None]


def sift(
    folder: str, palette: Palette, chosen: Iterable[Sample], notes: InFlight, at_boundary: bool = False
) -> tuple[list[Sample], list[Reject], int]:
    """Reads every sample once, and returns the usable ones, the others as rejects, and how many have a scored pixel.

    Args:
      folder: the folder of the records.
      notes: the notes of what the workers are working on.
      at_boundary: whether only pixels near a boundary are scored, else all that have a label.

    Raises:
      OSError: a shard cannot be read.
    """
    usable, rejects, scored = [], [], 0
    with notes.watch("images") as recovery:
        for sample in chosen:
            call = functools.partial(guarded(look, recovery), folder, palette, sample, at_boundary)
            try:
                reason, is_scored = (sample.reason, False) if sample.reason else attempt(call, known=OSError)
            except Failed as failure:
                reason, is_scored = failure.reason, False
            scored += is_scored
            if reason:
                rejects.append(reject(folder, sample, reason))
            else:
                usable.append(sample)
    return usable, rejects, scored


def reject(folder: str, sample: Sample, reason: str) -> Reject:
    return Reject(sample.key, storage.join(folder, sample.shard), STAGE, reason)


def look(folder: str, palette: Palette, sample: Sample, at_boundary: bool) -> tuple[str, bool]:
    """The reason why image or label cannot be read, "" if they can; and whether the label has a pixel that is scored.

    If there is a boundary, the pixels beside it are within every distance from it.
    """
    try:
        _, label = load(folder, palette, sample)
    except InputError:
        raise
    except ValueError as error:  # ImageError, LabelError, CorruptRecord
        return str(error), False
    scored = np.isfinite(trimap_distance(label, palette.ignore_id)) if at_boundary else label != palette.ignore_id
    return "", bool(scored.any())


def accounts(chosen: list[Sample], usable: list[Sample], rejects: list[Reject]) -> Accounts:
    """The accounts: images chosen = usable + rejected."""
    return Accounts("images", len(chosen), {"usable": len(usable)}, tuple(rejects))


def load(folder: str, palette: Palette, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Reads a sample.

    Returns:
      The image, uint8 [H, W, 3] RGB, and its label, uint8 [H, W] class ids and the ignore id.

    Raises:
      ValueError: they are damaged, or differ in size.
      InputError: the record has been replaced by another.
    """
    with open_shard(folder, sample.shard) as file:
        file.seek(sample.offset)
        data = next(read_frames(file)).data
    if sample.identity and storage.identity(data) != sample.identity:
        raise changed(folder)
    record = decode(data)
    image = images.decode_image(record.image)
    label = palette.check_ids(label_images.decode_label(record.label))
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"image is {image.shape[1]}x{image.shape[0]}, its label {label.shape[1]}x{label.shape[0]} pixels"
        )
    return image, label


def changed(folder: str) -> InputError:
    return InputError(
        f"the records in {folder} were replaced while this command was running; run it again, and let no "
        "`deeplab prepare` write into that folder meanwhile"
    )
