"""The backbones of DeepLab, and what DeepLab was published with on top of each.

Backbones are built up to the last feature map, with atrous convolutions in place of late strides; see
`trainer.network.strides`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from trainer.network.layers import Features
from trainer.network.mobilenet import mobilenet_v2, mobilenet_v3
from trainer.network.resnet import resnet
from trainer.network.xception import xception


class Backbone(NamedTuple):
    """A backbone, and the layers that DeepLab was published with on top of it.

    Attributes:
      build: (x, *, output_stride, block_strides, momentum) -> `layers.Features`.
      has_multi_grid: whether `build` takes `multi_grid`, the factors on the last atrous rates.
      has_alpha: whether `build` takes `alpha`, the width multiplier.
      has_decoder: whether a decoder refines the features with low-level ones.
      has_atrous_branches: whether ASPP has three atrous branches.
      last_weights: the variable of its last convolution, by which its checkpoints are recognised.
      last_channels: the number of output channels of that convolution at alpha 1.
      is_light: whether it was published with the light layers of MobileNetV3: an ASPP of one convolution, gated by
        means over windows, and a decoder that only concatenates low-level features of stride 8.
      output_stride: the output stride it was published with.
    """

    build: Callable[..., Features]
    has_multi_grid: bool
    has_alpha: bool
    has_decoder: bool
    has_atrous_branches: bool
    last_weights: str
    last_channels: int
    is_light: bool = False
    output_stride: int = 16


def _deep(build: Callable[..., Any], depth: int, last_weights: str) -> Backbone:
    """A backbone without a width multiplier, with the full ASPP and decoder."""
    return Backbone(
        build=functools.partial(build, depth=depth),
        has_multi_grid=True,
        has_alpha=False,
        has_decoder=True,
        has_atrous_branches=True,
        last_weights=last_weights,
        last_channels=2048,
    )


def _mobilenet_v3(size: str, channels: int) -> Backbone:
    return Backbone(
        build=functools.partial(mobilenet_v3, size=size),
        has_multi_grid=False,
        has_alpha=False,
        has_decoder=True,
        has_atrous_branches=False,
        last_weights="MobilenetV3/Conv_1/weights",
        last_channels=channels,
        is_light=True,
        output_stride=32,
    )


def _xception(depth: int) -> Backbone:
    last = "exit_flow/block2/unit_1/xception_module/separable_conv3_pointwise/weights"
    return _deep(xception, depth, f"xception_{depth}/{last}")


def _resnet(depth: int) -> Backbone:
    return _deep(resnet, depth, f"resnet_v1_{depth}/block4/unit_3/bottleneck_v1/conv3/weights")


PUBLISHED = {
    "mobilenet_v2": Backbone(
        build=mobilenet_v2,
        has_multi_grid=False,
        has_alpha=True,
        has_decoder=False,
        has_atrous_branches=False,
        last_weights="MobilenetV2/expanded_conv_16/project/weights",
        last_channels=320,
    ),
    "mobilenet_v3_large_seg": _mobilenet_v3("large", 480),
    "mobilenet_v3_small_seg": _mobilenet_v3("small", 288),
    "xception_41": _xception(41),
    "xception_65": _xception(65),
    "xception_71": _xception(71),
    "resnet_v1_50_beta": _resnet(50),
    "resnet_v1_101_beta": _resnet(101),
}
"""The backbones by name, those of `trainer.network.options.BACKBONES`."""
