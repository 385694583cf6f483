"""The command of a job, run as its container runs it: a process that reads and writes gs:// and may be ended.

Its program is `deeplab` with a small network and a small search, so that what takes time is what is looked at.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import cli
from pipelines.submit import checks, kubernetes, vertex
from pipelines.submit.plan import plan
from tests.drawn.places import ROOT
from tests.drawn.records import draw_image, record, write_records
from tests.drawn.submitting import IMAGE, upload
from tests.drawn.training import pooled_network
from trainer import storage
from trainer.formats.images import encode_png

pytestmark = pytest.mark.slow

STEPS = 40
TRAIN = "train --records {0}/records --crop 32 --batch-size 4 --steps-per-epoch"
PHOTOS = 60
NOTICE = 20
"""Seconds that a spot machine may leave."""
RANGES = {"compat": (3.0, 6.0), "sxy": (30.0, 100.0), "srgb": (4.0, 4.0)}
BEYOND = dict.fromkeys(RANGES, ())
"""A tenth of the search for the CRF."""
PROGRAM = f"""#!{sys.executable} -u
import sys
sys.path.insert(0, {str(ROOT)!r})
from pipelines import cli
from pipelines.tune_crf import search
from tests.drawn.training import pooled_network
from trainer.network import folder
from trainer.train import model

for module in (folder, model):
    module.deeplab_v3_plus = pooled_network
search.RANGES, search.BEYOND = {RANGES!r}, {BEYOND!r}
if __name__ == "__main__":  # subprocesses of a command import it too
    cli.main()
"""
VERTEX = ["--region", "europe-west4", "--machine-type", "g2-standard-8"]


@pytest.fixture(scope="module", autouse=True)
def program(tmp_path_factory):
    """`deeplab` as processes find it; in this process its network."""
    path = tmp_path_factory.mktemp("bin") / "deeplab"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{path.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.setattr("trainer.network.folder.deeplab_v3_plus", pooled_network)
        patch.setattr("trainer.train.model.deeplab_v3_plus", pooled_network)
        patch.setattr("pipelines.tune_crf.search.RANGES", RANGES)
        patch.setattr("pipelines.tune_crf.search.BEYOND", BEYOND)
        yield


@pytest.fixture(scope="module")
def place(bucket, program, tmp_path_factory):
    """gs:// folder with records, photos, and a model that was trained without being disturbed."""
    place, local = f"{bucket}/jobs", tmp_path_factory.mktemp("records")
    shards = [[record(i, (56, 64)) for i in range(start, start + 10)] for start in (0, 10, 20)]
    write_records(local, {"train": shards[:2], "val": shards[2:]})
    upload(local, f"{place}/records")
    for index in range(PHOTOS):
        storage.write(f"{place}/photos/{index:03d}.png", encode_png(draw_image(index, 56, 64)[0]))
    assert cli.main(f"{TRAIN} {STEPS} --epochs 2 --output {{0}}/model".format(place).split()) == 0
    return place


def manifest(verb: str, *flags: str, command: str) -> dict[str, Any]:
    """What would be sent, with which nothing is wrong."""
    _, options, _ = cli.read(["submit", verb, "--image", IMAGE, *flags, "--", *command.split()])
    job, beam, unread = plan(options)
    assert unread + checks.problems(options, job, beam) == []
    return {"kubernetes": kubernetes, "vertex": vertex}[verb].manifest(options, job)


def started(container: dict[str, Any], **environment: str) -> subprocess.Popen:
    """A container's process. `environment` is what the service adds; in arguments Kubernetes replaces it."""
    variables = {one["name"]: one["value"] for one in container.get("env", ())} | environment
    words = [*container.get("command", ["deeplab"]), *container["args"]]
    words = words[2:] if words[0] == "tini" else words  # which is in the image alone
    words = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], word) for word in words]
    return subprocess.Popen(words, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen) -> str:
    """What a process printed that ended well."""
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    return out


def used(process: subprocess.Popen) -> float:
    """Seconds of processor time of a running process."""
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def disturbed(command: str, is_under_way: Callable[[], bool]) -> dict[str, Any]:
    """Runs a job whose machine is taken away in the middle; returns the container to be started again."""
    pod = manifest("kubernetes", "--spot", command=command)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    before, first = resource.getrusage(resource.RUSAGE_CHILDREN), started(container)
    while not is_under_way():
        assert first.poll() is None, "the command has ended before it could be ended"
        time.sleep(0.1)
    at = used(first)
    first.terminate()
    # The first process of the image, tini, gives on how the command was ended.
    status = first.wait(900)
    assert (status if status >= 0 else 128 - status) == kubernetes.TERMINATED
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # In processor time, for a busy machine lets it wait.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - at < NOTICE
    return container


def state(output: str) -> dict[str, Any]:
    """What a training would resume from."""
    path = f"{output}/checkpoints/state.json"
    return storage.read_json(path) if storage.exists(path) else {"history": [], "step": 0}


def scores(output: str) -> list[dict[str, float]]:
    """What a training has come to, epoch by epoch, without the seconds it took."""
    return [{name: value for name, value in row.items() if "second" not in name} for row in state(output)["history"]]


def test_a_training_resumes_within_an_epoch_with_the_same_result(place):
    output = f"{place}/ended"

    def is_in_second_epoch() -> bool:
        now = state(output)
        return bool(now["history"] and now["step"])

    command = f"{TRAIN} {STEPS} --epochs 2 --output {output} --checkpoint-minutes 0.0001".format(place)
    again = finished(started(disturbed(command, is_in_second_epoch)))
    assert re.search(rf"resuming after step \d+ of {STEPS} in epoch 2", again)
    undisturbed = scores(f"{place}/model")
    assert len(undisturbed) == 2
    for row, expected in zip(scores(output), undisturbed, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)


def masks(output: str) -> dict[str, np.ndarray]:
    """Class ids by name."""
    files = [file for file in storage.files(output) if file.relative.endswith(".png")]
    return {file.relative: np.asarray(Image.open(io.BytesIO(storage.read(file.path)))) for file in files}


def test_masks_are_finished_by_the_job_that_is_started_again(place):
    output, expected = f"{place}/ended-masks", f"{place}/masks"
    command = f"segment --input {place}/photos --model {place}/model --output {{}}"
    container = disturbed(command.format(output), lambda: len(storage.glob(f"{output}/*.png")) > 5)
    finished(started(container))
    report = storage.read_json(f"{output}/segment.json")
    assert report["written"] + report["skipped"] == PHOTOS and report["skipped"] > 5 and report["written"]
    assert cli.main(command.format(expected).split()) == 0
    found, others = masks(output), masks(expected)
    assert found.keys() == others.keys() and len(found) == PHOTOS
    assert np.mean([(found[name] == others[name]).mean() for name in others]) > 0.999


def test_a_search_for_the_crf_goes_on_from_its_counts(place, tmp_path):
    output, expected = f"{place}/ended.json", str(tmp_path / "crf.json")
    command = f"tune-crf --model {place}/model --records {place}/records --output {{}}"
    work = f"{place}/ended.tuning"
    container = disturbed(command.format(output), lambda: len(storage.glob(f"{work}/*.npz")) > 10)
    finished(started(container))
    assert cli.main(command.format(expected).split()) == 0
    found, other = (storage.read_json(path) for path in (output, expected))
    assert [found[name] for name in ("verdict", "images")] == [other[name] for name in ("verdict", "images")]
    assert [found[name] for name in ("before", "after")] == pytest.approx([other["before"], other["after"]], rel=1e-3)


def test_two_hosts_find_each_other_whoever_starts_them(place):
    """The first as Vertex AI starts it, the second as a JobSet does: both are given the same."""
    pytest.importorskip("jax")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = f"{TRAIN} 4 --epochs 1 --output {place}/wide".format(place)
    pools = manifest("vertex", *VERTEX, "--count", "2", command=command)["jobSpec"]["workerPoolSpecs"]
    assert [pool["replicaCount"] for pool in pools] == [1, 1]
    cluster = {"workerpool0": [f"127.0.0.1:{port}"], "workerpool1": ["127.0.0.2:1"]}
    spec = json.dumps({"cluster": cluster, "task": {"type": "workerpool0", "index": 0}})
    jobset = manifest("kubernetes", "--count", "2", "--name", "wide", command=command)
    (hosts,) = jobset["spec"]["replicatedJobs"]
    (container,) = hosts["template"]["spec"]["template"]["spec"]["containers"]
    # There is nobody here who knows the names of hosts.
    arguments = [re.sub("^wide-host-0-0.wide:8476$", f"127.0.0.1:{port}", word) for word in container["args"]]
    quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    processes = [
        started(pools[0]["containerSpec"], CLUSTER_SPEC=spec, **quick),
        started(container | {"args": arguments}, JOB_COMPLETION_INDEX="1", **quick),
    ]
    for process in processes:
        finished(process)
    assert len(scores(f"{place}/wide")) == 1 and storage.exists(f"{place}/wide/model.keras")
