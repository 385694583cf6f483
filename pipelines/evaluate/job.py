"""The Beam side of `deeplab evaluate`: labels and masks in, one sum of confusion matrices out.

Only names cross Beam's shuffle, and one tally comes back, with one float32 per image and masks folder: 16 MB for a
million images in four folders. The process that starts the job holds the list of names, some hundred bytes a label and
folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import apache_beam as beam

from pipelines.evaluate import tally
from pipelines.evaluate.plan import STAGE
from pipelines.evaluate.sources import Sources, Unusable
from pipelines.evaluate.tally import EvaluationTally
from pipelines.inputs.layouts import name_of
from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work
from pipelines.scores.trimap import band_confusions
from trainer.accounts import Reject


@dataclass(eq=False)
class EvaluateChunk(Work):
    """A line of the plan -> the EvaluationTally of its labels.

    Attributes:
      sources: labels and masks.
    """

    stage: ClassVar[str] = STAGE
    sources: Sources

    def process(self, line: str) -> Iterator[EvaluationTally]:
        chunk, sources = json.loads(line), self.sources
        palette = sources.palette
        total = EvaluationTally.empty(len(sources.masks), palette.num_classes)
        for number, relative in enumerate(chunk["labels"], start=chunk["first"]):
            try:
                label, masks = sources.read(relative)
            except Unusable as error:
                reject = Reject(name_of(relative), error.path, STAGE, error.reason)
                total = replace(total, rejects=(*total.rejects, reject))
                self.finish("rejected")
            else:
                confusion = band_confusions(label, masks, palette.num_classes, palette.ignore_id)
                total += EvaluationTally.of(number, confusion)
                self.finish("evaluated")
        yield total


@dataclass(eq=False)
class SumTallies(beam.CombineFn):
    """Adds tallies of parts of the set to `empty`, which is the sum where there are none."""

    empty: EvaluationTally

    def create_accumulator(self) -> EvaluationTally:
        return self.empty

    def add_input(self, accumulator: EvaluationTally, element: EvaluationTally) -> EvaluationTally:
        return accumulator + element

    def merge_accumulators(self, accumulators: Iterable[EvaluationTally]) -> EvaluationTally:
        return sum(accumulators, start=self.empty)

    def extract_output(self, accumulator: EvaluationTally) -> EvaluationTally:
        return accumulator


def build(pipeline: beam.Pipeline, heartbeat: Heartbeat, *, sources: Sources, plan: str, result: str) -> None:
    """Builds the job: the chunks of the file `plan` are evaluated, their tally is written to the file `result`."""
    empty = EvaluationTally.empty(len(sources.masks), sources.palette.num_classes)
    _ = (
        pipeline
        | "Plan chunks" >> beam.io.ReadFromText(plan)
        | "Spread chunks" >> beam.Reshuffle()
        | "Evaluate chunks" >> beam.ParDo(EvaluateChunk(heartbeat, sources))
        | "Sum tallies" >> beam.CombineGlobally(SumTallies(empty))
        | "Write tally" >> beam.Map(tally.write, result)
    )
