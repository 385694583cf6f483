"""The numbers that a network is built from, as flags."""

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


def bytes_per_pixel(architecture: Mapping[str, Any]) -> int:
    """About the most memory that the network takes for a pixel of an image in inference, as measured on a CPU.

    Its widest features are there at once with what they are made from; logits do not count, see
    `trainer.network.folder.predictor`. What is no architecture at all counts as the default one.
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
    # Branches of atrous convolution run side by side, each with two arrays of all the backbone's channels; of the
    # dense prediction cell only the first sees these.
    return round(base + 1.5 * branches * 2 * channels * 4 / stride**2)


@dataclass(frozen=True)
class NetworkOptions(CheckedOptions):
    """Options that decide the architecture; see `trainer.network.deeplab.deeplab_v3_plus`."""

    backbone: str = option("mobilenet_v2", "feature network", choices=BACKBONES, group="network")
    alpha: float = option(
        1.0,
        "width of MobileNetV2: less for smaller models",
        above=0,
        high=MAX_ALPHA,
        metavar="FACTOR",
        group="network",
    )
    output_stride: int = option(
        16, "input pixels per feature; 8 is finer and slower", choices=OUTPUT_STRIDES, group="network"
    )
    head: str = option("subpixel", "how features become pixels", choices=HEADS, group="network")
    subpixel: str = option(
        "kernels",
        "what the subpixel head has for each pixel: a kernel, which weighs the logits of the 3x3 cells around it and "
        "is guided by the finest features of the image; or logits of its own, as up to version 0.7",
        choices=SUBPIXELS,
        group="network",
    )
    subpixel_start: str = option(
        "bilinear",
        "what the subpixel head of logits starts as: bilinear interpolation, or nearest neighbour, whose blocks show "
        "where it learns little",
        choices=SUBPIXEL_STARTS,
        group="network",
    )
    decoder: bool = option(
        True, "refine features with low-level ones of stride 4, for finer boundaries", group="network"
    )
    aspp_rates: tuple[int, ...] | None = option(
        None, "atrous rates of the ASPP branches (default: as published for the backbone)", low=1, group="network"
    )
    multi_grid: tuple[int, ...] | None = option(
        None,
        "factors on the atrous rates of the last three convolutions of Xception, or units of ResNet (default: 1 1 1)",
        low=1,
        group="network",
    )
    dense_prediction_cell: bool = option(
        False, "continue branches of atrous convolution in place of ASPP, as xception71_dpc_* do", group="network"
    )
    batch_norm_momentum: float = option(
        0.99,
        "share of the batch norms' statistics that one step keeps; 0.9 for trainings of a few hundred steps",
        low=0,
        below=1,
        group="network",
    )
