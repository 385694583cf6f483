"""The Beam side of `deeplab tune-crf`: samples with points of the grid in, files of counts in the work folder out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import apache_beam as beam

from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work, spread
from pipelines.tune_crf import scoring
from pipelines.tune_crf.samples import STAGE
from pipelines.tune_crf.scoring import Task, TuningJob

BLOCK = 10
"""Points of the grid in one element: enough to share the distances to the boundaries, few enough to spread."""


@dataclass(eq=False)
class PredictImage(Work):
    """Task -> tasks of few points each, with the probabilities on this disk. The point None, no CRF, is scored here.

    Attributes:
      job: model and records.
    """

    stage: ClassVar[str] = STAGE
    job: TuningJob

    def process(self, task: Task) -> Iterator[Task]:
        sample, points = task
        if None in points:
            scoring.score(self.job, sample, (None,), functools.partial(self.finish, "scored"))
        else:
            image, _ = self.job.load(sample)
            scoring.probabilities(self.job, sample, image)
        refined = tuple(point for point in points if point is not None)
        # Blocks of equal size: local runs deal elements out in turns, and one worker would get all the long ones.
        blocks = -(-len(refined) // BLOCK)
        for number in range(blocks):
            yield sample, refined[number * len(refined) // blocks : (number + 1) * len(refined) // blocks]


@dataclass(eq=False)
class RefinePoints(Work):
    """Task -> nothing; the counts are written.

    Attributes:
      job: model and records.
    """

    stage: ClassVar[str] = STAGE
    job: TuningJob

    def process(self, task: Task) -> None:
        scoring.score(self.job, *task, functools.partial(self.finish, "scored"))


def build(pipeline: beam.Pipeline, heartbeat: Heartbeat, *, job: TuningJob, tasks: Iterable[Task]) -> None:
    """Builds the job: every image is predicted once, then refined block by block wherever there is time.

    Its progress is counted in masks.
    """
    _ = (
        spread(pipeline, tasks, "images")
        | "Predict images" >> beam.ParDo(PredictImage(heartbeat, job))
        | "Spread points" >> beam.Reshuffle()
        | "Refine points" >> beam.ParDo(RefinePoints(heartbeat, job))
    )
