"""A batch shared by several devices trains the network as one device with the whole batch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.drawn.places import ROOT
from tests.drawn.training import colour_network, history, train_flags
from trainer.options import InputError
from trainer.train.model import check_batch
from trainer.train.optimizer import freeze

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * {devices}
)
from pipelines import cli
from tests.drawn.training import pooled_network
from trainer.train import model
model.deeplab_v3_plus = pooled_network
assert cli.main([*sys.argv[2:], "--output", sys.argv[1] + "/one"]) == 0
model.strategy = lambda: tf.distribute.MirroredStrategy(["CPU:%d" % i for i in range({devices})])
assert cli.main([*sys.argv[2:], "--output", sys.argv[1] + "/many"]) == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "parts"), [(2, 2), (4, 1)])
def test_several_devices_learn_what_one_learns_from_the_same_batches(records, tmp_path, devices, parts):
    """At least two images for each device and part, with unlike numbers of ignored pixels."""
    flags = ["--batch-size", "8", "--steps-per-epoch", "3", "--epochs", "1", "--scale-min", "0.3"]
    flags += ["--accumulate", str(parts)]
    program = PROGRAM.format(root=str(ROOT), devices=devices)
    argv = [sys.executable, "-c", program, str(tmp_path), *train_flags(records, tmp_path, *flags)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(history(tmp_path / name)[0]["loss"]) for name in ("one", "many")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    checkpoints = [tmp_path / name / "checkpoints" / "epoch-0001.npz" for name in ("one", "many")]
    with np.load(checkpoints[0]) as expected, np.load(checkpoints[1]) as found:
        assert set(found.files) == set(expected.files)
        for name in expected.files:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("size", "devices", "message"),
    [
        (8, 3, r"--batch-size 8 is over all 3 GPUs together.*a multiple of 3, such as 6 or 9"),
        (2, 4, r"such as 4 or 8"),
        (8, 8, r"--batch-size 8 over 8 GPUs leaves one image per device.*--batch-size 16 or more.*--freeze-bn"),
        (1, 1, r"--batch-size 1 leaves one image per device.*--batch-size 2 or more"),
    ],
)
def test_a_batch_that_devices_cannot_share_or_batch_norms_cannot_use_is_refused(size, devices, message):
    with pytest.raises(InputError, match=message):
        check_batch(size, colour_network(3), devices)


def test_small_batches_are_taken_where_batch_norms_stay_as_they_are():
    network = colour_network(3)
    check_batch(16, network, 8)
    freeze(network, batch_norms=True)
    check_batch(1, network, 1)
    check_batch(8, network, 8)
    with pytest.raises(InputError, match="cannot share it equally"):
        check_batch(9, network, 8)
