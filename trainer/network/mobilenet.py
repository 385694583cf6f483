"""MobileNetV2 and V3 as DeepLab uses them.

Layers are named after the published variables, see `trainer.network.layers`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from keras import layers

from trainer.network.layers import Features, Norm, conv, depthwise, layer_name
from trainer.network.strides import Stride

EPSILON = 1e-3

# Sandler et al., arXiv:1801.04381, table 2: (expansion, channels, number of blocks, stride of the first).
_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _channels(channels: int, alpha: float) -> int:
    # DeepLab's MobileNetV2 rounds to whole numbers, not to multiples of 8 as the classifier does: in its checkpoint of
    # depth multiplier 0.5, blocks 1 and 2 have 12 channels.
    return max(1, int(channels * alpha + 0.5))


def _expanded(channels: int, expansion: int) -> int:
    """`channels` times `expansion`, rounded to a multiple of 8 of at least 90 % of it, as published."""
    wide = channels * expansion
    rounded = max(8, (wide + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wide else rounded


def mobilenet_v2(
    x: Any, *, alpha: float, output_stride: int, block_strides: Collection[int], momentum: float
) -> Features:
    """The features of MobileNetV2 (arXiv:1801.04381), without its last convolution to 1280 channels.

    Args:
      x: images, float [B, H, W, 3] in [-1, 1].
      alpha: width multiplier.
      output_stride: 8, 16 or 32.
      block_strides: the strides whose cells are centred on blocks, see `trainer.network.layers`.
      momentum: momentum of the batch norms, see `layers.Norm`.

    Returns:
      Last features with 320·alpha channels, low-level ones with 144·alpha at stride 4, fine ones with 16·alpha.
    """
    norm = Norm(momentum, EPSILON)
    stride = Stride(output_stride, block_strides)
    first = stride.step(2)
    x = conv(
        x,
        "MobilenetV2/Conv",
        _channels(32, alpha),
        norm=norm,
        kernel_size=3,
        strides=first["strides"],
        on_blocks=first["on_blocks"],
        activation="relu6",
    )
    low_level = fine = None
    blocks = [
        (expansion, channels, step if repeat == 0 else 1)
        for expansion, channels, count, step in _MOBILENET_V2
        for repeat in range(count)
    ]
    for index, (expansion, channels, step) in enumerate(blocks):
        scope = f"MobilenetV2/expanded_conv_{index}" if index else "MobilenetV2/expanded_conv"
        inputs = x
        if expansion > 1:
            width = _expanded(inputs.shape[-1], expansion)
            x = conv(x, f"{scope}/expand", width, norm=norm, activation="relu6")
        x = depthwise(x, f"{scope}/depthwise", norm=norm, activation="relu6", **stride.step(step))
        low_level = x if index == 2 else low_level
        x = conv(x, f"{scope}/project", _channels(channels, alpha), norm=norm, activation=None)
        if step == 1 and inputs.shape[-1] == x.shape[-1]:
            x = layers.Add(name=layer_name(f"{scope}/add"))([inputs, x])
        fine = x if index == 0 else fine
    return Features(x, low_level, fine)


# Howard et al., arXiv:1905.02244, tables 1 and 2; DeepLab halves the widths of the last blocks. (kernel size, expanded
# channels, channels, whether squeeze-and-excitation, activation, stride).
_MOBILENET_V3 = {
    "large": (
        (3, 16, 16, False, "relu", 1),
        (3, 64, 24, False, "relu", 2),
        (3, 72, 24, False, "relu", 1),
        (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1),
        (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hard_swish", 2),
        (3, 200, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 480, 112, True, "hard_swish", 1),
        (3, 672, 112, True, "hard_swish", 1),
        (5, 336, 80, True, "hard_swish", 2),
        (5, 480, 80, True, "hard_swish", 1),
        (5, 480, 80, True, "hard_swish", 1),
    ),
    "small": (
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hard_swish", 2),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 120, 48, True, "hard_swish", 1),
        (5, 144, 48, True, "hard_swish", 1),
        (5, 144, 48, True, "hard_swish", 2),
        (5, 288, 48, True, "hard_swish", 1),
        (5, 288, 48, True, "hard_swish", 1),
    ),
}
# The block whose depthwise convolution gives the low-level features, and the channels of the last convolution.
_LOW_LEVEL = {"large": 5, "small": 2}
_LAST = {"large": 480, "small": 288}


def _squeeze_excite(x: Any, scope: str) -> Any:
    """Squeeze-and-excitation: scales each channel by a function of all channels' means (arXiv:1709.01507)."""
    channels = x.shape[-1]
    weights = layers.GlobalAveragePooling2D(keepdims=True, name=layer_name(f"{scope}/mean"))(x)
    squeezed = _expanded(channels // 4, 1)
    weights = layers.Conv2D(squeezed, 1, activation="relu", name=layer_name(f"{scope}/Conv"))(weights)
    weights = layers.Conv2D(channels, 1, activation="hard_sigmoid", name=layer_name(f"{scope}/Conv_1"))(weights)
    return layers.Multiply(name=layer_name(f"{scope}/product"))([x, weights])


def mobilenet_v3(
    x: Any,
    *,
    size: str,
    output_stride: int,
    block_strides: Collection[int],
    momentum: float,
) -> Features:
    """The features of MobileNetV3 (arXiv:1905.02244), with its last blocks half as wide, as DeepLab uses it.

    Args:
      x: images, float [B, H, W, 3] in [-1, 1].
      size: "large" or "small".
      output_stride: 8, 16 or 32.
      block_strides: the strides whose cells are centred on blocks, see `trainer.network.layers`.
      momentum: momentum of the batch norms, see `layers.Norm`.

    Returns:
      Last features with 480 ("large") or 288 ("small") channels, low-level ones with 120 or 88 at stride 8, fine ones
      with 16.
    """
    norm = Norm(momentum, EPSILON)
    stride = Stride(output_stride, block_strides)
    first = {name: value for name, value in stride.step(2).items() if name != "rate"}
    x = conv(x, "MobilenetV3/Conv", 16, norm=norm, kernel_size=3, activation="hard_swish", **first)
    low_level, fine = None, x
    for index, (kernel, expanded, channels, excites, activation, step) in enumerate(_MOBILENET_V3[size]):
        scope = f"MobilenetV3/expanded_conv_{index}" if index else "MobilenetV3/expanded_conv"
        inputs = x
        if expanded > inputs.shape[-1]:
            x = conv(x, f"{scope}/expand", expanded, norm=norm, activation=activation)
        x = depthwise(
            x, f"{scope}/depthwise", norm=norm, kernel_size=kernel, activation=activation, **stride.step(step)
        )
        low_level = x if index == _LOW_LEVEL[size] else low_level
        if excites:
            x = _squeeze_excite(x, f"{scope}/squeeze_excite")
        x = conv(x, f"{scope}/project", channels, norm=norm, activation=None)
        if step == 1 and inputs.shape[-1] == channels:
            x = layers.Add(name=layer_name(f"{scope}/add"))([inputs, x])
    return Features(conv(x, "MobilenetV3/Conv_1", _LAST[size], norm=norm, activation="hard_swish"), low_level, fine)
