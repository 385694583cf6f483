"""ResNet-50 and -101 with DeepLab's stem, "beta": three 3x3 convolutions instead of one 7x7 convolution.

He et al., "Deep residual learning for image recognition", arXiv:1512.03385. As in the published checkpoints, the last
unit of blocks 1 to 3 is the strided one, in its 3x3 convolution. Layers are named after the published variables, see
`trainer.network.layers`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from keras import layers

from trainer.network.layers import Features, Norm, conv, layer_name, next_pixel, pad
from trainer.network.strides import Stride

EPSILON = 1e-5

# The number of units in each of the four blocks, and the channels of their 3x3 convolutions.
_UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_CHANNELS = (64, 128, 256, 512)


def _every_other(x: Any, scope: str, on_blocks: bool) -> Any:
    """Every second row and column of [B, H, W, C]."""
    if on_blocks:
        x = next_pixel(x, scope)
    return layers.MaxPooling2D(1, strides=2, name=layer_name(scope))(x)


def _bottleneck(x: Any, scope: str, channels: int, *, norm: Norm, step: dict[str, Any], grid: int) -> tuple[Any, Any]:
    """A residual unit: 1x1, 3x3 and 1x1 convolutions, and a shortcut.

    Args:
      channels: output channels of the 3x3 convolution; the unit has four times as many.
      step: `strides`, `rate` and `on_blocks` of the 3x3 convolution.
      grid: factor on its atrous rate.

    Returns:
      The output of the unit, and that of its third convolution before the shortcut is added.
    """
    strided = {name: step[name] for name in ("strides", "on_blocks")}
    if x.shape[-1] != 4 * channels:
        shortcut = conv(x, f"{scope}/shortcut", 4 * channels, norm=norm, activation=None, **strided)
    else:
        shortcut = _every_other(x, f"{scope}/shortcut", step["on_blocks"]) if step["strides"] > 1 else x
    x = conv(x, f"{scope}/conv1", channels, norm=norm)
    x = conv(x, f"{scope}/conv2", channels, norm=norm, kernel_size=3, rate=step["rate"] * grid, **strided)
    third = conv(x, f"{scope}/conv3", 4 * channels, norm=norm, activation=None)
    x = layers.Add(name=layer_name(f"{scope}/add"))([shortcut, third])
    return layers.Activation("relu", name=layer_name(f"{scope}/relu"))(x), third


def resnet(
    x: Any,
    *,
    depth: int,
    output_stride: int,
    block_strides: Collection[int],
    multi_grid: Sequence[int] = (1, 1, 1),
    momentum: float,
) -> Features:
    """The features of ResNet.

    Args:
      x: images, float [B, H, W, 3] in [-1, 1].
      depth: 50 or 101.
      output_stride: 8, 16 or 32.
      block_strides: the strides whose cells are centred on blocks, see `trainer.network.layers`.
      multi_grid: factors on the atrous rates of the last three units (arXiv:1706.05587, section 3.2).
      momentum: momentum of the batch norms, see `layers.Norm`.

    Returns:
      Last features with 2048 channels, low-level ones with 256 at stride 4, fine ones with 128.
    """
    norm = Norm(momentum, EPSILON)
    stride = Stride(output_stride, block_strides)
    root = f"resnet_v1_{depth}"
    first, second = stride.step(2), stride.step(2)
    x = conv(x, f"{root}/conv1_1", 64, norm=norm, kernel_size=3, strides=2, on_blocks=first["on_blocks"])
    x = conv(x, f"{root}/conv1_2", 64, norm=norm, kernel_size=3)
    x = fine = conv(x, f"{root}/conv1_3", 128, norm=norm, kernel_size=3)
    # Padding with zeros does not change a maximum after ReLU.
    x = pad(x, f"{root}/pool1", second["on_blocks"])
    x = layers.MaxPooling2D(3, strides=2, name=layer_name(f"{root}/pool1"))(x)
    low_level = None
    for block, (units, channels) in enumerate(zip(_UNITS[depth], _CHANNELS, strict=True), start=1):
        for unit in range(1, units + 1):
            scope = f"{root}/block{block}/unit_{unit}/bottleneck_v1"
            step = stride.step(2 if unit == units and block < 4 else 1)
            grid = multi_grid[unit - 1] if block == 4 else 1
            x, third = _bottleneck(x, scope, channels, norm=norm, step=step, grid=grid)
            if (block, unit) == (1, 2):
                low_level = third
    return Features(x, low_level, fine)
