"""Extrapolates from trials to the whole job, on each kind of machine. Arithmetic only."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import numpy as np

from trainer import storage
from trainer.options import Bounds, InputError
from trainer.terminal import CONTROL

GIB = 1 << 30
PARTS = ("work", "trials", "estimates")
"""The parts of a plan in JSON."""
BOUNDS = {".cores": Bounds(low=1), ".tflops.": Bounds(above=0), ".share_of_peak": Bounds(above=0)}
"""Part of the name of a price -> its bounds; those of others are 0 or more."""


@dataclass(frozen=True)
class Trial:
    """The measurements of a run over a part of the job.

    Attributes:
      items, rounds: images (steps of a training), and epochs with their validation (0 for other jobs).
      wall, cpu: elapsed seconds, and core-seconds.
      memory: peak of its largest process, in bytes.
      written: size of its output, in bytes.
      rejected: number of its items that were rejected.
    """

    items: int
    rounds: int
    wall: float
    cpu: float
    memory: int
    written: int
    rejected: int = 0


@dataclass(frozen=True)
class Rate:
    """A quantity that grows with the work: start + each * items + round * rounds."""

    start: float
    each: float
    round: float = 0.0

    def of(self, items: float, rounds: float = 0) -> float:
        return self.start + self.each * items + self.round * rounds


def rate(trials: Sequence[Trial], quantity: str) -> Rate:
    """The rate that fits the trials best, of which there are as many as it has unknowns; none of these is below 0.

    Args:
      trials: two that differ in their items; and a third one with more rounds, for a job that has rounds.
      quantity: the field of the trials: "wall", "cpu" or "written".
    """
    rows = np.array([[1, trial.items, trial.rounds][: len(trials)] for trial in trials], float)
    values = np.array([getattr(trial, quantity) for trial in trials], float)

    def fit(known: Sequence[int]) -> np.ndarray:
        solution = np.zeros(len(trials))
        solution[list(known)] = np.linalg.lstsq(rows[:, known], values)[0]
        return solution

    # Least squares without negative unknowns: the best of those that leave some out, which are few.
    numbers = range(len(trials))
    fits = [fit(known) for size in numbers for known in itertools.combinations(numbers, size + 1)]
    sound = [solution for solution in fits if (solution >= 0).all()] or [np.zeros(len(trials))]
    return Rate(*map(float, min(sound, key=lambda solution: np.square(rows @ solution - values).sum())))


def wall_rate(trials: Sequence[Trial], here: int) -> Rate:
    """Seconds that the job takes on all `here` cores of this machine.

    If other jobs slowed the trials down, their difference is unreliable; but an item takes at least its core-seconds
    divided by all cores.
    """
    wall, least = rate(trials, "wall"), rate(trials, "cpu").each / here
    if wall.each >= least:
        return wall
    largest = max(trials, key=lambda trial: trial.items)
    start = largest.wall - least * largest.items - wall.round * largest.rounds
    return Rate(max(0.0, start), least, wall.round)


@dataclass(frozen=True)
class Work:
    """The whole job.

    Attributes:
      items, rounds: as in `Trial`.
      unit: name of the items, plural.
      images: number of images.
      read, written: size of its input (0: not known) and output, in bytes.
      parts: number of parts that the work is cut into, which limits the cores that are busy; 0: one process uses all.
      reads, writes: number of requests, if input and output are in Cloud Storage.
      listing: seconds that listing the input took here.
      flops: floating-point operations of one item on an accelerator; 0 if the job uses none.
      is_shared: whether the cores of one machine share its last parts, as those of `prepare`.
    """

    items: int
    rounds: float
    unit: str
    images: int
    read: int
    written: int
    parts: int
    reads: int
    writes: int
    listing: float
    flops: float = 0.0
    is_shared: bool = False


@dataclass(frozen=True)
class Estimate:
    """An estimate of the whole job on one kind of machine.

    Attributes:
      place: the kind of machine, human-readable.
      cores: number of cores paid for.
      wall: seconds from start to end.
      core_hours, gpu_hours: the hours of cores and GPUs of the machines paid for.
      memory: the memory of a worker process, in bytes.
      disk: the disk space of all workers, in GiB.
      cost: in the currency of the prices; None for this machine.
    """

    place: str
    cores: int
    wall: float
    core_hours: float
    gpu_hours: float
    memory: int
    disk: float
    cost: float | None


def estimates(
    work: Work, trials: Sequence[Trial], here: int, cores: int, prices: Mapping[str, Any], precision: str = ""
) -> list[Estimate]:
    """Estimates for this machine, and for wherever else the job can run.

    Args:
      trials: runs of parts of it on all `here` cores of this machine.
      cores: the number of cores of the cluster and of the Dataflow job.
      prices: the prices, from `read_prices`.
      precision: the precision of a training; "" for jobs that Beam runs on many machines.
    """
    wall, cpu = wall_rate(trials, here), rate(trials, "cpu")
    memory = max(trial.memory for trial in trials)
    # The trials keep all cores busy, whatever their number of items.
    idle = max(1.0, here / work.parts) if work.parts and not work.is_shared else 1.0
    seconds = work.listing + wall.start + (wall.of(work.items, work.rounds) - wall.start) * idle
    results = [
        Estimate(
            "this machine",
            cores=here,
            wall=seconds,
            core_hours=here * seconds / 3600,
            gpu_hours=0.0,
            memory=memory,
            disk=work.written / GIB,
            cost=None,
        )
    ]
    requests = prices["storage"]["reads_per_1000"] * work.reads / 1000
    requests += prices["storage"]["writes_per_1000"] * work.writes / 1000
    if not precision:
        busy = min(cores, work.parts)
        # All workers start at the same time, so the start-up is not divided by the cores.
        seconds = work.listing + wall.start + cpu.each * work.items / busy
        for kind, place in (("cluster", "Flink or Spark cluster"), ("dataflow", "Dataflow")):
            results.append(_of_cluster(place, prices[kind], cores, seconds, memory, requests))
    if work.flops:
        results.append(_of_gpu(work, wall, memory, prices["gpu"], precision or "float32", requests))
    return results


def _of_cluster(
    place: str, price: Mapping[str, Any], cores: int, seconds: float, memory: int, requests: float
) -> Estimate:
    machines = -(-cores // price["cores"])
    paid = machines * price["cores"]
    wall = price["start_seconds"] + seconds
    hours, disk = wall / 3600, machines * price.get("disk_gib", 0)
    if "hour" in price:
        cost = machines * price["hour"] * hours
    else:
        cost = hours * (paid * price["core_hour"] + machines * price["gib"] * price["gib_hour"])
        cost += hours * disk * price["disk_gib_hour"]
    title = f"{place}, {machines} {price['machine']}"
    return Estimate(
        title,
        cores=paid,
        wall=wall,
        core_hours=paid * hours,
        gpu_hours=0.0,
        memory=memory,
        disk=disk,
        cost=cost + requests,
    )


def _of_gpu(
    work: Work, wall: Rate, memory: int, price: Mapping[str, Any], precision: str, requests: float
) -> Estimate:
    """One machine with a GPU, which runs the network at a share of the card's peak."""
    peak = price["tflops"][precision] * 1e12 * price["share_of_peak"]
    seconds = work.flops * work.items / peak
    if work.rounds:  # validation is as much faster as the steps are, and no slower than here
        here = wall.each * work.items
        seconds += wall.round * work.rounds * (seconds / here if here > seconds else 1)
    total = price["start_seconds"] + work.listing + wall.start + seconds
    hours = total / 3600
    cost = price["hour"] * hours + requests
    return Estimate(
        price["machine"],
        cores=price["cores"],
        wall=total,
        core_hours=price["cores"] * hours,
        gpu_hours=hours,
        memory=memory,
        disk=0.0,
        cost=cost,
    )


def read_prices(path: str = "") -> dict[str, Any]:
    """The prices in a file, or the list prices. Raises InputError if a price is missing or cannot be used."""
    default = json.loads(resources.files("pipelines.plan").joinpath("prices.json").read_text())
    if not path:
        return default
    content = storage.read_json(path)
    _check(content, default, path, "")
    return content


def _check(value: Any, like: Any, path: str, where: str) -> None:
    cure = "`deeplab plan ... --save-prices FILE` writes a file to edit"
    if isinstance(like, dict):
        missing = sorted(set(like) - set(value)) if isinstance(value, dict) else ["an object"]
        if missing:
            raise InputError(f"--prices {path}: {where or 'it'} lacks {missing[0]}; {cure}")
        for name, part in like.items():
            _check(value[name], part, path, f"{where}.{name}".lstrip("."))
    elif isinstance(like, (int, float)):
        bounds = next((bounds for name, bounds in BOUNDS.items() if name in where), Bounds(low=0))
        kind, types = ("whole number", int) if where.endswith(".cores") else ("number", (int, float))
        is_number = isinstance(value, types) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not bounds.hold(value):
            raise InputError(f"--prices {path}: {where} must be a {kind}, {bounds}, got {value!r}; {cure}")
    elif not isinstance(value, str) or CONTROL.search(value):
        raise InputError(f"--prices {path}: {where} must be text without control characters, got {value!r}; {cure}")


def to_json(work: Work, trials: Sequence[Trial], results: Sequence[Estimate]) -> dict[str, Any]:
    """The whole plan as JSON, for other programs."""
    estimated = [asdict(estimate) for estimate in results]
    return dict(zip(PARTS, (asdict(work), [asdict(trial) for trial in trials], estimated), strict=True))
