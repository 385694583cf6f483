"""Batch norms see the whole batch, however many devices share it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import keras, numpy as np, tensorflow as tf
from trainer.network.layers import Norm, conv, depthwise

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
images = rng.normal(3, 1, (2, 5, 5, 3)).astype("float32")
images[1] *= 1.5
targets = rng.normal(0, 1, (2, 1, 1, 4)).astype("float32")
weights = None

def trained(strategy):
    global weights
    with strategy.scope():
        image = keras.Input((None, None, 3))
        norm = Norm(0.5, 1e-5)
        x = depthwise(conv(image, "a", 8, norm=norm, activation=None), "b", norm=norm, activation=None)
        x = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
        model = keras.Model(image, conv(x, "image_pooling", 4, norm=norm, activation=None))
        if weights is None:
            weights = model.get_weights()
        model.set_weights(weights)
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        model.fit(tf.data.Dataset.from_tensors((images, targets)), verbose=0)
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}

one = trained(tf.distribute.get_strategy())
two = trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
# Alone, a pooled image would have no variance, and a moving one of 0.5.
assert one["image_pooling-BatchNorm/moving_variance"].max() > 0.51
for path, value in one.items():
    np.testing.assert_allclose(two[path], value, rtol=1e-4, atol=1e-5, err_msg=path)
print("equal", len(one))
"""


@pytest.mark.slow
def test_two_replicas_of_one_image_train_as_one_device_with_both():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("equal ")
