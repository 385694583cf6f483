"""The Beam job of `deeplab evaluate`: its input is the numbers of chunks, its output one sum of confusion matrices.

Only numbers pass through Beam's shuffle. The result is one tally, with one float32 per image and folder of masks:
16 MB for a million images in four folders. Every process loads the plan's file, which takes a few hundred bytes per
label and folder.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import apache_beam as beam

from pipelines.evaluate import tally
from pipelines.evaluate.plan import read_chunk
from pipelines.evaluate.sources import STAGE, Comparison, Sources, Unusable
from pipelines.evaluate.tally import EvaluationTally
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import InFlight, Recovery
from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work, distribute
from trainer import storage
from trainer.accounts import Reject

LABELS = "labels"
"""Name of the note on the sample of labels, which is read before the job."""


def in_flight(folder: str) -> InFlight:
    """The notes of what the workers of the job that writes to `folder` are working on."""
    return InFlight(storage.join(folder, ".in-flight"))


@dataclass(eq=False)
class EvaluateChunk(Work):
    """Number of a chunk of the plan -> the EvaluationTally of its labels.

    Attributes:
      sources: the folders of labels and masks.
      output: the folder with the plan.
      digest: the digest of the plan.
    """

    stage: ClassVar[str] = STAGE
    sources: Sources
    output: str
    digest: str

    def process(self, number: int) -> Iterator[EvaluationTally]:
        first, comparisons = read_chunk(self.output, self.digest, number)
        # The name is the same in every run over the same labels, so a rerun finds the note of one that crashed.
        name = repr([comparison.label for comparison in comparisons])
        notes = in_flight(self.output)
        if notes.interrupted(LABELS):  # a label of the sample crashed a process, and is in one of the chunks
            notes.start(name)
        with notes.watch(name) as recovery:
            total = self._tally(first, comparisons, recovery)
        yield total

    def _tally(self, first: int, comparisons: list[Comparison], recovery: Recovery | None) -> EvaluationTally:
        total = EvaluationTally.empty(len(self.sources.masks), self.sources.palette.num_classes)
        for number, comparison in enumerate(comparisons, start=first):
            read = (
                functools.partial(recovery.isolated, self.sources.confusions) if recovery else self.sources.confusions
            )
            try:
                confusion = attempt(functools.partial(read, comparison), known=Unusable)
            except (Unusable, Failed) as fault:
                path = fault.path if isinstance(fault, Unusable) else self.sources.label_path(comparison)
                reject = Reject(comparison.key, path, STAGE, fault.reason)
                total = replace(total, rejects=(*total.rejects, reject))
                self.finish("rejected")
            else:
                total += EvaluationTally.of(number, confusion)
                self.finish("evaluated")
        return total


@dataclass(eq=False)
class SumTallies(beam.CombineFn):
    """Adds tallies of parts of the set to `empty`, the sum of no tallies."""

    empty: EvaluationTally

    def create_accumulator(self) -> EvaluationTally:
        return self.empty

    def add_input(self, accumulator: EvaluationTally, element: EvaluationTally) -> EvaluationTally:
        return accumulator + element

    def merge_accumulators(self, accumulators: Iterable[EvaluationTally]) -> EvaluationTally:
        return sum(accumulators, start=self.empty)

    def extract_output(self, accumulator: EvaluationTally) -> EvaluationTally:
        return accumulator


def build(
    pipeline: beam.Pipeline, heartbeat: Heartbeat, *, sources: Sources, chunks: int, output: str, digest: str
) -> None:
    """Builds the job: the plan's chunks are evaluated, and their tally is written beside the plan.

    Args:
      chunks: the chunks of the plan.
      output: folder of the plan.
      digest: the digest of the plan.
    """
    empty = EvaluationTally.empty(len(sources.masks), sources.palette.num_classes)
    _ = (
        distribute(pipeline, range(chunks), "chunks")
        | "Evaluate chunks" >> beam.ParDo(EvaluateChunk(heartbeat, sources, output, digest))
        | "Sum tallies" >> beam.CombineGlobally(SumTallies(empty))
        | "Write tally" >> beam.Map(tally.write, output, digest)
    )
