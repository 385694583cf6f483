"""The Beam job of `deeplab evaluate`: its input is the numbers of chunks, its output one sum of confusion matrices.

Only numbers pass through Beam's shuffle. The result is one tally, with one float64 per image and folder of masks:
32 MB for a million images in four folders. Every process loads the plan's file, which takes a few hundred bytes per
label and folder.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import apache_beam as beam

from pipelines.evaluate import tally
from pipelines.evaluate.plan import read_chunk
from pipelines.evaluate.sources import STAGE, Comparison, Sources, Unusable
from pipelines.evaluate.tally import EvaluationTally
from pipelines.runner import handover
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import Recovery, guarded_each
from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work, distribute
from trainer.accounts import Reject


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
        with handover.watch_chunk(
            self.output, self.digest, [comparison.label for comparison in comparisons]
        ) as recovery:
            total = self._tally(first, comparisons, recovery)
        yield total

    def _tally(self, first: int, comparisons: list[Comparison], recovery: Recovery | None) -> EvaluationTally:
        total = EvaluationTally.empty(len(self.sources.masks), self.sources.palette.num_classes)
        calls = guarded_each(self.sources.confusions, comparisons, self.sources.paths, recovery)
        for number, (comparison, call) in enumerate(calls, start=first):
            try:
                confusion = attempt(call, known=Unusable)
            except (Unusable, Failed) as fault:
                path = fault.path if isinstance(fault, Unusable) else self.sources.label_path(comparison)
                reject = Reject(comparison.key, path, STAGE, fault.reason)
                total = replace(total, rejects=(*total.rejects, reject))
                self.finish("rejected")
            else:
                total += EvaluationTally.of(number, confusion)
                self.finish("evaluated")
        return total


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
        | "Sum tallies" >> beam.CombineGlobally(functools.partial(sum, start=empty))
        | "Write tally" >> beam.Map(tally.write, output, digest)
    )
