"""Writing of a shard: from source files to a TFRecord file and its sidecar, with one image in memory at a time.

An image is read and decoded once for all its records (of many copies, once for TOGETHER of them). Their places in the
shard are apart, so records that are made before their turn wait in a temporary file.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from pipelines.entries.options import RecordOptions
from pipelines.entries.record import Entry, Source, Unusable, load, make_record
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
from trainer.formats.labels import Palette
from trainer.formats.runs import pixels_of_ids

T = TypeVar("T")

TOGETHER = 16
"""The most records that are made of one decoding of an image, since they are in memory together."""


def is_finished(folder: str, spec: Spec) -> bool:
    """Whether a shard has been written since it was planned, when its previous sidecar was removed."""
    outcome = workarea.read_sidecar(folder, spec.name)
    if outcome is None or outcome.shard.fingerprint != spec.fingerprint:
        return False
    return storage.exists(storage.join(folder, spec.name)) == bool(outcome.shard.records)


def make_shard(
    folder: str,
    spec: Spec,
    entries: Iterable[Entry],
    palette: Palette,
    options: RecordOptions,
    finish: Callable[[str], object] = lambda outcome: None,
    recovery: Recovery | None = None,
    threads: int = 1,
) -> Callable[[], Outcome]:
    """Makes the records of a shard; returns a function that then writes the shard, atomically, and must be called.

    A shard without records has no file. An entry becomes a reject if it raises an error, or if it ended the process of
    an earlier run.

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
      A function that returns the contents of the shard's sidecar, which is still to be written. It raises InputError
      if another run has removed or replaced the plan meanwhile.
    """
    path = storage.join(folder, spec.name)
    near = None if storage.is_remote(path) else os.path.dirname(path)
    sums, faults = Sums(), {}
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(storage.writer(path))
        with _ordered(near) as in_order:
            for place, entry, result in _made(entries, palette, options, recovery, threads):
                framed = b""
                if isinstance(result, _Fault):
                    faults[place] = result
                else:
                    framed = result.framed
                    sums.count(result.size, result.pixels, entry.copy)
                for record in in_order(place, framed):
                    file.write(record)
                    sums.append(record)
                finish("written" if framed else "rejected")
        still_open = opened.pop_all()

    def write() -> Outcome:
        with still_open:
            file.flush()
            # Raises if the plan is gone: another run may have described the set without this shard.
            if spec.plan:
                workarea.read_plan(folder, spec.name, spec.plan)
            # Before the file has its final name, under which another run may replace it.
            modified = 0 if storage.is_remote(path) else os.fstat(file.fileno()).st_mtime_ns
        if not sums.records:
            storage.remove(path)
        in_plan = [faults[place] for place in sorted(faults)]
        return Outcome(
            sums.shard(spec.name, spec.split, spec.fingerprint, palette),
            tuple(fault.reject for fault in in_plan),
            FORMAT_VERSION,
            modified,
            tuple(dict.fromkeys(fault.reject.path for fault in in_plan if fault.is_unread)),
            any(fault.is_failure for fault in in_plan),
        )

    return write


@contextlib.contextmanager
def _ordered(folder: str | None) -> Iterator[Callable[[int, bytes], Iterator[bytes]]]:
    """Yields a function that takes records by their places, in any order, and returns those whose turn has come.

    It must be given every place from 0 on, with b"" for one that remains empty.

    Args:
      folder: for the temporary file in which the others wait; None for the default one.
    """
    spans: dict[int, tuple[int, int]] = {}
    turn = 0

    def put(place: int, framed: bytes) -> Iterator[bytes]:
        nonlocal turn
        if place != turn:
            spans[place] = waiting.seek(0, os.SEEK_END), len(framed)
            waiting.write(framed)
            return
        yield framed
        turn += 1
        while turn in spans:
            offset, size = spans.pop(turn)
            waiting.seek(offset)
            yield waiting.read(size)
            turn += 1

    with tempfile.TemporaryFile(dir=folder) as waiting:
        yield put


class _Fault(NamedTuple):
    """The reason why there is no record; no exception, whose traceback would keep the image in memory.

    Attributes:
      reject: the reject.
      is_unread: whether a file could not be read, see `Unusable.unread`.
      is_failure: whether the reason may lie in the machine, see `workarea.Outcome.failed`.
    """

    reject: Reject
    is_unread: bool = False
    is_failure: bool = False


def _made(
    entries: Iterable[Entry], palette: Palette, options: RecordOptions, recovery: Recovery | None, threads: int
) -> Iterator[tuple[int, Entry, FramedRecord | _Fault]]:
    """What becomes of every entry, with its place, image by image; with `recovery`, each entry in a subprocess."""
    images: dict[object, list[tuple[int, Entry]]] = {}
    for place, entry in enumerate(entries):
        images.setdefault(place if recovery else (entry.key, entry.copy // TOGETHER), []).append((place, entry))

    def paths(image: list[tuple[int, Entry]]) -> tuple[str, ...]:
        (_, entry), *_ = image
        return () if recovery else (entry.image, entry.label)

    def work(image: list[tuple[int, Entry]], read: prefetch.Read) -> list[FramedRecord | _Fault]:
        members = [entry for _, entry in image]
        if recovery:
            return [_result(entry, recovery.isolated, make, entry, palette, options) for entry in members]
        source = _result(members[0], load, members, palette, options, read)
        if isinstance(source, _Fault):
            return [source] * len(members)
        return [_result(entry, _framed, entry, source, palette, options) for entry in members]

    for image, results in prefetch.work_ahead(images.values(), paths, work, 1 if recovery else threads):
        for (place, entry), result in zip(image, results(), strict=True):
            yield place, entry, result


def _result(entry: Entry, work: Callable[..., T], *arguments: object) -> T | _Fault:
    """What `work` returns for these arguments, in an `attempt`."""
    try:
        return attempt(functools.partial(work, *arguments), known=Unusable)
    except Unusable as fault:
        return _Fault(Reject(entry.key, fault.path, "prepare", fault.reason), is_unread=fault.unread)
    except Failed as fault:
        return _Fault(Reject(entry.key, entry.image, "prepare", fault.reason), is_failure=True)


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


def make(entry: Entry, palette: Palette, options: RecordOptions) -> FramedRecord:
    """Reads, augments and encodes an entry. Raises Unusable if its files cannot be used."""
    return _framed(entry, load([entry], palette, options), palette, options)


def _framed(entry: Entry, source: Source, palette: Palette, options: RecordOptions) -> FramedRecord:
    record, label = make_record(entry, source, palette, options)
    pixels = source.pixels if label is source.label else pixels_of_ids(label)
    return FramedRecord(frame(encode(record)), label.shape, pixels)
