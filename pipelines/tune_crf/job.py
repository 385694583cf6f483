"""The Beam job of `deeplab tune-crf`: turns samples and points of the grid into files of counts in the work folder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import apache_beam as beam

from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.notes import guarded
from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work, distribute
from pipelines.tune_crf import scoring
from pipelines.tune_crf.samples import STAGE, Sample
from pipelines.tune_crf.scoring import Point, Task, TuningJob
from trainer import prefetch, storage

BLOCK = 10
"""Points of the grid per element: enough to share the distances to boundaries, few enough to distribute the work."""


@dataclass(eq=False)
class Scoring(Work):
    """Base class of both steps.

    Attributes:
      job: the parameters of the job.
    """

    stage: ClassVar[str] = STAGE
    job: TuningJob

    def survives(
        self, work: Callable[[TuningJob, Sample, Sequence[Point]], None], sample: Sample, points: Sequence[Point]
    ) -> bool:
        """Whether the work on a sample succeeded; if not, records the reason in the work folder."""
        failure = storage.join(self.job.work, self.job.name(sample) + scoring.FAILURE)
        failed = prefetch.ahead(failure, functools.partial(storage.exists, failure))
        with self.job.notes.watch(self.note(work, sample, points)) as recovery:
            if failed():
                return False  # at another point
            call = guarded(work, recovery)
            try:
                attempt(functools.partial(call, self.job, sample, points))
            except Failed as failure:
                scoring.give_up(self.job, sample, failure.reason)
                return False
        return True

    def note(self, work: Callable, sample: Sample, points: Sequence[Point]) -> str:
        """The name of the note on this work."""
        return f"{work.__name__} {self.job.result(sample, points, '')}"


@dataclass(eq=False)
class PredictImage(Scoring):
    """Task -> tasks of a few points each; keeps the probabilities on this disk, and scores the point None (no CRF)."""

    def process(self, task: Task) -> Iterator[Task]:
        sample, points = task
        refined = tuple(point for point in points if point is not None)
        plain = (None,) if None in points else ()
        is_ready = not plain and scoring.is_kept(self.job, sample)
        if not is_ready and not self.survives(scoring.score if plain else scoring.keep, sample, plain):
            self.finish("rejected", len(points))
            return
        self.finish("scored", len(plain))
        # Blocks of equal size, as local runs assign elements in turn, and one worker would get all the long ones.
        count = -(-len(refined) // BLOCK)
        blocks = [refined[n * len(refined) // count : (n + 1) * len(refined) // count] for n in range(count)]
        if any(self.job.name(sample) in name for name in self.job.notes.names()):
            # A process crashed on some of its points: outside recovery mode each other block would crash one as well.
            for block in blocks:
                self.job.notes.start(self.note(scoring.score, sample, block))
        for block in blocks:
            yield sample, block


@dataclass(eq=False)
class RefinePoints(Scoring):
    """Task -> nothing; writes the counts."""

    def process(self, task: Task) -> None:
        self.finish("scored" if self.survives(scoring.score, *task) else "rejected", len(task[1]))


def build(pipeline: beam.Pipeline, heartbeat: Heartbeat, *, job: TuningJob, tasks: Iterable[Task]) -> None:
    """Builds the job: predicts every image once, then refines it block by block on any worker.

    Its progress is counted in masks.
    """
    _ = (
        distribute(pipeline, tasks, "images")
        | "Predict images" >> beam.ParDo(PredictImage(heartbeat, job))
        | "Spread points" >> beam.Reshuffle()
        | "Refine points" >> beam.ParDo(RefinePoints(heartbeat, job))
    )
