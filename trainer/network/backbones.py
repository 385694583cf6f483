"""The feature extractors of DeepLab: MobileNetV2 and Xception-65, with atrous convolution in place of late strides.

Both are built up to the last feature map; layers bear the names of the published checkpoints' variables (see
`trainer.network.layers`). A stage whose stride would exceed `output_stride` keeps the resolution, and all convolutions
after it get its stride as their atrous rate (Chen et al., "Rethinking atrous convolution", arXiv:1706.05587).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from keras import layers

from trainer.network.layers import Norm, conv, depthwise, layer_name, separable

EPSILON = 1e-3


@dataclasses.dataclass
class _Stride:
    """Keeps account of the stride reached so far while a backbone is built.

    Attributes:
      limit: the stride of the last feature map.
      on_blocks: the strides whose cells are centred on blocks (see `trainer.network.layers`).
    """

    limit: int
    on_blocks: Collection[int]
    reached: int = 1
    rate: int = 1

    def step(self, stride: int) -> dict[str, Any]:
        """Arguments `strides`, `rate` and `on_blocks` for the next convolution, which would like to take `stride`."""
        if self.reached == self.limit:
            rate, self.rate = self.rate, self.rate * stride
            return {"strides": 1, "rate": rate, "on_blocks": False}
        self.reached *= stride
        return {"strides": stride, "rate": 1, "on_blocks": stride > 1 and self.reached in self.on_blocks}


# Sandler et al., arXiv:1801.04381, table 2: expansion, channels, blocks, stride of the first.
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
    # DeepLab's MobileNetV2 rounds to whole channels where alpha is not 1, not to multiples of 8 as the classifier
    # does: its checkpoint of depth multiplier 0.5 has 12 channels in blocks 1 and 2.
    return max(1, int(channels * alpha + 0.5))


def _expanded(channels: int, expansion: int) -> int:
    """`channels` times `expansion`, rounded to a multiple of 8, as published."""
    wide = channels * expansion
    rounded = max(8, (wide + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wide else rounded


def mobilenet_v2(
    x: Any, *, alpha: float = 1.0, output_stride: int = 16, block_strides: Collection[int] = (), momentum: float = 0.99
) -> tuple[Any, Any]:
    """MobileNetV2 (arXiv:1801.04381) without the last 1280-channel expansion, as DeepLab uses it.

    Args:
      x: [B, H, W, 3] in [-1, 1].
      alpha: factor on the number of channels.
      output_stride: 8, 16 or 32.
      block_strides: the strides whose cells are centred on blocks, see `trainer.network.layers`.
      momentum: of batch normalisation.

    Returns:
      The features [B, ceil(H/output_stride), ceil(W/output_stride), 320·alpha] and the low-level features
      [B, ceil(H/4), ceil(W/4), 144·alpha] for the decoder.
    """
    norm = Norm(momentum, EPSILON)
    stride = _Stride(output_stride, block_strides)
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
    low_level = None
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
    return x, low_level


def _xception_module(
    x: Any, scope: str, depths: tuple[int, int, int], *, skip: str, inner: bool, norm: Norm, step: dict[str, Any]
) -> tuple[Any, Any]:
    """Three separable convolutions beside a shortcut; returns the sum and what the second convolution gave.

    Args:
      depths: channels after each of the three.
      skip: "conv" (a strided 1x1 convolution), "sum" or "none".
      inner: whether rectification follows both halves of each separable convolution, or precedes the first half.
      step: `strides`, `rate` and `on_blocks`; only the last convolution is strided.
    """
    inputs, second = x, None
    for number, depth in enumerate(depths, start=1):
        part = f"{scope}/separable_conv{number}"
        if not inner:
            x = layers.Activation("relu", name=layer_name(f"{part}/relu"))(x)
        here = step if number == 3 else {"rate": step["rate"]}
        x = separable(x, part, depth, norm=norm, activation="relu" if inner else None, **here)
        second = x if number == 2 else second
    if skip == "conv":
        inputs = conv(
            inputs,
            f"{scope}/shortcut",
            depths[-1],
            norm=norm,
            strides=step["strides"],
            on_blocks=step["on_blocks"],
            activation=None,
        )
    if skip != "none":
        x = layers.Add(name=layer_name(f"{scope}/add"))([inputs, x])
    return x, second


def xception_65(
    x: Any, *, output_stride: int = 16, block_strides: Collection[int] = (), momentum: float = 0.99
) -> tuple[Any, Any]:
    """The modified aligned Xception-65 of DeepLabV3+ (arXiv:1802.02611, figure 4).

    Args:
      x: [B, H, W, 3] in [-1, 1].
      output_stride: 8, 16 or 32.
      block_strides: the strides whose cells are centred on blocks, see `trainer.network.layers`.
      momentum: of batch normalisation.

    Returns:
      The features [B, ceil(H/output_stride), ceil(W/output_stride), 2048] and the low-level features
      [B, ceil(H/4), ceil(W/4), 256] for the decoder.
    """
    norm = Norm(momentum, EPSILON)
    stride = _Stride(output_stride, block_strides)
    first = stride.step(2)
    root = "xception_65/entry_flow"
    x = conv(x, f"{root}/conv1_1", 32, norm=norm, kernel_size=3, strides=2, on_blocks=first["on_blocks"])
    x = conv(x, f"{root}/conv1_2", 64, norm=norm, kernel_size=3)
    low_level = None
    # Flow, block, units, depths, shortcut, rectification inside, stride.
    blocks = (
        ("entry_flow", 1, 1, (128, 128, 128), "conv", False, 2),
        ("entry_flow", 2, 1, (256, 256, 256), "conv", False, 2),
        ("entry_flow", 3, 1, (728, 728, 728), "conv", False, 2),
        ("middle_flow", 1, 16, (728, 728, 728), "sum", False, 1),
        ("exit_flow", 1, 1, (728, 1024, 1024), "conv", False, 2),
        ("exit_flow", 2, 1, (1536, 1536, 2048), "none", True, 1),
    )
    for flow, block, units, depths, skip, inner, step in blocks:
        for unit in range(1, units + 1):
            scope = f"xception_65/{flow}/block{block}/unit_{unit}/xception_module"
            x, second = _xception_module(x, scope, depths, skip=skip, inner=inner, norm=norm, step=stride.step(step))
        if (flow, block) == ("entry_flow", 2):
            low_level = second
    return x, low_level


class Backbone(NamedTuple):
    """A backbone, and what DeepLab puts behind it as published.

    Attributes:
      build: (x, *, output_stride, block_strides, momentum) -> features and low-level features.
      has_alpha: whether `build` takes `alpha`, a factor on the number of channels.
      has_decoder: whether low-level features refine the result.
      has_atrous_branches: whether ASPP has three branches of atrous convolution.
      last_weights: variable of its last convolution, which tells its checkpoints from others.
      last_channels: how many channels that has at alpha 1.
    """

    build: Callable[..., tuple[Any, Any]]
    has_alpha: bool
    has_decoder: bool
    has_atrous_branches: bool
    last_weights: str
    last_channels: int


PUBLISHED = {
    "mobilenet_v2": Backbone(
        build=mobilenet_v2,
        has_alpha=True,
        has_decoder=False,
        has_atrous_branches=False,
        last_weights="MobilenetV2/expanded_conv_16/project/weights",
        last_channels=320,
    ),
    "xception_65": Backbone(
        build=xception_65,
        has_alpha=False,
        has_decoder=True,
        has_atrous_branches=True,
        last_weights="xception_65/exit_flow/block2/unit_1/xception_module/separable_conv3_pointwise/weights",
        last_channels=2048,
    ),
}
"""Every backbone of `trainer.network.options.BACKBONES`."""
