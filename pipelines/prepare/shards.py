"""Writing of a shard: from source files to a TFRecord file and its sidecar, with one image in memory at a time.

An image is read and decoded once for all its records (of many copies, once for TOGETHER of them). Their places in the
shard are apart, so records that are made before their turn wait in a temporary file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence

from pipelines.entries.options import RecordOptions
from pipelines.entries.record import Entry
from pipelines.prepare import workarea
from pipelines.prepare.making import Fault, made
from pipelines.prepare.plan import FORMAT_VERSION, Spec
from pipelines.prepare.workarea import Outcome
from pipelines.runner.notes import Recovery
from trainer import storage
from trainer.formats.dataset import Shard, Sums
from trainer.formats.labels import Palette


def is_finished(folder: str, spec: Spec) -> bool:
    """Whether a shard has been written since it was planned, when its previous sidecar was removed."""
    outcome = workarea.read_sidecar(folder, spec.name)
    if outcome is None or outcome.shard.fingerprint != spec.fingerprint:
        return False
    return storage.exists(storage.join(folder, spec.name)) == bool(outcome.shard.records)


def make_shard(
    folder: str,
    spec: Spec,
    entries: Sequence[Entry],
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
            for place, entry, result in made(entries, palette, options, recovery, threads, near):
                framed = b""
                if isinstance(result, Fault):
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
        shard = sums.shard(spec.name, spec.split, spec.fingerprint, palette)
        return _outcome(shard, [faults[place] for place in sorted(faults)], modified)

    return write


def _outcome(shard: Shard, faults: Sequence[Fault], modified: int) -> Outcome:
    """The contents of a shard's sidecar; `faults` in the order of its entries, `modified` as in `Outcome`."""
    return Outcome(
        shard,
        rejects=tuple(fault.reject for fault in faults),
        format=FORMAT_VERSION,
        modified=modified,
        unread=tuple(dict.fromkeys(fault.reject.path for fault in faults if fault.is_unread)),
        failed=any(fault.is_failure for fault in faults),
    )


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
