"""The writing of one shard: source files in, a TFRecord file and its sidecar out. One image is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import cv2
import google_crc32c
import numpy as np

from pipelines.prepare import workarea
from pipelines.prepare.options import RecordOptions
from pipelines.prepare.plan import Spec
from pipelines.prepare.record import Unusable, make_record
from pipelines.prepare.workarea import Entry, Outcome
from trainer import storage
from trainer.accounts import Reject
from trainer.formats.dataset import Shard
from trainer.formats.examples import encode
from trainer.formats.frames import frame
from trainer.formats.labels import Palette


def write_shard(
    folder: str,
    spec: Spec,
    entries: Iterable[Entry],
    palette: Palette,
    options: RecordOptions,
    finish: Callable[[str], object] = lambda outcome: None,
) -> Outcome:
    """Writes one whole shard and then its sidecar; both appear only when they are complete.

    Args:
      folder: of the records.
      entries: what to put in, in this order.
      finish: called with "written" or "rejected" after every entry.

    Returns:
      What the sidecar says; a shard without records has no file.
    """
    path = storage.join(folder, spec.name)
    rejects: list[Reject] = []
    sums = _Sums()
    with storage.writer(path) as file:
        for entry in entries:
            try:
                record, label = make_record(entry, palette, options)
            except Unusable as fault:
                rejects.append(Reject(entry.key, fault.path, "prepare", fault.reason))
                finish("rejected")
            else:
                framed = frame(encode(record))
                file.write(framed)
                sums.add(framed, label, entry.copy)
                finish("written")
    if not sums.records:
        storage.remove(path)
    outcome = Outcome(sums.shard(spec, palette), tuple(rejects))
    workarea.write_sidecar(folder, outcome)
    return outcome


@dataclass
class _Sums:
    """What the sidecar says of a shard, added up while it is written."""

    records: int = 0
    originals: int = 0
    size: int = 0
    crc: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    min_size: tuple[int, int] = (0, 0)
    max_size: tuple[int, int] = (0, 0)

    def add(self, framed: bytes, label: np.ndarray, copy: int) -> None:
        sizes = [label.shape, *([self.min_size, self.max_size] if self.records else [])]
        self.min_size, self.max_size = (tuple(map(pick, zip(*sizes, strict=True))) for pick in (min, max))
        self.records += 1
        self.originals += copy == 0
        self.size += len(framed)
        self.crc = google_crc32c.extend(self.crc, framed)
        self.pixels += _pixels_of_ids(label)

    def shard(self, spec: Spec, palette: Palette) -> Shard:
        return Shard(
            name=spec.name,
            split=spec.split,
            records=self.records,
            images=self.originals,
            bytes=self.size,
            crc32c=self.crc,
            fingerprint=spec.fingerprint,
            class_pixels=tuple(self.pixels[: palette.num_classes].tolist()),
            ignored_pixels=int(self.pixels[palette.ignore_id]),
            min_size=self.min_size,
            max_size=self.max_size,
        )


def _pixels_of_ids(label: np.ndarray) -> np.ndarray:
    """How many pixels every id has: int64 [256] of uint8 [H, W]. Half the time of numpy.bincount."""
    counts = np.zeros(256, np.int64)
    rows = max(1, (1 << 24) // label.shape[1])  # OpenCV gives float32, exact to 2^24
    for top in range(0, label.shape[0], rows):
        counts += cv2.calcHist([label[top : top + rows]], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    return counts
