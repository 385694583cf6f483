"""From what trials took to what the whole job takes, on each kind of machine: arithmetic alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import numpy as np

from trainer import storage
from trainer.options import InputError

GIB = 1 << 30


@dataclass(frozen=True)
class Trial:
    """What a run of a part of the job took.

    Attributes:
      items, rounds: images (steps of a training), and epochs with their validation (0 where a job has none).
      wall, cpu: seconds, and seconds of all its cores.
      memory: bytes of its largest process, at the peak.
      written: bytes of its output.
    """

    items: int
    rounds: int
    wall: float
    cpu: float
    memory: int
    written: int


@dataclass(frozen=True)
class Rate:
    """A quantity that grows with the work: start + each * items + round * rounds."""

    start: float
    each: float
    round: float = 0.0

    def of(self, items: float, rounds: float = 0) -> float:
        return self.start + self.each * items + self.round * rounds


def rate(trials: Sequence[Trial], quantity: str) -> Rate:
    """The rate through as many trials as it has unknowns, none of them below 0.

    Args:
      trials: two that differ in their items; and a third of more rounds for a job that has them.
      quantity: the field of the trials: "wall", "cpu" or "written".
    """
    rows = [[1, trial.items, trial.rounds][: len(trials)] for trial in trials]
    solution = np.linalg.solve(np.array(rows, float), [float(getattr(trial, quantity)) for trial in trials])
    return Rate(*(max(0.0, float(value)) for value in solution))


def wall_rate(trials: Sequence[Trial], here: int) -> Rate:
    """Seconds that the job takes on all `here` cores of this machine.

    Where others kept the trials waiting their difference tells little; but no item can take less than its core-seconds
    on all cores.
    """
    wall, least = rate(trials, "wall"), rate(trials, "cpu").each / here
    if wall.each >= least:
        return wall
    largest = max(trials, key=lambda trial: trial.items)
    start = largest.wall - least * largest.items - wall.round * largest.rounds
    return Rate(max(0.0, start), least, wall.round)


@dataclass(frozen=True)
class Work:
    """All of the job.

    Attributes:
      items, rounds: as in `Trial`.
      unit: what an item is, plural.
      images: how many images that are.
      read, written: bytes of its input (0: not known) and output.
      parts: into how many parts the work is cut: no more cores than that are busy; 0: one process uses them all.
      reads, writes: requests, where input and output are in Cloud Storage.
      listing: seconds that finding the input took here.
      flops: of one item on an accelerator; 0 where the job uses none.
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


@dataclass(frozen=True)
class Estimate:
    """What the job takes on one kind of machine.

    Attributes:
      place: the kind of machine, in words.
      cores: that are paid for.
      wall: seconds from the command to its end.
      core_hours, gpu_hours: of machines that are paid for.
      memory: bytes of one worker process.
      disk: GiB of all workers.
      cost: in the currency of the prices; None for machines that are there already.
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
    """What the job takes here, and where else it can run.

    Args:
      trials: runs of parts of it on all `here` cores of this machine.
      cores: of the cluster and of the Dataflow job.
      prices: from `read_prices`.
      precision: of a training; "" for jobs that Beam runs on many machines.
    """
    wall, cpu = wall_rate(trials, here), rate(trials, "cpu")
    memory = max(trial.memory for trial in trials)
    # The trials keep all cores busy, whatever the number of their items.
    idle = max(1.0, here / work.parts) if work.parts else 1.0
    seconds = work.listing + wall.start + (wall.of(work.items, work.rounds) - wall.start) * idle
    results = [Estimate("this machine", here, seconds, here * seconds / 3600, 0.0, memory, work.written / GIB, None)]
    requests = prices["storage"]["reads_per_1000"] * work.reads / 1000
    requests += prices["storage"]["writes_per_1000"] * work.writes / 1000
    if not precision:
        busy = min(cores, work.parts)
        # Starts run side by side on all of them; what the trials' start took in cores is not shared.
        seconds = work.listing + wall.start + cpu.each * work.items / busy
        for kind, place in (("cluster", "Flink or Spark cluster"), ("dataflow", "Dataflow")):
            results.append(_of_cluster(place, prices[kind], cores, seconds, memory, requests))
    if work.flops:
        results.append(_of_gpu(work, wall, cpu, memory, prices["gpu"], precision or "float32", requests))
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
    return Estimate(title, paid, wall, paid * hours, 0.0, memory, disk, cost + requests)


def _of_gpu(
    work: Work, wall: Rate, cpu: Rate, memory: int, price: Mapping[str, Any], precision: str, requests: float
) -> Estimate:
    """One machine with a GPU: the network at a share of the card's peak, or its input where that takes longer."""
    peak = price["tflops"][precision] * 1e12 * price["share_of_peak"]
    seconds = work.flops * work.items / peak
    if work.rounds:  # validation: as much slower here as the steps are
        seconds *= 1 + wall.round * work.rounds / max(wall.each * work.items, 1e-9)
    total = price["start_seconds"] + work.listing + wall.start + seconds
    hours = total / 3600
    cost = price["hour"] * hours + requests
    return Estimate(price["machine"], price["cores"], total, price["cores"] * hours, hours, memory, 0.0, cost)


def read_prices(path: str = "") -> dict[str, Any]:
    """The prices in that file, or the list prices. Raises InputError where a price is missing or no number."""
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
        least = 1 if isinstance(like, int) and where.endswith(".cores") else 0
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
            raise InputError(f"--prices {path}: {where} must be a number, {least} or more, got {value!r}; {cure}")
    elif not isinstance(value, str):
        raise InputError(f"--prices {path}: {where} must be text, got {value!r}; {cure}")


def to_json(work: Work, trials: Sequence[Trial], results: Sequence[Estimate]) -> dict[str, Any]:
    """All of it, for other programs."""
    return {
        "work": asdict(work),
        "trials": [asdict(trial) for trial in trials],
        "estimates": [asdict(estimate) for estimate in results],
    }
