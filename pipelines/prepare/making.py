"""What becomes of planned records: the records themselves, or the reasons why there are none.

The work is done by partners where the job has some, else by this thread and by those that have nothing else to do.
Where a process has ended before, it is done by a partner in any case, which a crash would end instead of this process.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from pipelines.entries.options import RecordOptions
from pipelines.entries.record import Entry, Source, Unusable, load, make_record
from pipelines.runner.isolation import Failed, Isolated, attempt
from pipelines.runner.notes import Recovery
from pipelines.runner.partners import Partners, new_partners, running
from trainer import prefetch, storage
from trainer.accounts import Reject
from trainer.formats.examples import encode
from trainer.formats.frames import frame
from trainer.formats.labels import Palette
from trainer.formats.runs import pixels_of_ids

T = TypeVar("T")

TOGETHER = 16
"""The most versions of an image, with all their tiles, that are made of one decoding: their records are in memory
together."""
RECORDS = 64
"""The most records that a partner is asked for at a time, if they are of more than one image: the more, the less the
asking costs, but at the end of the job all other partners wait for the last."""
PIECE = 8 << 20
"""Bytes of records that a partner is to return at most, if they are of more than one image: some of such pieces are in
memory for each worker."""
AHEAD = 2
"""Pieces of work whose images a partner reads from Cloud Storage while it makes the records of another one."""


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


class Fault(NamedTuple):
    """The reason why there is no record; no exception, whose traceback would keep the image in memory.

    Attributes:
      reject: the reject.
      is_unread: whether a file could not be read, see `Unusable.unread`.
      is_failure: whether the reason may lie in the machine, see `workarea.Outcome.failed`.
    """

    reject: Reject
    is_unread: bool = False
    is_failure: bool = False


Result = FramedRecord | Fault
Images = list[list[Entry]]
"""The entries of some images, of each of which one decoding is needed."""


def made(
    entries: Sequence[Entry],
    palette: Palette,
    options: RecordOptions,
    recovery: Recovery | None,
    threads: int,
    near: str | None,
) -> Iterator[tuple[int, Entry, Result]]:
    """What becomes of every entry, with its place among them, image by image.

    Args:
      entries: the entries of a shard, in order.
      palette: the palette of the raw set.
      options: the options of the records.
      recovery: what the notes on the shard yield, see `pipelines.runner.notes`. If it is not None, partners do the
        work.
      threads: number of threads that make records, for all shards that this process writes at a time.
      near: the folder for temporary files; None for the default one.
    """
    images: dict[object, list[tuple[int, Entry]]] = {}
    for place, entry in enumerate(entries):
        images.setdefault((entry.key, entry.copy // TOGETHER), []).append((place, entry))
    with contextlib.ExitStack() as opened:
        partners = running()
        if recovery and images and not partners:
            partners = opened.enter_context(new_partners(1, near, ahead(entries[0].image)))

        def paths(piece: list[list[tuple[int, Entry]]]) -> tuple[str, ...]:
            return () if partners else _paths([entry for _, entry in piece[0]])

        def work(piece: list[list[tuple[int, Entry]]], read: prefetch.Read) -> list[list[Result]]:
            images = [[entry for _, entry in image] for image in piece]
            if partners:
                return _by_partner(partners, images, palette, options, recovery)
            return [_of_image(image, palette, options, _attempted, read) for image in images]

        threads = partners.threads if partners else threads
        for piece, results in prefetch.work_ahead(_pieces(images.values(), partners), paths, work, threads):
            for (place, entry), result in zip(itertools.chain(*piece), itertools.chain(*results()), strict=True):
                yield place, entry, result


def ahead(source: str) -> int:
    """The number of pieces that a partner reads ahead, from files like `source`."""
    return AHEAD if storage.is_remote(source) else 0


def _pieces(images: Iterable[list[T]], partners: Partners | None) -> Iterator[list[list[T]]]:
    """Images one by one; for partners as many together as have RECORDS entries, or records of about PIECE bytes."""
    piece: list[list[T]] = []
    for image in images:
        piece.append(image)
        if not partners or sum(map(len, piece)) >= min(RECORDS, PIECE // partners.usual):
            yield piece
            piece = []
    if piece:
        yield piece


def _isolated(isolated: Isolated, images: Images, palette: Palette, options: RecordOptions) -> list[list[Result]]:
    return [[_attempted(entry, isolated, make, entry, palette, options) for entry in image] for image in images]


def _by_partner(
    partners: Partners, images: Images, palette: Palette, options: RecordOptions, recovery: Recovery | None
) -> list[list[Result]]:
    paths = [path for image in images for path in _paths(image) if storage.is_remote(path)]
    try:
        results, records = attempt(functools.partial(partners, _put_together, images, palette, options, paths=paths))
    except Failed:  # of all images, because of one of them
        with contextlib.nullcontext(recovery.isolated) if recovery else Isolated() as isolated:
            return _isolated(isolated, images, palette, options)
    framed = iter(records)
    return [
        [one if isinstance(one, Fault) else one._replace(framed=next(framed)) for one in image] for image in results
    ]


def _put_together(
    put: Callable[[bytes], object], images: Images, palette: Palette, options: RecordOptions
) -> list[list[Result]]:
    """What becomes of the images; the records themselves are given to `put`. Any error but Unusable is raised."""

    def without_bytes(result: Result) -> Result:
        if isinstance(result, Fault):
            return result
        put(result.framed)
        return result._replace(framed=b"")

    return [
        [without_bytes(one) for one in _of_image(image, palette, options, _expected, read)]
        for image, read in prefetch.read_ahead(images, _paths)
    ]


def _paths(image: list[Entry]) -> tuple[str, str]:
    return image[0].image, image[0].label


def _of_image(
    image: list[Entry],
    palette: Palette,
    options: RecordOptions,
    attempted: Callable[..., Any],
    read: prefetch.Read,
) -> list[Result]:
    """What becomes of the entries of an image, each by a call of `attempted`."""
    source = attempted(image[0], load, image, palette, options, read)
    if isinstance(source, Fault):
        return [source] * len(image)
    return [attempted(entry, _framed, entry, source, palette, options) for entry in image]


def _attempted(entry: Entry, work: Callable[..., T], *arguments: object) -> T | Fault:
    """What `work` returns for these arguments, in an `attempt`."""
    try:
        return attempt(functools.partial(_expected, entry, work, *arguments))
    except Failed as fault:
        return Fault(Reject(entry.key, entry.image, "prepare", fault.reason), is_failure=True)


def _expected(entry: Entry, work: Callable[..., T], *arguments: object) -> T | Fault:
    """What `work` returns for these arguments; any error but Unusable is raised."""
    try:
        return work(*arguments)
    except Unusable as fault:
        return Fault(Reject(entry.key, fault.path, "prepare", fault.reason), is_unread=fault.unread)


def make(entry: Entry, palette: Palette, options: RecordOptions) -> FramedRecord:
    """Reads, augments and encodes an entry. Raises Unusable if its files cannot be used."""
    return _framed(entry, load([entry], palette, options), palette, options)


def _framed(entry: Entry, source: Source, palette: Palette, options: RecordOptions) -> FramedRecord:
    record, label = make_record(entry, source, palette, options)
    pixels = source.pixels if label is source.label else pixels_of_ids(label)
    return FramedRecord(frame(encode(record)), label.shape, pixels)
