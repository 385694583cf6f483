"""The writing of one shard: source files in, a TFRecord file and its sidecar out. One image is in memory at a time."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from pipelines.entries.options import RecordOptions
from pipelines.entries.record import Entry, Unusable, make_record
from pipelines.prepare import workarea
from pipelines.prepare.plan import FORMAT_VERSION, Spec
from pipelines.prepare.workarea import Outcome
from pipelines.runner.isolation import Failed, attempt
from trainer import prefetch, storage
from trainer.accounts import Reject
from trainer.formats.dataset import Sums
from trainer.formats.examples import encode
from trainer.formats.frames import frame
from trainer.formats.labels import Palette, pixels_of_ids


def is_finished(folder: str, spec: Spec) -> bool:
    """Whether a shard has been written since it was planned, which took away the sidecar of an earlier one."""
    outcome = workarea.read_sidecar(folder, spec.name)
    if outcome is None or outcome.shard.fingerprint != spec.fingerprint:
        return False
    return storage.exists(storage.join(folder, spec.name)) == bool(outcome.shard.records)


def write_shard(
    folder: str,
    spec: Spec,
    entries: Iterable[Entry],
    palette: Palette,
    options: RecordOptions,
    finish: Callable[[str], object] = lambda outcome: None,
) -> Outcome:
    """Writes one whole shard and then its sidecar; both appear only when they are complete.

    Whatever an entry does becomes a reject: what it raises, and that the process ended in an earlier run.

    Args:
      folder: of the records.
      entries: what to put in, in this order.
      finish: called with "written" or "rejected" after every entry.

    Returns:
      What the sidecar says; a shard without records has no file.
    """
    path = storage.join(folder, spec.name)
    rejects: list[Reject] = []
    unread: list[str] = []
    failed = False
    sums = Sums()
    with workarea.notes(folder).watch(spec.name) as care:
        with storage.writer(path) as file:
            for entry, read in prefetch.read_ahead(entries, lambda entry: () if care else (entry.image, entry.label)):
                work = functools.partial(make, entry, palette, options, read)
                if care:
                    work = functools.partial(care.isolated, make, entry, palette, options)
                try:
                    record = attempt(work, known=Unusable)
                except Unusable as fault:
                    rejects.append(Reject(entry.key, fault.path, "prepare", fault.reason))
                    unread += [fault.path] * fault.unread
                    finish("rejected")
                except Failed as fault:
                    rejects.append(Reject(entry.key, entry.image, "prepare", fault.reason))
                    failed = True
                    finish("rejected")
                else:
                    file.write(record.framed)
                    sums.add(*record, entry.copy)
                    finish("written")
            file.flush()
            if spec.plan:  # that nobody has described what was there as the whole set meanwhile
                workarea.read_plan(folder, spec.name, spec.plan)
            # Before it has its name, or it might be another run's.
            modified = 0 if storage.is_remote(path) else os.fstat(file.fileno()).st_mtime_ns
        if not sums.records:
            storage.remove(path)
        outcome = Outcome(
            sums.shard(spec.name, spec.split, spec.fingerprint, palette),
            tuple(rejects),
            FORMAT_VERSION,
            modified,
            tuple(dict.fromkeys(unread)),
            failed,
        )
        workarea.write_sidecar(folder, outcome)
    return outcome


class Made(NamedTuple):
    """A record as it stands in a shard.

    Attributes:
      framed: its bytes.
      size: (height, width) of image and label, in pixels.
      pixels: label pixels of every id, int64 [256].
    """

    framed: bytes
    size: tuple[int, int]
    pixels: np.ndarray


def make(entry: Entry, palette: Palette, options: RecordOptions, read: prefetch.Read = storage.read) -> Made:
    """Reads, augments and encodes one entry. Raises Unusable for what is wrong with its files."""
    record, label = make_record(entry, palette, options, read)
    return Made(frame(encode(record)), label.shape, pixels_of_ids(label))
