"""A batch shared by several devices trains the network as one device with the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.masks.network import Network
from tests.drawn.places import ROOT
from tests.drawn.training import colour_network, history, pooled_network, train_flags
from trainer import metrics
from trainer.formats.dataset import load_dataset
from trainer.network import folder
from trainer.options import InputError
from trainer.train.epoch import validate
from trainer.train.model import check_batch
from trainer.train.optimizer import freeze
from trainer.train.streams import validation_stream

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * {devices}
)
import keras
import functools
from pipelines import cli
from tests.drawn.training import pooled_network
from trainer.train import model
keras.optimizers.LossScaleOptimizer.__init__ = functools.partialmethod(
    keras.optimizers.LossScaleOptimizer.__init__, initial_scale={scale}
)
model.deeplab_v3_plus = pooled_network
assert cli.main([*sys.argv[2:], "--output", sys.argv[1] + "/one"]) == 0
model.strategy = lambda: tf.distribute.MirroredStrategy(["CPU:%d" % i for i in range({devices})])
assert cli.main([*sys.argv[2:], "--output", sys.argv[1] + "/many"]) == 0
"""


def trained_by_one_and_many(records: str, output: Path, devices: int, *flags: str, scale: float = 2.0**15) -> None:
    """Trains the same into the folders "one" and "many"; `scale` is what the loss begins with in float16."""
    flags = ("--batch-size", "8", "--steps-per-epoch", "3", "--epochs", "1", "--scale-min", "0.3", *flags)
    program = PROGRAM.format(root=str(ROOT), devices=devices, scale=scale)
    argv = [sys.executable, "-c", program, str(output), *train_flags(records, output, *flags)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def assert_same_training(output: Path, loss: float, rtol: float, atol: float) -> None:
    losses = [float(history(output / name)[0]["loss"]) for name in ("one", "many")]
    assert losses[1] == pytest.approx(losses[0], rel=loss)
    checkpoints = [output / name / "checkpoints" / "epoch-0001.npz" for name in ("one", "many")]
    with np.load(checkpoints[0]) as expected, np.load(checkpoints[1]) as found:
        assert set(found.files) == set(expected.files)
        for name in expected.files:
            np.testing.assert_allclose(found[name], expected[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "parts"), [(2, 2), (4, 1)])
def test_several_devices_train_like_one_device_on_the_same_batches(records, tmp_path, devices, parts):
    """At least two images for each device and part, with unlike numbers of ignored pixels."""
    trained_by_one_and_many(records, tmp_path, devices, "--accumulate", str(parts))
    assert_same_training(tmp_path, loss=1e-4, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "scale", "after"),
    [("mixed_bfloat16", 1.0, 1.0), ("mixed_float16", 2.0**8, 2.0**8), ("mixed_float16", 2.0**40, 2.0**37)],
)
def test_devices_agree_in_mixed_precision_and_skip_overflowing_steps_together(
    records, tmp_path, monkeypatch, precision, scale, after
):
    """In float16 a scale of 2^40 is too large for all three steps, which change nothing but it."""
    trained_by_one_and_many(records, tmp_path, 2, "--accumulate", "2", "--precision", precision, scale=scale)
    assert_same_training(tmp_path, loss=1e-2, rtol=0.05, atol=0.02)
    if precision == "mixed_float16":
        for name in ("one", "many"):
            with np.load(tmp_path / name / "checkpoints" / "epoch-0001.npz") as arrays:
                assert after in [float(array) for array in arrays.values() if array.ndim == 0]
    monkeypatch.setattr(folder, "deeplab_v3_plus", pooled_network)
    dataset, score = load_dataset(records), float(history(tmp_path / "many")[0]["val_jaccard"])
    network = Network(str(tmp_path / "many"))
    found = validate(lambda images: network(images, "ids"), validation_stream(records, dataset, 1), dataset)
    assert metrics.scores(found.confusion, dataset.palette.names)["miou"] == score


@pytest.mark.parametrize(
    ("size", "devices", "message"),
    [
        (8, 3, r"--batch-size 8 is over all 3 GPUs together.*a multiple of 3, such as 6 or 9"),
        (2, 4, r"such as 8 or 12"),
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
