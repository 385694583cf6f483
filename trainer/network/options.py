"""The options of the architecture, and bounds on its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.options import CheckedOptions, option

MOBILENETS = ("mobilenet_v2", "mobilenet_v3_large_seg", "mobilenet_v3_small_seg")
BACKBONES = (*MOBILENETS, "xception_41", "xception_65", "xception_71", "resnet_v1_50_beta", "resnet_v1_101_beta")
HEADS = ("subpixel", "bilinear")
SUBPIXELS = ("kernels", "logits")
SUBPIXEL_STARTS = ("bilinear", "nearest")
OUTPUT_STRIDES = (8, 16, 32)
MAX_ALPHA = 4

WINDOW = 4096
"""Default of the largest side, in pixels, of the windows in which larger images are seen."""
MARGIN = 256
"""Pixels that a window sees beyond its part of the result, on every side that is not an edge of the image."""
MIN_WINDOW = 4 * MARGIN
"""The smallest window: its part of the result is a quarter of what it sees."""


def bytes_per_pixel(architecture: Mapping[str, Any]) -> int:
    """The peak memory of inference, in bytes per pixel of the image; a fit to measurements on a CPU.

    The peak is where the widest features and their inputs are in memory at once. Logits do not count, see
    `trainer.network.inference.predictor`. Invalid values in `architecture` are replaced by the defaults.

    Args:
      architecture: the arguments of `trainer.network.deeplab.deeplab_v3_plus`, as read from model.json.
    """
    stride, alpha, rates = (architecture.get(name) for name in ("output_stride", "alpha", "aspp_rates"))
    stride = stride if stride in OUTPUT_STRIDES else 16
    if architecture.get("backbone") in BACKBONES[len(MOBILENETS) :]:
        base, channels, branches = 640, 2048, 3
    else:
        alpha = alpha if isinstance(alpha, int | float) and 0 < alpha <= MAX_ALPHA else 1
        base, channels, branches = 80 + 470 * alpha, 320 * alpha, 0
    branches = len(rates) if isinstance(rates, list | tuple) else branches
    branches = 1 if architecture.get("dense_prediction_cell") else branches
    # Atrous branches run in parallel, each with two arrays of all the backbone's channels; in the dense prediction
    # cell only the first branch has these.
    return round(base + 1.5 * branches * 2 * channels * 4 / stride**2)


@dataclass(frozen=True)
class NetworkOptions(CheckedOptions):
    """The options of the architecture; see `trainer.network.deeplab.deeplab_v3_plus`."""

    backbone: str = option("mobilenet_v2", "feature network", choices=BACKBONES, group="network")
    alpha: float = option(
        1.0,
        "width multiplier of MobileNetV2; below 1 for smaller models",
        above=0,
        high=MAX_ALPHA,
        metavar="FACTOR",
        group="network",
    )
    output_stride: int = option(
        16, "input pixels per feature; 8 is finer, and slower", choices=OUTPUT_STRIDES, group="network"
    )
    head: str = option("subpixel", "how features are upsampled to pixels", choices=HEADS, group="network")
    subpixel: str = option(
        "kernels",
        "what the subpixel head predicts for each pixel: a kernel, which weights the logits of the 3x3 cells around "
        "it and is guided by the finest features of the image; or the logits themselves, as up to version 0.7",
        choices=SUBPIXELS,
        group="network",
    )
    subpixel_start: str = option(
        "bilinear",
        "what --subpixel logits starts as: bilinear interpolation, or nearest neighbour, whose blocks remain visible "
        "where it learns little",
        choices=SUBPIXEL_STARTS,
        group="network",
    )
    decoder: bool = option(
        True, "refine features with low-level features at stride 4, for finer boundaries", group="network"
    )
    aspp_rates: tuple[int, ...] | None = option(
        None, "atrous rates of the ASPP branches (default: as published for the backbone)", low=1, group="network"
    )
    multi_grid: tuple[int, ...] | None = option(
        None,
        "factors on the atrous rates of Xception's last three convolutions, or ResNet's last units (default: 1 1 1)",
        low=1,
        group="network",
    )
    dense_prediction_cell: bool = option(
        False, "use the dense prediction cell instead of ASPP, as xception71_dpc_* do", group="network"
    )
    batch_norm_momentum: float = option(
        0.99,
        "momentum of the batch norms' moving statistics; 0.9 for trainings of a few hundred steps",
        low=0,
        below=1,
        group="network",
    )
