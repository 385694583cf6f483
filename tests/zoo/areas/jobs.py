"""Jobs that are planned, or sent to machines in the cloud: flags, paths, prices, and odd commands behind `--`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any
from unittest import mock

from pipelines import __version__
from pipelines.plan import trial
from pipelines.plan.estimate import Trial
from tests.drawn.objects import buckets
from tests.zoo.engine import DONE, REFUSED, Area, Case
from tests.zoo.worlds import file, gone, pair, whole

IMAGE = f"--image ghcr.io/me/deeplab-trainer:{__version__}"
CLUSTER = f"submit kubernetes {IMAGE} --accelerator nvidia-l4:1 --dry-run"
VERTEX = f"submit vertex {IMAGE} --region europe-west4 --machine-type g2-standard-8 --dry-run"
TRAIN = "train --records gs://seg/records --output gs://seg/trained"
SEGMENT = "segment --input gs://seg/set/images --model gs://seg/model --output gs://seg/out"


def job(front: str = CLUSTER, command: str = TRAIN) -> str:
    return f"{front} -- {command}"


def without_clients() -> contextlib.AbstractContextManager[object]:
    return mock.patch.object(importlib.util, "find_spec", lambda name: None)


@contextlib.contextmanager
def together(*arounds: Callable[[], contextlib.AbstractContextManager[object]]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for around in arounds:
            stack.enter_context(around())
        yield


SUBMITTED: dict[str, tuple[str, str]] = {
    "nothing to run": (CLUSTER, "nothing to run; give -- and one of train, segment, tune-crf"),
    "nothing behind --": (f"{CLUSTER} --", "nothing to run; give -- and one of train, segment, tune-crf"),
    "-- twice": (f"{CLUSTER} -- -- {TRAIN}", "-- is not a command for machines with GPUs"),
    "a command that needs no GPUs": (
        job(command="prepare --input x"),
        "prepare is not a command for machines with GPUs",
    ),
    "deeplab itself behind --": (job(command=f"deeplab {TRAIN}"), "deeplab is not a command for machines"),
    "an unknown command": (job(command="trian --records x"), "trian is not a command for machines"),
    "a command in one word": (job(command="train~--records~x"), "train --records x is not a command"),
    "a command without a flag that it needs": (job(command="train --records gs://seg/records"), "--output"),
    "a flag that the command does not know": (job(command=f"{TRAIN} --epoch 3"), "--epoch"),
    "a value that the command does not take": (job(command=f"{TRAIN} --crop 5"), "--crop must be 32 or more, got 5"),
    "flags of Beam for a cluster": (job(command=f"{SEGMENT} --runner FlinkRunner"), "does not know --runner"),
    "records of this machine": (
        job(command=TRAIN.replace("gs://seg/records", "@/records")),
        "is a local path",
    ),
    "an output of this machine": (job(command=TRAIN.replace("gs://seg/t", "@/t")), "would be lost with the job's"),
    "records that are not there": (
        job(command=TRAIN.replace("seg/records", "seg/no")),
        "gs://seg/no holds no records",
    ),
    "a model that is not there": (job(command=SEGMENT.replace("/model", "/no")), "gs://seg/no holds no model"),
    "images that are not there": (job(command=SEGMENT.replace("/images", "/no")), "gs://seg/set/no does not exist"),
    "a split that records do not have": (
        job(command=f"{SEGMENT} --records gs://seg/records --split test"),
        "has no split test; it has train, val",
    ),
    "an ONNX file as the model": (job(command=SEGMENT.replace("/model", "/m.onnx")), "would run on the machine's"),
    "no image": (job(CLUSTER.replace(IMAGE, "")), "--image is missing"),
    "an image with an address of the web": (
        job(CLUSTER.replace("ghcr", "https://ghcr")),
        "is not the name of an image",
    ),
    "an image of another version": (job(CLUSTER.replace(__version__, "0.1.0")), "is of version 0.1.0, and this is"),
    "unknown GPUs": (job(CLUSTER.replace("nvidia-l4", "nvidia-x9")), "nvidia-x9"),
    "a number of GPUs that is a word": (job(CLUSTER.replace("l4:1", "l4:two")), "expected NAME or NAME:N"),
    "GPUs that a machine type does not have": (job(f"{VERTEX} --accelerator nvidia-tesla-t4:1"), "nvidia-tesla-t4"),
    "an unknown region": (job(VERTEX.replace("europe-west4", "mars-west1")), "mars-west1"),
    "no region": (job(VERTEX.replace("--region europe-west4 ", "")), "--region is missing"),
    "no machine type": (job(VERTEX.replace("--machine-type g2-standard-8 ", "")), "--machine-type is missing"),
    "a name in capitals": (job(f"{CLUSTER} --name Mine"), "--name Mine: expected at most 40 lower-case letters"),
    "a label without a value": (job(f"{CLUSTER} --labels team"), "--labels team: expected KEY=VALUE"),
    "a variable with a blank in its name": (job(f"{CLUSTER} --env A~B=1"), "--env A B=...: expected NAME=VALUE"),
    "no hosts": (job(f"{CLUSTER} --count 0"), "--count must be 1 or more, got 0"),
    "several hosts for a command of one": (job(f"{CLUSTER} --count 2", SEGMENT), "segment runs on one host"),
    "flags that tell the hosts apart": (
        job(command=f"{TRAIN} --hosts 2 --host-id 0 --coordinator a:1"),
        "these are set for each host",
    ),
    "a batch that GPUs cannot share": (
        job(CLUSTER.replace("l4:1", "l4:2"), f"{TRAIN} --batch-size 3"),
        "--batch-size 3 is shared by 2 GPUs",
    ),
    "a job to follow and one to send": (job(f"{CLUSTER} --follow mine"), "follows an earlier job"),
    "an unknown verb": (job(CLUSTER.replace("kubernetes", "slurm")), "unknown verb 'slurm'"),
}
SHARD = "seg/records/train-00000-of-00002.tfrecord"


def prices(name: str, value: Any) -> Callable[[Path], object]:
    """A file of prices, one of which for storage is another one."""
    given = json.loads(resources.files("pipelines.plan").joinpath("prices.json").read_text())
    given["storage"][name] = value
    return file("p.json", json.dumps(given))


def many(world: Path) -> None:
    """A set of ten images."""
    for number in range(10):
        pair(world, f"train/{number}.png", top="many")
    shutil.copy(world / "seg/set/palette.json", world / "many")


def took(words: list[str], output: str, items: int, rounds: int = 0, whole: int = 0) -> Trial:
    """A trial that is not run."""
    return Trial(items, rounds, 2 + 0.1 * items, 3 + 0.15 * items, 200 << 20, 1000 * items)


@contextlib.contextmanager
def not_tried() -> Iterator[None]:
    with mock.patch.object(trial, "run", took):
        yield


PLAN = "plan prepare --input @/seg/set --output @/out"
PRICED = f"{PLAN} --prices @/p.json"
PLANNED: dict[str, tuple[str, str, Callable[[Path], object] | None]] = {
    "no job to plan": ("plan", "the following arguments are required", None),
    "a job that cannot be planned": (
        "plan doctor @/seg/set",
        "must be one of prepare, train, segment, got 'doctor'",
        None,
    ),
    "a job without a flag that it needs": ("plan prepare --input @/seg/set", "--output", None),
    "a flag that the job does not know": (f"{PLAN} --copys 2", "--copys", None),
    "a value that the job does not take": (f"{PLAN} --copies -1", "--copies must be 0 or more, got -1", None),
    "a sample of a few": (f"{PLAN} --sample 3", "--sample must be 10 to 10000, got 3", None),
    "no cores": (f"{PLAN} --cores 0", "--cores must be 1 or more, got 0", None),
    "a set that is not there": (PLAN.replace("/set", "/no"), "no", None),
    "a set of one image": (PLAN.replace("/seg/set", "/one"), "1", lambda world: pair(world, "train/a.png", top="one")),
    "prices that are not there": (PRICED, "p.json", None),
    "prices in a folder": (f"{PLAN} --prices @/seg", "seg", None),
    "prices that are no JSON": (PRICED, "p.json is not valid JSON", file("p.json", b"{")),
    "prices that are a list": (PRICED, "it lacks an object", file("p.json", b"[]")),
    "prices that are empty": (PRICED, "p.json is not valid JSON", file("p.json", b"")),
    "prices that lack one": (PRICED, "it lacks ", file("p.json", b"{}")),
    "a price that is a text": (PRICED, "must be a number", prices("gib_month", "x")),
    "a negative price": (PRICED, "must be a number, 0 or more, got -1", prices("gib_month", -1)),
    "a price that is no number": (PRICED, "p.json", file("p.json", b'{"storage": NaN}')),
    "prices to be written into a folder": (f"{PLAN} --save-prices @/seg", "seg", None),
    "a plan to be written into a folder": (f"{PLAN} --json @/seg", "seg", None),
    "a training on no records": ("plan train --records @/seg/set --output @/out", "holds no records", None),
    "masks of no model": (
        "plan segment --input @/many/images --model @/seg/set --output @/out",
        "is not a model folder",
        many,
    ),
}


def world(folder: Path) -> None:
    """A bucket "seg" with a set, its records, a model and masks."""
    (folder / "seg").mkdir()
    whole(folder / "seg")


CASES = (
    *(Case(f"{name}: submit", line, REFUSED, (says,), around=buckets) for name, (line, says) in SUBMITTED.items()),
    Case("a sound job: submit", job(), DONE, ("kind: Job", "gs://seg/records"), around=buckets, stays=True),
    Case("a sound job: submit vertex", job(VERTEX), DONE, ("gs://seg/records",), around=buckets, stays=True),
    Case(
        "a shard that is missing: submit",
        job(),
        REFUSED,
        ("1 of 3 shards are missing or of another size",),
        gone(SHARD),
        around=buckets,
    ),
    Case(
        "a shard cut off: submit",
        job(),
        REFUSED,
        ("1 of 3 shards are missing or of another size",),
        file(SHARD, b"cut"),
        around=buckets,
    ),
    Case(
        "a damaged dataset.json: submit",
        job(),
        REFUSED,
        ("dataset.json is not valid JSON",),
        file("seg/records/dataset.json", b"{"),
        around=buckets,
    ),
    Case(
        "no client of Kubernetes: submit",
        job(),
        REFUSED,
        ('pip install "deeplab-pipelines[kubernetes]"',),
        around=lambda: together(buckets, without_clients),
    ),
    Case(
        "no client of Vertex AI: submit",
        "submit vertex --follow projects/p/locations/r/customJobs/1",
        REFUSED,
        ('pip install "deeplab-pipelines[vertex]"',),
        around=without_clients,
    ),
    *(
        Case(f"{name}: plan", line, REFUSED, (says,), make or (lambda world: None), around=not_tried)
        for name, (line, says, make) in PLANNED.items()
    ),
    Case(
        "a sound job: plan",
        PLAN.replace("/seg/set", "/many"),
        DONE,
        ("[2/2] prepare of 10 images", "on Dataflow"),
        many,
        around=not_tried,
        stays=True,
    ),
)


AREA = Area("Jobs that are planned, or sent elsewhere", world, CASES)
