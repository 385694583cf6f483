"""Training under JAX: several devices, and several hosts, learn what one device learns from the same batches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.drawn.networks import random_image
from tests.drawn.places import ROOT
from tests.drawn.training import history, pooled_network, train_flags
from trainer.network import folder
from trainer.network.folder import load_model, predictor

pytest.importorskip("jax")
pytestmark = pytest.mark.slow

FLAGS = ["--batch-size", "8", "--steps-per-epoch", "4", "--epochs", "1", "--scale-min", "0.3"]

PROGRAM = f"""
import functools, sys
sys.path.insert(0, {str(ROOT)!r})
import keras
import numpy as np
from pipelines import cli
from tests.drawn.networks import random_image
from tests.drawn.training import pooled_network
from trainer.network import folder
from trainer.train import model as models

assert keras.backend.backend() == "jax"
for module in (models, folder):
    module.deeplab_v3_plus = functools.partial(pooled_network, dropout=0.1)
"""

DEVICES = """
import tensorflow as tf
from tests.trainer.train.test_parts import assert_parts_give_the_step

many = models.strategy()
assert keras.distribution.get_device_count() == many.num_model_replicas == 2
assert cli.main([*sys.argv[2:], "--output", sys.argv[1] + "/devices"]) == 0
models.strategy = tf.distribute.get_strategy
assert cli.main([*sys.argv[2:], "--output", sys.argv[1] + "/one"]) == 0
model, _ = folder.load_model(sys.argv[1] + "/one")
np.save(sys.argv[1] + "/probabilities.npy", folder.predictor(model, "probabilities")(random_image(33, 49)))
models.deeplab_v3_plus = pooled_network
with many.scope():
    assert_parts_give_the_step(4)
"""

HOSTS = """
assert cli.main([*sys.argv[2:], "--output", sys.argv[1] + "/hosts"]) == 0
"""


def start(program: str, folder: str, records: str, *flags: str, devices: int = 1) -> subprocess.Popen:
    environment = {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # what is run a few times need not be fast
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    argv = [sys.executable, "-c", PROGRAM + program, folder, *train_flags(records, folder, *FLAGS, *flags)]
    return subprocess.Popen(argv, env=os.environ | environment, stderr=subprocess.PIPE, text=True)


def wait(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """A folder with the trainings "one" (device), "devices" (two) and "hosts" (two of one device each)."""
    output = tmp_path_factory.mktemp("jax")
    wait(start(DEVICES, str(output), records, devices=2))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    together = ("--hosts", "2", "--coordinator", coordinator)
    processes = [start(HOSTS, str(output), records, *together, "--host-id", str(host)) for host in (0, 1)]
    for process in processes:
        wait(process)
    return output


@pytest.mark.parametrize("name", ["devices", "hosts"])
def test_devices_and_hosts_learn_what_one_device_learns(trained, name):
    """Batch norms, dropout and ignored pixels included."""
    for found, expected in zip(history(trained / name), history(trained / "one"), strict=True):
        for column in ("loss", "val_jaccard"):
            assert float(found[column]) == pytest.approx(float(expected[column]), rel=1e-4), column
    paths = [trained / which / "checkpoints" / "epoch-0001.npz" for which in ("one", name)]
    with np.load(paths[0]) as expected, np.load(paths[1]) as found:
        assert set(found.files) == set(expected.files)
        for array in expected.files:
            np.testing.assert_allclose(found[array], expected[array], rtol=1e-3, atol=1e-4, err_msg=array)


def test_tensorflow_reads_the_model_that_jax_trained(trained, monkeypatch):
    monkeypatch.setattr(folder, "deeplab_v3_plus", pooled_network)
    model, card = load_model(str(trained / "one"))
    assert card.training["epoch"] == 1
    expected = np.load(trained / "probabilities.npy")
    np.testing.assert_allclose(predictor(model, "probabilities")(random_image(33, 49)), expected, atol=1e-4)
