"""The Beam side of `deeplab segment`: numbers of chunks in; masks, segment.json and rejects.jsonl out.

Images never pass from one step to another: an element is the number of a chunk of the plan, and one DoFn reads,
predicts, refines, encodes and writes. Importing this must not import TensorFlow: workers that find all their masks
finished do without.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import apache_beam as beam
import numpy as np

from pipelines.inputs.collection import SourceImage
from pipelines.runner.boundary import Care, Failed, attempt
from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work, spread
from pipelines.segment import plan as planning
from pipelines.segment.mask import Loaded, Occupied, SegmentJob, alone
from pipelines.segment.plan import STAGE, Entry, read_chunk
from pipelines.segment.tally import SegmentTally, add_up, check_same_run, publish
from trainer.accounts import Reject
from trainer.formats.images import ImageError

KNOWN = (ImageError, OSError, Occupied)
"""What is wrong with an image, or with the files that are where its mask shall be."""

CHECK_SECONDS = 1.0
"""How long a process trusts that no other run has begun in its folder, which takes longer to its first mask: it loads
TensorFlow and the network in between."""

Load = Callable[[SourceImage], tuple[Loaded, np.ndarray]]


class Memory:
    """What the threads of a process share where their images are large."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held = 0

    @contextlib.contextmanager
    def hold(self, needed: int, allowed: int) -> Iterator[None]:
        """Waits until `needed` bytes fit into those `allowed` for all, or nobody else holds any. Not to be nested."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + needed <= allowed)
            self._held += needed
        try:
            yield
        finally:
            with self._changed:
                self._held -= needed
                self._changed.notify_all()


_memory = Memory()


class Turn:
    """Whose turn it is to write into a folder: what the threads of a process know of it."""

    def __init__(self) -> None:
        self._run: tuple[str, str, str] = ("", "", "")
        self._end = 0.0

    def check(self, folder: str, plan: str, fingerprint: str) -> None:
        """See `check_same_run`, of whose answer this is at most CHECK_SECONDS old."""
        run, now = (folder, plan, fingerprint), time.monotonic()
        if self._run != run or now > self._end:
            check_same_run(*run)
            self._run, self._end = run, now + CHECK_SECONDS


_turn = Turn()


@functools.lru_cache(maxsize=1)
def _plan(folder: str, file: str) -> list[bytes]:
    """Lines of the plan, one per chunk; read once per process."""
    return planning.read(folder, file)


@dataclass(eq=False)
class SegmentChunk(Work):
    """Chunk number -> SegmentTally; the masks are written on the way. Repeating a chunk writes the same masks.

    Attributes:
      job: model and options.
      plan: name of the plan's file.
    """

    stage: ClassVar[str] = STAGE
    job: SegmentJob
    plan: str

    def process(self, number: int) -> Iterator[SegmentTally]:
        folder = self.job.options.output
        check_same_run(folder, self.plan, self.job.fingerprint)
        entries = read_chunk(_plan(folder, self.plan)[number])
        # The same on every run over the same images, so that a rerun finds what an earlier one died of.
        name = repr([entry.source.name for entry in entries])
        with planning.in_flight(folder).watch(name) as care:
            tally = add_up(self._tallies(entries, care))
        yield tally

    def _tallies(self, entries: list[Entry], care: Care | None) -> Iterator[SegmentTally]:
        todo = []
        for entry in entries:
            try:
                ids = attempt(functools.partial(self.job.finished, entry), KNOWN) if entry.existing else None
            except (*KNOWN, Failed) as fault:
                yield self._rejected(entry.source, fault)
                continue
            if ids is None:
                todo.append(entry.source)
            else:
                self.finish("skipped")
                yield SegmentTally.of(ids, skipped=1)
        if todo:
            yield from self._with_care(todo, care) if care else self._segmented(todo, self.job.load)

    def _with_care(self, todo: list[SourceImage], care: Care) -> Iterator[SegmentTally]:
        """Image by image, decoded in a subprocess; where a process ended after that, everything is done in one."""
        for source in todo:
            if source.name in care.suspects:
                _turn.check(self.job.options.output, self.plan, self.job.fingerprint)
                try:
                    yield care.isolated(alone, self.job, source)
                    self.finish("written")
                except (*KNOWN, Failed) as fault:
                    yield self._rejected(source, fault)
            else:
                load = functools.partial(care.isolated, self.job.load)
                care.at(source.name)
                yield from self._segmented([source], load)

    def _segmented(self, todo: list[SourceImage], load: Load) -> Iterator[SegmentTally]:
        large: list[Loaded] = []
        yield from self._together(todo, load, large)
        for key in large:
            # They are read once more, which costs little beside the work on them.
            with _memory.hold(key.memory, self.job.allowed):
                yield from self._together([key.source], load)

    def _together(
        self, todo: list[SourceImage], load: Load, large: list[Loaded] | None = None
    ) -> Iterator[SegmentTally]:
        """Images side by side: those of equal size share a pass of the network. Large ones are put into `large`."""
        rejects: list[SegmentTally] = []

        def loaded() -> Iterator[tuple[Loaded, np.ndarray]]:
            for source in todo:
                try:
                    key, image = attempt(functools.partial(load, source), KNOWN)
                except (*KNOWN, Failed) as fault:
                    rejects.append(self._rejected(source, fault))
                    continue
                if key.memory and large is not None:
                    large.append(key)
                else:
                    yield key, image

        # Made here rather than in setup: where every mask is finished, TensorFlow is not needed.
        for result in self.job.segmenter()(loaded()):
            # Another run's masks must not be replaced by those of this one.
            _turn.check(self.job.options.output, self.plan, self.job.fingerprint)
            try:
                attempt(functools.partial(self.job.write, result), KNOWN)
            except (*KNOWN, Failed) as fault:
                yield self._rejected(result.key.source, fault)
            else:
                self.finish("written")
                yield SegmentTally.of(result.ids, written=1)
        yield from rejects

    def _rejected(self, source: SourceImage, fault: Exception) -> SegmentTally:
        self.finish("rejected")
        reason = "file not found" if isinstance(fault, FileNotFoundError) else str(fault)
        return SegmentTally(rejects=(Reject(source.name, source.path, STAGE, reason),))


def build(
    pipeline: beam.Pipeline,
    heartbeat: Heartbeat,
    *,
    job: SegmentJob,
    chunks: int,
    plan: str,
    unplaced: SegmentTally,
    started: dict[str, Any],
) -> None:
    """Builds the job; its progress is counted in images.

    Its last step publishes the results, so that they are complete also when nobody waits for the job.

    Args:
      chunks: how many lines the file of the plan has.
      plan: its name.
      unplaced: the images of the plan that are in no chunk.
      started: segment.json as it was written before.
    """
    output, palette = job.options.output, job.palette
    _ = (
        spread(pipeline, range(chunks), "chunks")
        | "Segment chunks" >> beam.ParDo(SegmentChunk(heartbeat, job, plan))
        | "Sum tallies" >> beam.CombineGlobally(add_up)
        | "Write report" >> beam.Map(lambda tally: publish(unplaced + tally, output, palette, started))
    )
