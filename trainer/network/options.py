"""The numbers that a network is built from, as flags."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.options import CheckedOptions, option

BACKBONES = ("mobilenet_v2", "xception_65")
HEADS = ("subpixel", "bilinear")
OUTPUT_STRIDES = (8, 16, 32)
MAX_ALPHA = 4


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
    decoder: bool | None = option(
        None, "refine with low-level features (default: as published for the backbone)", group="network"
    )
    aspp_rates: tuple[int, ...] | None = option(
        None, "atrous rates of the ASPP branches (default: as published for the backbone)", low=1, group="network"
    )
    batch_norm_momentum: float = option(
        0.99,
        "share of the batch norms' statistics that one step keeps; 0.9 for trainings of a few hundred steps",
        low=0,
        below=1,
        group="network",
    )
