"""What the published networks compute, written anew in TensorFlow's own functions from the names of their variables.

It follows tensorflow/models, research/deeplab, and knows nothing of `trainer.network`. For images of 32·k + 1 pixels,
where all of TensorFlow's ways to pad agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

Values = dict[str, np.ndarray]
"""Arrays by the names of the published variables."""

_relu, _relu6 = tf.nn.relu, tf.nn.relu6
_CELL = [(-1, 1, 6), (0, 18, 15), (1, 6, 3), (0, 1, 1), (0, 6, 21)]
"""dense_prediction_cell_branch5_top1_cityscapes.json: input, and the rates of both axes."""


def _identity(x: Any) -> Any:
    return x


def _hard_sigmoid(x: Any) -> Any:
    return _relu6(x + 3) / 6


def _hard_swish(x: Any) -> Any:
    return x * _hard_sigmoid(x)


def _resized(x: Any, size: Any) -> Any:
    return tf.compat.v1.image.resize_bilinear(x, size, align_corners=True)


class _Scope:
    """The operations on the variables of one network, whose batch norms have the same epsilon."""

    def __init__(self, values: Values, epsilon: float) -> None:
        self.values, self.epsilon = values, epsilon

    def normal(self, x: Any, scope: str) -> Any:
        kinds = ("moving_mean", "moving_variance", "beta", "gamma")
        arrays = [self.values[f"{scope}/BatchNorm/{kind}"] for kind in kinds]
        return tf.nn.batch_normalization(x, *arrays, self.epsilon)

    def conv(self, x: Any, scope: str, activation: Any = _relu, stride: int = 1, rate: int = 1) -> Any:
        x = tf.nn.conv2d(x, self.values[f"{scope}/weights"], stride, "SAME", dilations=rate)
        return activation(self.normal(x, scope))

    def biased(self, x: Any, scope: str) -> Any:
        return tf.nn.conv2d(x, self.values[f"{scope}/weights"], 1, "SAME") + self.values[f"{scope}/biases"]

    def depthwise(self, x: Any, scope: str, activation: Any, stride: int = 1, rates: Any = (1, 1)) -> Any:
        kernel = self.values[f"{scope}/depthwise_weights"]
        x = tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME", dilations=rates)
        return activation(self.normal(x, scope))

    def separable(self, x: Any, scope: str, activation: Any = _relu, stride: int = 1, rates: Any = (1, 1)) -> Any:
        x = self.depthwise(x, f"{scope}_depthwise", activation, stride, rates)
        return self.conv(x, f"{scope}_pointwise", activation)


def _strides(wanted: list[int], output_stride: int) -> Iterator[tuple[int, int]]:
    """The stride and the rate of every unit that would like the strides `wanted`, from stride 1 on."""
    reached = rate = 1
    for stride in wanted:
        if reached == output_stride:
            yield 1, rate
            rate *= stride
        else:
            yield stride, 1
            reached *= stride


def _xception(ops: _Scope, x: Any, depth: int, output_stride: int) -> tuple[Any, Any]:
    root = f"xception_{depth}"
    entry = [2, 1, 2, 1, 2] if depth == 71 else [2, 2, 2]
    units = [f"entry_flow/block{number}/unit_1" for number, _ in enumerate(entry, start=1)]
    units += [f"middle_flow/block1/unit_{number}" for number in range(1, 9 if depth == 41 else 17)]
    units += ["exit_flow/block1/unit_1", "exit_flow/block2/unit_1"]
    wanted = [2, *entry, *[1] * (len(units) - len(entry) - 2), 2, 1]
    (stride, _), *steps = _strides(wanted, output_stride)
    x = ops.conv(x, f"{root}/entry_flow/conv1_1", stride=stride)
    x = ops.conv(x, f"{root}/entry_flow/conv1_2")
    low_level = None
    for unit, (stride, rate) in zip(units, steps, strict=True):
        scope, inputs = f"{root}/{unit}/xception_module", x
        for number in (1, 2, 3):
            if unit.startswith("exit_flow/block2"):
                x = ops.separable(x, f"{scope}/separable_conv{number}", _relu, 1, (rate, rate))
            else:
                step = stride if number == 3 else 1
                x = ops.separable(_relu(x), f"{scope}/separable_conv{number}", _identity, step, (rate, rate))
            if number == 2 and unit == f"entry_flow/block{3 if depth == 71 else 2}/unit_1":
                low_level = x
        if f"{scope}/shortcut/weights" in ops.values:
            x += ops.conv(inputs, f"{scope}/shortcut", _identity, stride)
        elif unit.startswith("middle_flow"):
            x += inputs
    return x, low_level


def _resnet(ops: _Scope, x: Any, depth: int, output_stride: int) -> tuple[Any, Any]:
    root = f"resnet_v1_{depth}"
    counts = (3, 4, 6 if depth == 50 else 23, 3)
    units = [(block, unit) for block, count in enumerate(counts, start=1) for unit in range(1, count + 1)]
    wanted = [2, 2, *(2 if block < 4 and unit == counts[block - 1] else 1 for block, unit in units)]
    (first, _), (second, _), *steps = _strides(wanted, output_stride)
    x = ops.conv(x, f"{root}/conv1_1", stride=first)
    x = ops.conv(ops.conv(x, f"{root}/conv1_2"), f"{root}/conv1_3")
    x = tf.nn.max_pool2d(x, 3, second, "SAME")
    low_level = None
    for (block, unit), (stride, rate) in zip(units, steps, strict=True):
        scope = f"{root}/block{block}/unit_{unit}/bottleneck_v1"
        if f"{scope}/shortcut/weights" in ops.values:
            shortcut = ops.conv(x, f"{scope}/shortcut", _identity, stride)
        else:
            shortcut = x[:, ::stride, ::stride]
        x = ops.conv(ops.conv(x, f"{scope}/conv1"), f"{scope}/conv2", stride=stride, rate=rate)
        third = ops.conv(x, f"{scope}/conv3", _identity)
        low_level = third if (block, unit) == (1, 2) else low_level
        x = _relu(shortcut + third)
    return x, low_level


def _mobilenet_v2(ops: _Scope, x: Any, output_stride: int) -> tuple[Any, Any]:
    wanted = [2, 1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    (stride, _), *steps = _strides(wanted, output_stride)
    x = ops.conv(x, "MobilenetV2/Conv", _relu6, stride)
    low_level = None
    for number, (stride, rate) in enumerate(steps):
        scope, inputs = f"MobilenetV2/expanded_conv{f'_{number}' if number else ''}", x
        x = ops.conv(x, f"{scope}/expand", _relu6) if number else x
        x = ops.depthwise(x, f"{scope}/depthwise", _relu6, stride, (rate, rate))
        low_level = x if number == 2 else low_level
        x = ops.conv(x, f"{scope}/project", _identity)
        if wanted[number + 1] == 1 and inputs.shape[-1] == x.shape[-1]:
            x += inputs
    return x, low_level


def _mobilenet_v3_small(ops: _Scope, x: Any, output_stride: int) -> tuple[Any, Any]:
    wanted = [2, 2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1]
    (stride, _), *steps = _strides(wanted, output_stride)
    x = ops.conv(x, "MobilenetV3/Conv", _hard_swish, stride)
    low_level = None
    for number, (stride, rate) in enumerate(steps):
        scope, inputs = f"MobilenetV3/expanded_conv{f'_{number}' if number else ''}", x
        activation = _relu if number < 3 else _hard_swish
        x = ops.conv(x, f"{scope}/expand", activation) if number else x
        x = ops.depthwise(x, f"{scope}/depthwise", activation, stride, (rate, rate))
        low_level = x if number == 2 else low_level
        if f"{scope}/squeeze_excite/Conv/weights" in ops.values:
            means = tf.reduce_mean(x, [1, 2], keepdims=True)
            means = _relu(ops.biased(means, f"{scope}/squeeze_excite/Conv"))
            x *= _hard_sigmoid(ops.biased(means, f"{scope}/squeeze_excite/Conv_1"))
        x = ops.conv(x, f"{scope}/project", _identity)
        if wanted[number + 1] == 1 and inputs.shape[-1] == x.shape[-1]:
            x += inputs
    return ops.conv(x, "MobilenetV3/Conv_1", _hard_swish), low_level


def _aspp(ops: _Scope, x: Any, output_stride: int) -> Any:
    pooled = ops.conv(tf.reduce_mean(x, [1, 2], keepdims=True), "image_pooling")
    branches = [_resized(pooled, x.shape[1:3]), ops.conv(x, "aspp0")]
    for number in (1, 2, 3):
        if f"aspp{number}_depthwise/depthwise_weights" in ops.values:
            rates = (6 * number * 16 // output_stride,) * 2
            branches.append(ops.separable(x, f"aspp{number}", rates=rates))
    return ops.conv(tf.concat(branches, -1), "concat_projection")


def _cell(ops: _Scope, x: Any, output_stride: int) -> Any:
    branches: list[Any] = []
    for number, (before, *rates) in enumerate(_CELL):
        inputs = x if before < 0 else branches[before]
        rates = [rate * 16 // output_stride for rate in rates]
        branches.append(ops.separable(inputs, f"meta_architecture/branch{number}", rates=rates))
    return ops.conv(tf.concat(branches, -1), "meta_architecture/concat_projection")


def logits(values: Values, image: np.ndarray, output_stride: int = 16) -> np.ndarray:
    """The logits of the network that the variables are of.

    Args:
      values: of a checkpoint with logits.
      image: [B, 32·k + 1, 32·l + 1, 3] uint8.

    Returns:
      [B, 32·k + 1, 32·l + 1, classes] float32.
    """
    root = next(name.split("/")[0] for name in values if "/BatchNorm/" in name)
    kind, _, depth = root.rpartition("_")
    x = image.astype("float32") / 127.5 - 1
    if kind == "xception":
        x, low_level = _xception(_Scope(values, 1e-3), x, int(depth), output_stride)
    elif kind == "resnet_v1":
        x, low_level = _resnet(_Scope(values, 1e-5), x, int(depth), output_stride)
    elif root == "MobilenetV2":
        x, low_level = _mobilenet_v2(_Scope(values, 1e-3), x, output_stride)
    else:
        x, low_level = _mobilenet_v3_small(_Scope(values, 1e-3), x, output_stride)
    ops = _Scope(values, 1e-5)
    if root == "MobilenetV3":
        pooled = tf.nn.avg_pool2d(x, [min(25, side) for side in x.shape[1:3]], (4, 5), "VALID")
        x = ops.conv(x, "aspp0") * _resized(_hard_sigmoid(ops.biased(pooled, "image_pooling")), x.shape[1:3])
        x = ops.biased(_resized(x, low_level.shape[1:3]), "decoder/decoder_conv0")
        x += ops.biased(low_level, "decoder/feature_projection0")
        return _resized(x, image.shape[1:3]).numpy()
    is_cell = "meta_architecture/concat_projection/weights" in values
    x = (_cell if is_cell else _aspp)(ops, x, output_stride)
    if "decoder/feature_projection0/weights" in values:
        low_level = ops.conv(low_level, "decoder/feature_projection0")
        x = tf.concat([_resized(x, low_level.shape[1:3]), low_level], -1)
        x = ops.separable(ops.separable(x, "decoder/decoder_conv0"), "decoder/decoder_conv1")
    return _resized(ops.biased(x, "logits/semantic"), image.shape[1:3]).numpy()


def assert_same(found: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
