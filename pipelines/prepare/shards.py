"""Writing of a shard: from source files to a TFRecord file and its sidecar, with one image in memory at a time."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable
from typing import BinaryIO, NamedTuple

import numpy as np

from pipelines.entries.options import RecordOptions
from pipelines.entries.record import Entry, Unusable, make_record
from pipelines.prepare import workarea
from pipelines.prepare.plan import FORMAT_VERSION, Spec
from pipelines.prepare.workarea import Outcome
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import Recovery
from trainer import prefetch, storage
from trainer.accounts import Reject
from trainer.formats.dataset import Sums
from trainer.formats.examples import encode
from trainer.formats.frames import frame
from trainer.formats.labels import Palette, pixels_of_ids


def is_finished(folder: str, spec: Spec) -> bool:
    """Whether a shard has been written since it was planned, when its previous sidecar was removed."""
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
    recovery: Recovery | None = None,
    threads: int = 1,
) -> Outcome:
    """Writes a shard atomically; a shard without records has no file.

    An entry becomes a reject if it raises an error, or if it ended the process of an earlier run.

    Args:
      folder: the output folder, local or gs://.
      spec: the shard.
      entries: its entries, in order.
      palette: the palette of the raw set.
      options: the options of the records.
      finish: called with "written" or "rejected" after every entry.
      recovery: what the notes on the shard yield, see `pipelines.runner.notes`.
      threads: number of threads that make records, for all shards that this process writes at a time.

    Returns:
      The contents of its sidecar, which is still to be written.

    Raises:
      InputError: another run has removed or replaced the plan meanwhile.
    """
    path = storage.join(folder, spec.name)
    with storage.writer(path) as file:
        results = _write_records(file, entries, palette, options, finish, recovery, threads)
        file.flush()
        # Raises if the plan is gone: another run may have described the set without this shard.
        if spec.plan:
            workarea.read_plan(folder, spec.name, spec.plan)
        # Before the file has its final name, under which another run may replace it.
        modified = 0 if storage.is_remote(path) else os.fstat(file.fileno()).st_mtime_ns
    if not results.sums.records:
        storage.remove(path)
    return Outcome(
        results.sums.shard(spec.name, spec.split, spec.fingerprint, palette),
        tuple(results.rejects),
        FORMAT_VERSION,
        modified,
        tuple(dict.fromkeys(results.unread)),
        results.failed,
    )


@dataclasses.dataclass
class _Results:
    """The results of writing records: their statistics, and the rejects with the facts in `workarea.Outcome`."""

    sums: Sums = dataclasses.field(default_factory=Sums)
    rejects: list[Reject] = dataclasses.field(default_factory=list)
    unread: list[str] = dataclasses.field(default_factory=list)
    failed: bool = False


def _write_records(
    file: BinaryIO,
    entries: Iterable[Entry],
    palette: Palette,
    options: RecordOptions,
    finish: Callable[[str], object],
    recovery: Recovery | None,
    threads: int,
) -> _Results:
    """Makes the records of the entries and writes them into `file`; with `recovery`, each in a subprocess."""
    results = _Results()

    def paths(entry: Entry) -> tuple[str, ...]:
        return () if recovery else (entry.image, entry.label)

    def work(entry: Entry, read: prefetch.Read) -> FramedRecord:
        given = (entry, palette, options)
        one = functools.partial(recovery.isolated, make, *given) if recovery else functools.partial(make, *given, read)
        return attempt(one, known=Unusable)

    for entry, result in prefetch.work_ahead(entries, paths, work, 1 if recovery else threads):
        try:
            record = result()
        except Unusable as fault:
            results.rejects.append(Reject(entry.key, fault.path, "prepare", fault.reason))
            results.unread += [fault.path] * fault.unread
            finish("rejected")
        except Failed as fault:
            results.rejects.append(Reject(entry.key, entry.image, "prepare", fault.reason))
            results.failed = True
            finish("rejected")
        else:
            file.write(record.framed)
            results.sums.add(*record, entry.copy)
            finish("written")
    return results


class FramedRecord(NamedTuple):
    """A record with its statistics.

    Attributes:
      framed: the record's bytes in the shard.
      size: (height, width) of image and label, in pixels.
      pixels: the number of label pixels of every id, int64 [256].
    """

    framed: bytes
    size: tuple[int, int]
    pixels: np.ndarray


def make(entry: Entry, palette: Palette, options: RecordOptions, read: prefetch.Read = storage.read) -> FramedRecord:
    """Reads, augments and encodes an entry. Raises Unusable if its files cannot be used."""
    record, label = make_record(entry, palette, options, read)
    return FramedRecord(frame(encode(record)), label.shape, pixels_of_ids(label))
