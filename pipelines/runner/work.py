"""What the Beam jobs of all stages share: how elements reach the workers, and what a DoFn is made of."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import apache_beam as beam
import cv2
from apache_beam.metrics import Metrics

from pipelines import __version__
from pipelines.runner.progress import Heartbeat
from trainer.options import InputError

HERE = f"Python {sys.version_info[0]}.{sys.version_info[1]}, Apache Beam {beam.__version__} and deeplab {__version__}"
"""What whoever sends a job and whoever works on it must have alike: other versions may write other bytes."""
DONE = "done"
"""The Beam counter of all finished items, whatever became of them."""


@dataclass(eq=False)
class Work(beam.DoFn):
    """Base of every DoFn. Its attributes are what a worker must know, and pickle.

    Subclasses are dataclasses with `eq=False` too, and not frozen: Beam sets attributes of its own on every DoFn.

    Attributes:
      stage: the command's name, under which its Beam counters stand.
      heartbeat: where finished items are counted for the progress.
    """

    stage: ClassVar[str]
    heartbeat: Heartbeat

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "sender": HERE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["sender"] != HERE:
            raise InputError(
                f"the worker {socket.gethostname()} has {HERE}, but the job was sent with {state['sender']}; install "
                "the same on both sides"
            )
        self.__dict__ |= {name: value for name, value in state.items() if name != "sender"}

    def setup(self) -> None:
        # The workers are the parallelism; OpenCV's own threads would only compete with them.
        cv2.setNumThreads(1)
        self.heartbeat.check()

    def count(self, outcome: str, number: int = 1) -> None:
        """Adds `number` items to the Beam counter `outcome`: "written", "skipped", "rejected", ..."""
        Metrics.counter(self.stage, outcome).inc(number)

    def finish(self, outcome: str, number: int = 1) -> None:
        """Counts `number` items and shows them as progress."""
        self.count(outcome, number)
        self.count(DONE, number)
        self.heartbeat.beat(number)


def spread(pipeline: beam.Pipeline, elements: Iterable[Any], unit: str) -> beam.PCollection:
    """The elements of the plan, dealt out to the workers; only names and numbers, never images."""
    # Beam's own step in front would shuffle all of them as well, a first time.
    planned = pipeline | f"Plan {unit}" >> beam.Create(elements, reshuffle=False)
    return planned | f"Spread {unit}" >> beam.Reshuffle()
