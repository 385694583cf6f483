"""The well-known Keras ports of DeepLab: their names of layers, and one of them as a network, written anew."""

from __future__ import annotations

from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras import layers

KINDS = {"weights": "kernel", "biases": "bias", "depthwise_weights": "depthwise_kernel"}


def port_name(variable: str) -> str:
    """Layer and weight, "aspp0_BN/gamma:0", as the script calls them that made the files of bonlime's port."""
    scope, _, kind = variable.rpartition("/")
    name = scope.replace("/", "_").replace("xception_65_", "").replace("MobilenetV2_", "").replace("decoder_", "", 1)
    name = name.replace("BatchNorm", "BN")
    if name.startswith(("entry_flow", "exit_flow")):
        name = name.replace("_unit_1_xception_module", "")
    elif name.startswith("middle_flow"):
        name = name.replace("_block1", "").replace("_xception_module", "")
    return f"{name}/{KINDS.get(kind, kind)}:0"


def write_port(path: Path, values: dict[str, np.ndarray], root: str = "", names=port_name) -> None:
    """Write published variables under the names of a port, below `root`, in the way of Keras before version 3."""
    with h5py.File(path, "w") as file:
        for variable, value in values.items():
            name = names(variable)
            file[f"{root}{name.split('/')[0]}/{name}"] = value
        file.attrs["model_config"] = b'{"class_name": "Model", "config": {"layers": [{"class_name": "Lambda"}]}}'


def random_values(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.5, 1.5, shape).astype("float32") for name, shape in shapes.items()}


def _normalised(x, name: str, activation: str | None = "relu6", epsilon: float = 1e-3):
    x = layers.BatchNormalization(epsilon=epsilon, name=name)(x)
    return layers.Activation(activation)(x) if activation else x


def _conv(x, name: str, filters: int, activation: str | None = "relu6", epsilon: float = 1e-3, **options):
    options = {"kernel_size": 1, "padding": "same", "use_bias": False, "name": name} | options
    return _normalised(layers.Conv2D(filters, **options)(x), f"{name}_BN", activation, epsilon)


class PhaseShift(layers.Layer):
    """The order in which Golbstein's port takes the channels of its subpixel layer apart."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def call(self, x):
        rows, columns, channels = x.shape[1:]
        x = tf.reshape(x, [-1, rows, columns, channels // self.factor**2, self.factor, self.factor])
        x = tf.transpose(x, [0, 1, 2, 5, 4, 3])
        x = tf.concat([x[:, row] for row in range(rows)], axis=2)
        return tf.concat([x[:, column] for column in range(columns)], axis=2)


def golbstein(classes: int, side: int) -> keras.Model:
    """MobileNetV2 with a subpixel head as in Golbstein's port: images [B, side, side, 3] in 0..255 to logits."""
    image = keras.Input((side, side, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = _conv(x, "Conv", 32, kernel_size=3, strides=2)
    # Channels, stride and atrous rate of every block, written out by hand.
    blocks = [(16, 1, 1), (24, 2, 1), (24, 1, 1), (32, 2, 1), (32, 1, 1), (32, 1, 1), (64, 1, 1)]
    blocks += [(64, 1, 2)] * 3 + [(96, 1, 2)] * 3 + [(160, 1, 2), (160, 1, 4), (160, 1, 4), (320, 1, 4)]
    for number, (channels, stride, rate) in enumerate(blocks):
        name, inputs = f"expanded_conv_{number}_" if number else "expanded_conv_", x
        if number:
            x = _conv(x, f"{name}expand", 6 * x.shape[-1])
        x = layers.DepthwiseConv2D(
            3, strides=stride, dilation_rate=rate, padding="same", use_bias=False, name=f"{name}depthwise"
        )(x)
        x = _normalised(x, f"{name}depthwise_BN")
        x = _conv(x, f"{name}project", channels, None)
        x = layers.Add()([inputs, x]) if inputs.shape[-1] == channels else x
    pooled = layers.AveragePooling2D(x.shape[1])(x)
    pooled = _conv(pooled, "image_pooling", 256, "relu", 1e-5)
    pooled = layers.UpSampling2D(x.shape[1])(pooled)
    x = layers.Concatenate()([pooled, _conv(x, "aspp0", 256, "relu", 1e-5)])
    x = _conv(x, "concat_projection", 256, "relu", 1e-5)
    x = layers.Conv2D(64 * classes, 1, name="subpixel_1")(x)
    return keras.Model(image, PhaseShift(8)(x))
