"""The Beam job of `deeplab segment`: turns chunks of the plan into masks, the table, segment.json and rejects.jsonl.

Images never pass from one step to another: an element is the place of a chunk in the plan's file, and a single DoFn
reads, predicts, refines, encodes and writes. Importing this module must not import TensorFlow, since workers that find
all their masks finished do not need it.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import apache_beam as beam
import numpy as np

from pipelines.inputs.collection import SourceImage
from pipelines.masks.segmenter import Segmented, Unsegmented
from pipelines.runner.isolation import Failed, Isolated, attempt
from pipelines.runner.notes import Recovery
from pipelines.runner.progress import Heartbeat
from pipelines.runner.steps import step, watched
from pipelines.runner.work import Work, distribute
from pipelines.segment import plan as planning
from pipelines.segment import table
from pipelines.segment.mask import Loaded, Occupied, SegmentJob, alone
from pipelines.segment.memory import Memory
from pipelines.segment.plan import STAGE, Chunk, Entry, read_chunk
from pipelines.segment.table import Row
from pipelines.segment.tally import SegmentTally, add_up, check_same_run, publish, tally_of
from trainer import prefetch, storage
from trainer.accounts import Reject
from trainer.formats.images import ImageError

KNOWN = (ImageError, OSError, Occupied)
"""Expected faults of an image, or of an existing file in the place of its mask."""

CHECK_SECONDS = 1.0
"""Seconds for which a process assumes that no other run has begun in its folder. Another run takes longer to write its
first mask, since it first loads TensorFlow and the network."""

NOTED = 8
"""Images that are noted together in recovery mode. Cloud Storage lets an object be written about once in a second."""

Load = Callable[[SourceImage, prefetch.Read], tuple[Loaded, np.ndarray]]
Result = tuple[str, Row | Reject]
"""The outcome of an image, "written", "skipped" or "rejected", with its row of the table or its reject."""


_memory = Memory()


class Turn:
    """Checks, for all threads of a process, that no other run has begun to write into a folder."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._run: tuple[str, str, str] = ("", "", "")
        self._end = 0.0

    def check(self, folder: str, plan: str, fingerprint: str, again: bool = False) -> None:
        """Like `check_same_run`, but reuses an answer that is at most CHECK_SECONDS old, unless `again`."""
        run = folder, plan, fingerprint
        with self._asking:  # one of the threads, for all of them
            if again or self._run != run or time.monotonic() > self._end:
                now = time.monotonic()
                check_same_run(*run)
                self._run, self._end = run, now + CHECK_SECONDS


_turn = Turn()


@dataclass(eq=False)
class SegmentChunk(Work):
    """Chunk of the plan -> SegmentTally; writes its masks and its part of the table.

    Repeating a chunk writes the same masks, or none if they are finished.

    Attributes:
      job: model and options.
      plan: name of the plan's file.
    """

    stage: ClassVar[str] = STAGE
    job: SegmentJob
    plan: str

    def process(self, chunk: Chunk) -> Iterator[SegmentTally]:
        folder, palette, fingerprint = self.job.options.output, self.job.palette, self.job.fingerprint
        planned = prefetch.ahead(folder, functools.partial(read_chunk, folder, self.plan, chunk))
        _turn.check(folder, self.plan, fingerprint, again=True)
        entries = planned()
        # The name is the same in every run over the same images, so a rerun finds the note of one that crashed.
        part = planning.part(entries)
        seen = prefetch.ahead(folder, functools.partial(table.read, folder, part, fingerprint, palette))
        with planning.in_flight(folder).watch(part) as recovery:
            if recovery:
                planning.sweep_chunk(folder, entries)
            known = seen()
            with watched() as times:
                results = list(self._results(entries, known, recovery))
            place = {entry.source.name: index for index, entry in enumerate(entries)}
            rows = sorted((result for _, result in results if isinstance(result, Row)), key=lambda row: place[row.key])
            if rows != [*known.values()]:
                _turn.check(folder, self.plan, fingerprint)
                table.write(folder, part, rows, fingerprint, palette)
        yield add_up(tally_of(*result) for result in results) + SegmentTally(
            seconds=times.wall, processor=times.processor
        )

    def _results(self, entries: list[Entry], known: Mapping[str, Row], recovery: Recovery | None) -> Iterator[Result]:
        folder, again = self.job.options.output, bool(recovery or known)
        now = [prefetch.ahead(folder, functools.partial(self.job.refreshed, entry, again)) for entry in entries]
        todo = []
        for planned, refreshed in zip(entries, now, strict=True):
            row, finished = known.get(planned.source.name), None
            try:
                entry = refreshed()
                if row or entry.existing:
                    finished = attempt(functools.partial(self.job.finished, entry, row), KNOWN)
            except (*KNOWN, Failed) as fault:
                yield self._rejected(planned.source, fault)
                continue
            if finished is None:
                todo.append(planned.source)
            else:
                self.finish("skipped")
                yield "skipped", finished
        if todo:
            yield from self._recover(todo, recovery) if recovery else self._segmented(todo, self.job.load)

    def _recover(self, todo: list[SourceImage], recovery: Recovery) -> Iterator[Result]:
        """Segments a few images at a time, decoded in a subprocess; suspects entirely in a subprocess."""
        suspects = [source for source in todo if source.name in recovery.suspects]
        others = [source for source in todo if source.name not in recovery.suspects]
        for first in range(0, len(others), NOTED):
            piece = others[first : first + NOTED]
            recovery.at(source.name for source in piece)
            yield from self._segmented(piece, functools.partial(self._load_isolated, recovery.isolated))
        for source in suspects:
            _turn.check(self.job.options.output, self.plan, self.job.fingerprint)
            try:
                row = recovery.isolated(alone, self.job, source)
            except (*KNOWN, Failed) as fault:
                yield self._rejected(source, fault)
            else:
                self.finish("written")
                yield "written", row

    def _load_isolated(
        self, isolated: Isolated, source: SourceImage, read: prefetch.Read
    ) -> tuple[Loaded, np.ndarray]:
        if not storage.is_remote(source.path):
            return isolated(self.job.load, source)
        return isolated(self.job.load, source, functools.partial(_given, read(source.path)))

    def _segmented(self, todo: list[SourceImage], load: Load) -> Iterator[Result]:
        large: list[Loaded] = []
        yield from self._together(todo, load, large)
        for key in large:
            # They are read a second time, which takes little time compared with segmenting them.
            with _memory.reserve(key.memory, self.job.budget.allowed):
                yield from self._together([key.source], load)

    def _together(self, todo: list[SourceImage], load: Load, large: list[Loaded] | None = None) -> Iterator[Result]:
        """Segments images together: those of equal size share a batch. Large ones are appended to `large` instead."""
        rejects: list[Result] = []

        def loaded() -> Iterator[tuple[Loaded, np.ndarray]]:
            for source, read in prefetch.read_ahead(todo, lambda source: (source.path,)):
                try:
                    key, image = attempt(functools.partial(load, source, read), KNOWN)
                except (*KNOWN, Failed) as fault:
                    rejects.append(self._rejected(source, fault))
                    continue
                if key.memory and large is not None:
                    large.append(key)
                else:
                    yield key, image

        # Made here rather than in `setup`: if every mask is finished, TensorFlow is not needed.
        results = self.job.segmenter()(loaded())
        for result, written in prefetch.write_behind(results, self.job.options.output, self._write, _held):
            try:
                with step("write"):
                    row = written()
            except (*KNOWN, Failed) as fault:
                yield self._rejected(result.key.source, fault)
            else:
                self.finish("written")
                yield "written", row
        yield from rejects

    def _write(self, result: Segmented | Unsegmented) -> Row:
        # Another run's masks must not be replaced by those of this one.
        _turn.check(self.job.options.output, self.plan, self.job.fingerprint)
        return attempt(functools.partial(self.job.write, result), KNOWN)

    def _rejected(self, source: SourceImage, fault: Exception) -> Result:
        self.finish("rejected")
        return "rejected", Reject(source.name, source.path, STAGE, _reason(fault, source.path))


def _given(data: bytes, path: str) -> bytes:
    """Reads a file that has been read."""
    return data


def _reason(fault: Exception, path: str) -> str:
    """The reason, for humans, why the image at `path` has no mask."""
    if isinstance(fault, FileNotFoundError) and fault.filename in (None, path):
        return "file not found"
    if isinstance(fault, OSError) and fault.strerror:
        place = "cannot be read" if fault.filename in (None, path) else fault.filename
        return f"{place}: {fault.strerror}"
    return str(fault)


def _held(result: Segmented | Unsegmented) -> int:
    """The size of a result in memory, in bytes."""
    return result.image.nbytes + result.ids.nbytes if isinstance(result, Segmented) else 0


def build(
    pipeline: beam.Pipeline,
    heartbeat: Heartbeat,
    *,
    job: SegmentJob,
    chunks: Sequence[Chunk],
    plan: str,
    unplaced: SegmentTally,
    started: dict[str, Any],
) -> None:
    """Builds the job; its progress is counted in images.

    Its last step publishes the results, so that they are complete even if nobody waits for the job.

    Args:
      job: model and options.
      chunks: the chunks of the plan.
      plan: name of its file.
      unplaced: tally of the images of the plan that are in no chunk.
      started: segment.json as it was written before the job.
    """
    output, palette = job.options.output, job.palette
    _ = (
        distribute(pipeline, chunks, "chunks")
        | "Segment chunks" >> beam.ParDo(SegmentChunk(heartbeat, job, plan))
        | "Sum tallies" >> beam.CombineGlobally(add_up)
        | "Write report" >> beam.Map(lambda tally: publish(unplaced + tally, output, palette, started))
    )
