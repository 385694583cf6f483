"""Shared by the Beam jobs of all stages: the base class of DoFns, and the distribution of elements over workers."""

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
from pipelines.runner.flags import is_local
from pipelines.runner.progress import Heartbeat
from trainer import processes
from trainer.options import InputError

VERSIONS = (
    f"Python {sys.version_info[0]}.{sys.version_info[1]}, Apache Beam {beam.__version__} and deeplab {__version__}"
)
"""Versions that the sender of a job and its workers must have in common: others may write other bytes."""
DONE = "done"
"""The Beam counter of all finished items, rejects included."""


@dataclass(eq=False)
class Work(beam.DoFn):
    """Base class of every DoFn. Its fields are passed to the workers, and must be picklable.

    Subclasses are dataclasses with `eq=False` too, and not frozen: Beam sets attributes of its own on every DoFn.

    Attributes:
      stage: the command's name, which is the namespace of its Beam counters.
      heartbeat: counts finished items for the progress display.
    """

    stage: ClassVar[str]
    heartbeat: Heartbeat

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "sender": VERSIONS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["sender"] != VERSIONS:
            raise InputError(
                f"the worker {socket.gethostname()} has {VERSIONS}, but the job was sent with {state['sender']}; "
                "install the same on both sides"
            )
        self.__dict__ |= {name: value for name, value in state.items() if name != "sender"}

    def setup(self) -> None:
        # The workers already use every core; OpenCV's own threads would only compete with them.
        cv2.setNumThreads(1)
        processes.keep_memory()
        self.heartbeat.check()

    def count(self, outcome: str, number: int = 1) -> None:
        """Adds `number` items to the Beam counter `outcome`: "written", "skipped", "rejected", ..."""
        Metrics.counter(self.stage, outcome).inc(number)

    def finish(self, outcome: str, number: int = 1) -> None:
        """Counts `number` items and shows them as progress."""
        self.count(outcome, number)
        self.count(DONE, number)
        self.heartbeat.beat(number)


def distribute(pipeline: beam.Pipeline, elements: Iterable[Any], unit: str) -> beam.PCollection:
    """Distributes the elements of a plan over the workers. Elements are names and numbers, never images."""
    if not is_local(pipeline.options):
        # Without `reshuffle=False` Beam would shuffle the elements once more before this step.
        planned = pipeline | f"Plan {unit}" >> beam.Create(elements, reshuffle=False)
        return planned | f"Spread {unit}" >> beam.Reshuffle()
    # The same in a third of the steps, since each of them delays the first element by some milliseconds. Flink deals
    # out a Reshuffle evenly, but groups by the hashes of their keys.
    numbered = list(enumerate(elements))
    planned = pipeline | f"Plan {unit}" >> beam.Impulse()
    dealt = planned | f"Deal {unit}" >> beam.FlatMap(lambda _: numbered).with_output_types(tuple[int, Any])
    groups = dealt | f"Spread {unit}" >> beam.GroupByKey()
    return groups | f"Take {unit}" >> beam.FlatMap(lambda group: group[1]).with_output_types(Any)
