"""The Beam job of `deeplab doctor`: its input is the numbers of chunks, its output one tally.

Only numbers and tallies pass through Beam's shuffle; a tally holds counts, a few examples, and 35 bytes per pair.
Every process loads the plan's file, which takes a few hundred bytes per pair.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import apache_beam as beam

from pipelines.doctor import tally
from pipelines.doctor.look import look
from pipelines.doctor.plan import Subject, read_chunk
from pipelines.doctor.tally import DoctorTally
from pipelines.runner import handover
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import guarded_each
from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work, distribute
from trainer.formats.labels import Palette


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
        with handover.watch_chunk(self.output, self.digest, [subject.label for subject in subjects]) as recovery:
            work = functools.partial(look, palette=self.palette, coding=self.coding, max_pixels=self.max_pixels)
            calls = guarded_each(work, subjects, lambda subject: (subject.image, subject.label), recovery)
            yield tally.total(self._attempt(subject, call) for subject, call in calls)

    def _attempt(self, subject: Subject, call: Callable[[], DoctorTally]) -> DoctorTally:
        try:
            result = attempt(call)
        except Failed as fault:
            seen = tally.seen_of(subject.number, subject.label, "failed", fault.reason)
            result = tally.with_print(seen, subject.number)
        self.finish("looked at")
        return result


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
        | "Sum tallies" >> beam.CombineGlobally(tally.total)
        | "Write tally" >> beam.Map(tally.write, output, digest)
    )
