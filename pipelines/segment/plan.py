"""Plans a segmentation: the images, and the existing files. Opens no image."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import BinaryIO, NamedTuple

from pipelines.inputs.collection import Images, Listing, SourceImage
from pipelines.inputs.rows import in_bulk
from pipelines.inputs.selection import Selection
from pipelines.runner import progress
from pipelines.runner.chunks import images_per_chunk, is_full
from pipelines.runner.handover import content_digest
from pipelines.runner.notes import InFlight
from pipelines.segment import table
from pipelines.segment.existing import ExistingFiles, blocks, check_inputs_stay
from pipelines.segment.options import Options
from trainer import prefetch, storage
from trainer.accounts import REJECTS_FILE, Reject
from trainer.options import InputError

STAGE = "segment"
REPORT_FILE = "segment.json"
IN_FLIGHT = "in-flight"
PLAN_FILE = re.compile(r"images-[0-9a-f]{16}\.jsonl")
PLACES = {"masks": ("", ".png"), "overlays": ("overlays/", ".jpg"), "confidence": ("confidence/", ".png")}
"""Folder and suffix of every kind of output file of an image."""
SAMPLES = 8
"""Number of existing files checked beforehand, to find out whether this program wrote the folder; each file is checked
again before it is replaced."""

SWEEPERS = 16
"""The number of files of earlier runs that are removed, or looked up, concurrently."""


def kinds(options: Options) -> tuple[str, ...]:
    """The kinds of files that are written for every image: keys of PLACES."""
    return tuple(kind for kind in PLACES if getattr(options, kind))


def place(folder: str, kind: str, name: str) -> str:
    """The path of the output file of that kind for image `name`. Raises InputError for names that leave `folder`."""
    return storage.join(folder, storage.safe_relative(_file(kind, name)))


def _file(kind: str, name: str) -> str:
    """The path, below the output folder, of the file of that kind for image `name`."""
    below, suffix = PLACES[kind]
    return f"{below}{name}{suffix}"


@dataclass(frozen=True)
class Entry:
    """An image of the plan.

    Attributes:
      source: the image.
      existing: kind (a key of PLACES) -> signature, for the output files that exist already. They may be finished, out
        of date, or from another program. Empty with --overwrite, where that does not matter.
    """

    source: SourceImage
    existing: Mapping[str, str] = field(default_factory=dict)


class Chunk(NamedTuple):
    """The place of a chunk's line in the plan's file; the only element that Beam passes around.

    Attributes:
      offset, size: the offset and size of the line, in bytes.
      digest: the digest of its bytes.
    """

    offset: int
    size: int
    digest: str


@dataclass(frozen=True)
class Plan:
    """The images to segment, in chunks; a worker takes a chunk at a time.

    Attributes:
      file: the name of the plan's file, which contains the digest of its contents.
      lines: the contents of that file: one line per chunk, with its images.
      chunks: the places of these lines.
      size: approximate number of images per chunk.
      usable: number of images in all chunks.
      rejects: images whose masks cannot be written: their paths are unsafe, reserved or taken.
      parts: the parts of the table, one per chunk.
      samples: some of the existing files that may have to be replaced.
      outdated: files in the output that are named like the plan or the parts of the table of an earlier run.
      unfinished: unfinished files of killed processes in the output.
    """

    file: str
    lines: BinaryIO
    chunks: tuple[Chunk, ...]
    size: int
    usable: int
    rejects: tuple[Reject, ...]
    parts: frozenset[str]
    samples: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """The number of images, rejects included."""
        return self.usable + len(self.rejects)

    def sources(self) -> Iterator[SourceImage]:
        """The images, in order."""
        self.lines.seek(0)
        return itertools.starmap(SourceImage, _sources(self.lines))


def selected(listing: Listing, selection: Selection | None) -> Listing:
    """The selected images of a listing, with a note on the selection; those without a file are unusable.

    Raises InputError if there are none.
    """
    if selection is None:
        return listing
    choice = selection.choose(_Paths(listing))
    images = len(listing.images)
    return Listing(
        Images(itertools.compress(listing.images, choice.taken[:images])),
        (*itertools.compress(listing.unusable, choice.taken[images:]), *choice.missing),
        (*listing.notes, choice.note),
    )


class _Paths(Collection):
    """The paths of all images of a listing, even if they do not fit in memory."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing

    def __len__(self) -> int:
        return len(self._listing.images) + len(self._listing.unusable)

    def __iter__(self) -> Iterator[str]:
        yield from (image.path for image in self._listing.images)
        yield from (path for path, _ in self._listing.unusable)

    def __contains__(self, path: object) -> bool:
        return any(path == one for one in self)


def chunk_size(images: int, batch_size: int, before: int) -> int:
    """The approximate number of images per chunk: `before`, the size in the folder's last run, if it is similar."""
    size = images_per_chunk(images, batch_size)
    return before if before <= 4 * size and size <= 4 * before else size


def cut(entries: Iterable[Entry], size: int) -> Iterator[tuple[Entry, ...]]:
    """Cuts the images into chunks, see `is_full`; a rerun finds those that have not changed finished."""
    chunk: list[Entry] = []
    for entry in entries:
        chunk.append(entry)
        if is_full(len(chunk), entry.source.name, size):
            yield tuple(chunk)
            chunk = []
    if chunk:
        yield tuple(chunk)


@in_bulk()
def make_plan(listing: Listing, options: Options, before: int = 0) -> Plan:
    """Cuts the images into chunks.

    Args:
      before: approximate images per chunk in the folder's last run; 0 if there was none.

    Raises:
      InputError: an output would replace one of the images.
    """
    existing = ExistingFiles(options.output, _is_plan)
    check_inputs_stay(listing.images, lambda: _targets(listing.images, existing, options))
    size = chunk_size(len(listing.images), options.batch_size, before)
    lines = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the plan
    chunks, parts, samples = [], [], []
    whole, offset = hashlib.sha256(), 0
    for chunk in cut(_entries(listing.images, existing, options), size):
        # JSON escapes all but ASCII: names may contain other line separators, or bytes that are not UTF-8.
        line = json.dumps([[*entry.source, entry.existing] for entry in chunk]).encode() + b"\n"
        lines.write(line)
        whole.update(line)
        chunks.append(Chunk(offset, len(line), content_digest(line)))
        offset += len(line)
        parts.append(part(chunk))
        if len(samples) < SAMPLES:
            samples += [place(options.output, kind, e.source.name) for e in chunk for kind in e.existing]
    return Plan(
        file=f"images-{whole.hexdigest()[:16]}.jsonl",
        lines=lines,
        chunks=tuple(chunks),
        size=size,
        usable=len(listing.images),
        rejects=tuple(Reject(path, path, STAGE, reason) for path, reason in listing.unusable),
        parts=frozenset(parts),
        samples=tuple(samples[:SAMPLES]),
        outdated=tuple(sorted(existing.outdated)),
        unfinished=tuple(_unfinished(existing.leftovers, listing.images)),
    )


def _is_plan(name: str) -> bool:
    """Whether a file in the output is named like a plan, or like a part of the table."""
    return bool(PLAN_FILE.fullmatch(name) or table.PART.fullmatch(name))


def _entries(images: Iterable[SourceImage], existing: ExistingFiles, options: Options) -> Iterator[Entry]:
    """The images with their existing output files; without these under --overwrite, where they do not matter."""
    if not existing or options.overwrite:
        yield from map(Entry, images)
        return
    wanted = kinds(options)
    for block in blocks(images):
        columns = [existing.signatures([_file(kind, source.name) for source in block]) for kind in wanted]
        for source, *signatures in zip(block, *columns, strict=True):
            yield Entry(source, {kind: one for kind, one in zip(wanted, signatures, strict=True) if one})


def _targets(
    images: Iterable[SourceImage], existing: ExistingFiles, options: Options
) -> Iterator[tuple[str, SourceImage]]:
    """The existing files that may be replaced, each with the image it belongs to."""
    for entry in _entries(images, existing, replace(options, overwrite=False)) if existing else ():
        for kind in entry.existing:
            yield place(options.output, kind, entry.source.name), entry.source


def _unfinished(left: Mapping[str, Sequence[str]], images: Iterable[SourceImage]) -> Iterator[str]:
    """The unfinished files of killed processes, as far as this command would have written them."""
    for whole, names in left.items():
        if whole in (REPORT_FILE, REJECTS_FILE) or _is_plan(whole):
            yield from names
    for image in images if left else ():
        for kind in PLACES:
            yield from left.get(storage.shortened(_file(kind, image.name)), ())


def write(folder: str, plan: Plan) -> None:
    """Writes the plan's file into `folder`."""
    with storage.writer(storage.join(folder, plan.file)) as file:
        plan.lines.seek(0)
        shutil.copyfileobj(plan.lines, file)


def has_other_images(folder: str, file: str, plan: Plan) -> bool:
    """Whether the plan in `file`, which an earlier run wrote into `folder`, is not of the images of `plan`."""
    plan.lines.seek(0)
    try:
        with storage.reader(storage.join(folder, file)) as lines:
            pairs = itertools.zip_longest(_sources(lines), _sources(plan.lines))
            return any(then != now for then, now in pairs)
    except (FileNotFoundError, ValueError, TypeError):
        return True


def _sources(lines: Iterable[bytes]) -> Iterator[list[str]]:
    for line in lines:
        for *source, _ in json.loads(line):
            yield source


def read_chunk(folder: str, file: str, chunk: Chunk) -> list[Entry]:
    """The images of a chunk, from a plan's file in `folder`. Raises InputError if the file has been changed."""
    path = storage.join(folder, file)
    try:
        line = storage.read_part(path, chunk.offset, chunk.size)
    except FileNotFoundError:
        line = b""
    if content_digest(line) != chunk.digest:
        raise InputError(
            f"{path} was changed or removed while the job was running; run the same command again to resume"
        )
    return [Entry(SourceImage(*source), existing) for *source, existing in json.loads(line)]


def part(chunk: Iterable[Entry]) -> str:
    """The part of the table with the images of a chunk."""
    return table.part_of(entry.source.name for entry in chunk)


def in_flight(folder: str) -> InFlight:
    """The notes of what the workers that write to `folder` are working on."""
    return InFlight(storage.join(folder, IN_FLIGHT))


def sweep(folder: str, plan: Plan) -> None:
    """Removes files of earlier plans, leftovers of killed processes, and notes, when the job over `plan` is done."""
    works = in_flight(folder).clear, functools.partial(progress.forget, folder)
    done = [prefetch.ahead(folder, work) for work in works]
    outdated = [file for file in plan.outdated if file != plan.file and file not in plan.parts]
    with ThreadPoolExecutor(SWEEPERS) as pool:
        list(pool.map(functools.partial(_remove, folder), plan.unfinished))
        list(pool.map(functools.partial(_remove_ours, folder), outdated))
    for result in done:
        result()


def sweep_chunk(folder: str, chunk: Sequence[Entry]) -> None:
    """Removes what a killed process was writing of a chunk; one that is still alive writes it again.

    In Cloud Storage there is no such file.
    """
    files = [part(chunk), *(_file(kind, entry.source.name) for entry in chunk for kind in PLACES)]
    wholes = set(map(storage.shortened, files))
    for below in {whole[: whole.rfind("/") + 1] for whole in wholes} if not storage.is_remote(folder) else ():
        where = storage.join(folder, *below.split("/")[:-1])
        # Names alone, without sizes and dates, since there may be ten million masks.
        with contextlib.suppress(OSError), os.scandir(where) as entries:  # whose masks are rejected, if it stays
            for name in [entry.name for entry in entries if entry.name.startswith(".")]:
                if storage.unfinished(below + name) in wholes:
                    _remove(folder, below + name)


def _remove(folder: str, file: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        storage.remove(storage.join(folder, file))


def _remove_ours(folder: str, file: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if _is_ours(folder, file):
            _remove(folder, file)


def _is_ours(folder: str, file: str) -> bool:
    """Whether this program wrote a file that is named like a plan or a part of the table."""
    path = storage.join(folder, file)
    if table.PART.fullmatch(file):
        return table.is_ours(storage.read(path))
    digest = hashlib.sha256()
    with storage.reader(path) as lines:
        while data := lines.read(1 << 20):
            digest.update(data)
    return digest.hexdigest().startswith(file[len("images-") : -len(".jsonl")])
