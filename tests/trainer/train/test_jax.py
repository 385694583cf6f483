"""Training under JAX: several devices, and several hosts, learn what one device learns from the same batches."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.drawn.networks import random_image
from tests.drawn.places import ROOT
from tests.drawn.training import history, pooled_network
from trainer.network import folder
from trainer.network.folder import load_model
from trainer.network.inference import predictor

pytest.importorskip("jax")
pytestmark = pytest.mark.slow

FLAGS = ["--batch-size", "8", "--steps-per-epoch", "4", "--epochs", "1", "--scale-min", "0.3"]

FORKS = f"""
import functools, json, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import keras
import numpy as np
import tensorflow as tf
from pipelines import cli
from tests.drawn.networks import random_image
from tests.drawn.training import pooled_network, train_flags
from tests.trainer.train.test_parts import assert_parts_give_the_step
from trainer.network import folder, inference
from trainer.train import model as models
from trainer.train import command, steps  # once for all: it takes longer than a training

assert keras.backend.backend() == "jax"
for module in (models, folder):
    module.deeplab_v3_plus = functools.partial(pooled_network, dropout=0.1)
for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
    elif child := os.fork():
        print(child, flush=True)
    else:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={{job['devices']}}"
        os.dup2(os.open(job["said"], os.O_CREAT | os.O_APPEND | os.O_WRONLY), 1)
        os.dup2(1, 2)
        output, flags = job["output"], job["flags"]
        train = lambda name: cli.main(train_flags(job["records"], f"{{output}}/{{name}}", *flags))
        exec(job["program"])
        sys.exit(0)
"""
"""Does the jobs of its lines; writes the process of a new one, and how one ended that is to be waited for."""

DEVICES = """
many = models.strategy()
assert keras.distribution.get_device_count() == many.num_model_replicas == 2
assert train("devices") == 0
models.strategy = tf.distribute.get_strategy
assert train("one") == 0
model, _ = folder.load_model(output + "/one")
np.save(output + "/probabilities.npy", inference.predictor(model, "probabilities")(random_image(33, 49)))
models.deeplab_v3_plus = pooled_network
with many.scope():
    assert_parts_give_the_step(4)
"""

HOST = """
sys.exit(train("hosts"))
"""

HALF = """
sys.exit(train("half-" + ("one" if "--hosts" not in flags else "hosts")))
"""

KILLED = """
def end(self, *arguments, before=steps.Steps.on_train_batch_end):
    before(self, *arguments)
    if self.done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

steps.Steps.on_train_batch_end = end
"""

TERMINATED = """
def end(self, *arguments, before=steps.Steps.on_train_batch_end):
    if self.done == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    before(self, *arguments)

steps.Steps.on_train_batch_end = end
"""


REFUSED = """
from trainer.options import InputError

def begin(self, *arguments):
    raise InputError("no such records")

steps.Steps.on_train_begin = begin
"""


class Forks:
    """Programs that begin with all that `FORKS` imports."""

    def __init__(self, folder: Path, records: str) -> None:
        self.folder, self.records = folder, records
        environment = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
        environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # what is run a few times need not be fast
        command, pipe = [sys.executable, "-c", FORKS], subprocess.PIPE
        self.process = subprocess.Popen(command, env=os.environ | environment, stdin=pipe, stdout=pipe, text=True)

    def _ask(self, job: dict) -> int:
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def start(self, name: str, program: str, *flags: str, devices: int = 1) -> int:
        """Starts a program that writes to the file "name.txt"; returns its process."""
        said = str(self.folder / f"{name}.txt")
        job = {"program": program, "devices": devices, "said": said, "flags": [*FLAGS, *flags]}
        return self._ask(job | {"records": self.records, "output": str(self.folder)})

    def wait(self, child: int) -> int:
        """Its exit status, or less than 0 for the signal that ended it."""
        return self._ask({"wait": child})

    def hosts(self, name: str, *programs: str, flags: Sequence[str] = ()) -> list[int]:
        """How these end as the hosts of one training."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
        together = ("--hosts", "2", "--coordinator", coordinator, "--checkpoint-minutes", "1e-9", *flags)
        started = [
            self.start(f"{name}-{host}", program, *together, "--host-id", str(host))
            for host, program in enumerate(programs)
        ]
        return [self.wait(child) for child in started]


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """A folder with the trainings "one" (device), "devices" (two) and "hosts" (two of one device each, of which host 0
    failed before its first step, then host 1 was killed, then sent SIGTERM, before both were started again), and in
    bfloat16 "half-one" and "half-hosts"."""
    output = tmp_path_factory.mktemp("jax")
    forks = Forks(output, records)
    devices = forks.start("devices", DEVICES, devices=2)
    ends = {
        "refused": (REFUSED + HOST, HOST),
        "killed": (HOST, KILLED + HOST),
        "terminated": (HOST, TERMINATED + HOST),
    }
    ended = {name: forks.hosts(name, *programs) for name, programs in ends.items()}
    (output / "ended.json").write_text(json.dumps(ended))
    assert forks.hosts("resumed", HOST, HOST) == [0, 0], (output / "resumed-0.txt").read_text()[-3000:]
    half = ("--precision", "mixed_bfloat16")
    assert forks.wait(forks.start("half", HALF, *half)) == 0, (output / "half.txt").read_text()[-3000:]
    assert forks.hosts("halves", HALF, HALF, flags=half) == [0, 0], (output / "halves-0.txt").read_text()[-3000:]
    assert forks.wait(devices) == 0, (output / "devices.txt").read_text()[-3000:]
    forks.process.communicate()
    return output


def test_a_host_ends_with_the_reason_when_host_0_fails_before_the_first_step(trained):
    assert json.loads((trained / "ended.json").read_text())["refused"] == [2, 75]
    said = (trained / "refused-1.txt").read_text()
    assert said.splitlines()[-1] == (
        "deeplab train: error: host 0 ended (no such records); run the same command again on every host to resume"
    )
    assert "Traceback" not in said and "***" not in said


def test_a_host_ends_with_a_message_when_another_is_killed_and_both_resume(trained):
    ended = json.loads((trained / "ended.json").read_text())
    assert ended["killed"] == [75, -signal.SIGKILL] and ended["terminated"] == [75, 143]
    for name in ("killed", "terminated"):
        said = (trained / f"{name}-0.txt").read_text()
        assert "deeplab train: error: host 0 of 2 waited for another, which has gone (" in said
        assert "run the same command again on every host to resume" in said and "Traceback" not in said
    assert "deeplab train: terminated; " in (trained / "terminated-1.txt").read_text()
    assert re.search("resuming after step [12] of 4 in epoch 1 of 1", (trained / "terminated-0.txt").read_text())
    assert re.search("resuming after step [123] of 4 in epoch 1 of 1", (trained / "resumed-0.txt").read_text())


@pytest.mark.parametrize("name", ["devices", "hosts"])
def test_two_devices_and_two_hosts_train_like_one_device(trained, name):
    """Batch norms, dropout and ignored pixels included."""
    for found, expected in zip(history(trained / name), history(trained / "one"), strict=True):
        for column in ("loss", "val_jaccard"):
            assert float(found[column]) == pytest.approx(float(expected[column]), rel=1e-4), column
    paths = [trained / which / "checkpoints" / "epoch-0001.npz" for which in ("one", name)]
    with np.load(paths[0]) as expected, np.load(paths[1]) as found:
        assert set(found.files) == set(expected.files)
        for array in expected.files:
            np.testing.assert_allclose(found[array], expected[array], rtol=1e-3, atol=1e-4, err_msg=array)


def test_two_hosts_train_like_one_device_in_mixed_precision(trained):
    for found, expected in zip(history(trained / "half-hosts"), history(trained / "half-one"), strict=True):
        assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-2)


def test_tensorflow_reads_the_model_that_jax_trained(trained, monkeypatch):
    monkeypatch.setattr(folder, "deeplab_v3_plus", pooled_network)
    model, card = load_model(str(trained / "one"))
    assert card.training["epoch"] == 1
    expected = np.load(trained / "probabilities.npy")
    np.testing.assert_allclose(predictor(model, "probabilities")(random_image(33, 49)), expected, atol=1e-4)
