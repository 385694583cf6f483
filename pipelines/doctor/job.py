"""The Beam job of `deeplab doctor`: its input is the numbers of chunks, its output one tally.

Only numbers and tallies pass through Beam's shuffle; a tally holds counts, a few examples, and 35 bytes per pair.
Every process loads the plan's file, which takes a few hundred bytes per pair.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import apache_beam as beam

from pipelines.doctor import tally
from pipelines.doctor.look import look
from pipelines.doctor.plan import Subject, read_chunk
from pipelines.doctor.tally import DoctorTally
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import InFlight, Recovery
from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work, distribute
from trainer import storage
from trainer.formats.labels import Palette

LABELS = "labels"
"""Name of the note on the sample of labels, which is read before the job."""


def in_flight(folder: str) -> InFlight:
    """The notes of what the workers of the job that writes to `folder` are working on."""
    return InFlight(storage.join(folder, ".in-flight"))


@dataclass(eq=False)
class LookAtChunk(Work):
    """Number of a chunk of the plan -> the DoctorTally of its pairs.

    Attributes:
      palette, coding: the palette (None if unknown) and the coding with which labels are read.
      max_pixels: bound on the pixels of an image or label.
      output: the folder with the plan.
      digest: the digest of the plan.
    """

    stage: ClassVar[str] = "doctor"
    palette: Palette | None
    coding: str
    max_pixels: int
    output: str
    digest: str

    def process(self, number: int) -> Iterator[DoctorTally]:
        subjects = read_chunk(self.output, self.digest, number)
        # The name is the same in every run over the same pairs, so a rerun finds the note of one that crashed.
        name = repr([subject.label for subject in subjects])
        notes = in_flight(self.output)
        if notes.interrupted(LABELS):  # a label of the sample crashed a process, and is in one of the chunks
            notes.start(name)
        with notes.watch(name) as recovery:
            yield tally.total(self._look(subject, recovery) for subject in subjects)

    def _look(self, subject: Subject, recovery: Recovery | None) -> DoctorTally:
        call = functools.partial(recovery.isolated, look) if recovery else look
        try:
            result = attempt(functools.partial(call, subject, self.palette, self.coding, self.max_pixels))
        except Failed as fault:
            result = tally.with_print(tally.seen_of(subject.number, "failed", fault.reason), subject.number)
        self.finish("looked at")
        return result


@dataclass(eq=False)
class SumTallies(beam.CombineFn):
    """Adds tallies of parts of the set."""

    def create_accumulator(self) -> DoctorTally:
        return DoctorTally()

    def add_input(self, accumulator: DoctorTally, element: DoctorTally) -> DoctorTally:
        return accumulator + element

    def merge_accumulators(self, accumulators: Iterable[DoctorTally]) -> DoctorTally:
        return tally.total(accumulators)

    def extract_output(self, accumulator: DoctorTally) -> DoctorTally:
        return accumulator


def build(
    pipeline: beam.Pipeline,
    heartbeat: Heartbeat,
    *,
    palette: Palette | None,
    coding: str,
    max_pixels: int,
    chunks: int,
    output: str,
    digest: str,
) -> None:
    """Builds the job: the plan's chunks are examined, and their tally is written beside the plan."""
    _ = (
        distribute(pipeline, range(chunks), "chunks")
        | "Look at chunks" >> beam.ParDo(LookAtChunk(heartbeat, palette, coding, max_pixels, output, digest))
        | "Sum tallies" >> beam.CombineGlobally(SumTallies())
        | "Write tally" >> beam.Map(tally.write, output, digest)
    )
