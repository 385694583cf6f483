"""DeepLabV3+: ASPP, decoder and head on a backbone, built from plain numbers.

Chen et al., "Encoder-decoder with atrous separable convolution for semantic image segmentation", arXiv:1802.02611. The
network is fully convolutional and takes images of any size; `trainer.network.layers` states where its features lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import layers, ops

from trainer.network.backbones import PUBLISHED
from trainer.network.heads import KERNEL, Cells, Means, PixelUnshuffle, Subpixel, SubpixelKernels
from trainer.network.layers import BroadcastLike, Norm, StretchLike, Upsample, WindowMeans, conv, layer_name, separable
from trainer.network.options import BACKBONES, HEADS, MAX_ALPHA, OUTPUT_STRIDES, SUBPIXEL_STARTS, SUBPIXELS
from trainer.options import InputError
from trainer.terminal import some

# Of the batch norms of ASPP and decoder; the backbones have their own.
_EPSILON = 1e-5

HEAD, UPSAMPLE = layer_name("logits/semantic"), "logits-upsample"
"""The names of the layer that predicts the logits, and of the one that upsamples those of the bilinear head."""

HEAD_SCOPES = ("image_pooling", "aspp", "meta_architecture", "concat", "decoder", "logits")
"""The prefixes of the names of all layers after the backbone."""

GUIDE = 64
"""The channels of the guide of `SubpixelKernels`."""

BLOCK_STRIDES = (2, 4, 8, 16, 32)
"""Strides whose cells may be centred on blocks, see `trainer.network.layers`."""

MAX_RATES, MAX_RATE = 16, 1000
"""Bounds on the number of atrous branches and on their rates; the published networks have three, of at most 36."""

CELL = (((1, 6), -1), ((18, 15), 0), ((6, 3), 1), ((1, 1), 0), ((6, 21), 0))
"""The branches of the dense prediction cell: ((vertical, horizontal) atrous rate at output stride 16, input).

The input is the index of a branch, or -1 for the backbone. Chen et al., arXiv:1809.04184, figure 5, for Cityscapes.
"""


class ArgumentError(InputError):
    """No network has this value of an argument: the argument's name, and the fault, which continues the sentence."""

    def __init__(self, argument: str, fault: str):
        super().__init__(argument, fault)
        self.argument, self.fault = argument, fault

    def __str__(self) -> str:
        return f"{self.argument} {self.fault}"


def _check(
    num_classes: int,
    backbone: str,
    alpha: float,
    output_stride: int,
    head: str,
    subpixel: str,
    subpixel_start: str,
) -> None:
    if not isinstance(num_classes, int) or not 1 <= num_classes <= 255:
        raise ArgumentError("num_classes", f"must be a whole number from 1 to 255, got {num_classes!r}")
    if backbone not in BACKBONES:
        raise ArgumentError("backbone", f"must be one of {', '.join(BACKBONES)}, got {backbone!r}")
    if not isinstance(alpha, int | float) or not 0 < alpha <= MAX_ALPHA:
        raise ArgumentError("alpha", f"must be a number above 0 and at most {MAX_ALPHA}, got {alpha!r}")
    if alpha != 1 and not PUBLISHED[backbone].has_alpha:
        raise ArgumentError("alpha", f"must be 1 for {backbone}, which has no width multiplier, got {alpha}")
    if output_stride not in OUTPUT_STRIDES:
        raise ArgumentError("output_stride", f"must be 8, 16 or 32, got {output_stride!r}")
    if head not in HEADS:
        raise ArgumentError("head", f"must be one of {', '.join(HEADS)}, got {head!r}")
    if subpixel not in SUBPIXELS:
        raise ArgumentError("subpixel", f"must be one of {', '.join(SUBPIXELS)}, got {subpixel!r}")
    if subpixel_start not in SUBPIXEL_STARTS:
        raise ArgumentError("subpixel_start", f"must be one of {', '.join(SUBPIXEL_STARTS)}, got {subpixel_start!r}")


def _check_rates(
    backbone: str,
    aspp_rates: Sequence[int] | None,
    block_strides: Sequence[int] | None,
    multi_grid: Sequence[int] | None,
    dense_prediction_cell: bool,
) -> None:
    rates = aspp_rates or ()
    if len(rates) > MAX_RATES or not all(isinstance(rate, int) and 1 <= rate <= MAX_RATE for rate in rates):
        raise ArgumentError(
            "aspp_rates",
            f"must be at most {MAX_RATES} whole numbers from 1 to {MAX_RATE}, got {some(rates, MAX_RATES)}",
        )
    if block_strides is not None and not set(block_strides) <= set(BLOCK_STRIDES):
        raise ArgumentError(
            "block_strides", f"must be among {', '.join(map(str, BLOCK_STRIDES))}, got {block_strides!r}"
        )
    if rates and PUBLISHED[backbone].is_light:
        raise ArgumentError("aspp_rates", f"do not apply to {backbone}, whose ASPP has no atrous branches; omit them")
    if dense_prediction_cell and (rates or PUBLISHED[backbone].is_light):
        other = "atrous rates, since its own are fixed" if rates else f"{backbone}, which has an ASPP of its own"
        raise ArgumentError("dense_prediction_cell", f"cannot be combined with {other}; omit one of them")
    if multi_grid is not None:
        if not PUBLISHED[backbone].has_multi_grid:
            raise ArgumentError("multi_grid", f"does not apply to {backbone}; omit it")
        if len(multi_grid) != 3 or not all(isinstance(rate, int) and 1 <= rate <= MAX_RATE for rate in multi_grid):
            raise ArgumentError("multi_grid", f"must be three whole numbers from 1 to {MAX_RATE}, got {multi_grid!r}")


def published_rates(output_stride: int) -> list[int]:
    """The published rates of the three atrous branches: 6, 12, 18 at output stride 16, doubled at 8, halved at 32."""
    return [rate * 16 // output_stride for rate in (6, 12, 18)]


def _aspp(x: Any, rates: Sequence[int], norm: Norm, dropout: float) -> Any:
    """Atrous spatial pyramid pooling (arXiv:1706.05587, section 3.3): [B, h, w, C] -> [B, h, w, 256]."""
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="image_pooling-mean")(x)
    pooled = conv(pooled, "image_pooling", 256, norm=norm)
    branches = [BroadcastLike(name="image_pooling-broadcast")([pooled, x]), conv(x, "aspp0", 256, norm=norm)]
    branches += [separable(x, f"aspp{n}", 256, norm=norm, rate=rate) for n, rate in enumerate(rates, start=1)]
    x = layers.Concatenate(name="concat")(branches)
    x = conv(x, "concat_projection", 256, norm=norm)
    return layers.Dropout(dropout, name="concat_projection-dropout")(x)


def _dense_prediction_cell(x: Any, output_stride: int, norm: Norm, dropout: float) -> Any:
    """The dense prediction cell, in place of ASPP (see CELL): [B, h, w, C] -> [B, h, w, 256]."""
    branches: list[Any] = []
    for number, (rates, source) in enumerate(CELL):
        branches.append(
            separable(
                x if source < 0 else branches[source],
                f"meta_architecture/branch{number}",
                256,
                norm=norm,
                rate=tuple(max(1, rate * 16 // output_stride) for rate in rates),
            )
        )
    x = layers.Concatenate(name="meta_architecture-concat")(branches)
    x = layers.Dropout(dropout, name="meta_architecture-dropout")(x)
    return conv(x, "meta_architecture/concat_projection", 256, norm=norm)


def _decoder(x: Any, low_level: Any, stride: int, norm: Norm) -> Any:
    """Refines features of `stride` with low-level ones of stride 4 (arXiv:1802.02611): -> [B, H/4, W/4, 256]."""
    low_level = conv(low_level, "decoder/feature_projection0", 48, norm=norm)
    x = Upsample(stride // 4, name="decoder-upsample")([x, low_level])
    x = layers.Concatenate(name="decoder-concat")([x, low_level])
    x = separable(x, "decoder/decoder_conv0", 256, norm=norm)
    return separable(x, "decoder/decoder_conv1", 256, norm=norm)


def _light_aspp(x: Any, stride: int, norm: Norm) -> Any:
    """The ASPP of MobileNetV3, "Lite R-ASPP" (arXiv:1905.02244, section 6.4): [B, h, w, C] -> [B, h, w, 128].

    The windows are those of the published network: as many cells as a crop of 769 pixels has.
    """
    weights = WindowMeans(768 // stride + 1, (4, 5), name="image_pooling-means")(x)
    weights = layers.Conv2D(128, 1, activation="hard_sigmoid", name="image_pooling")(weights)
    weights = StretchLike(name="image_pooling-stretch")([weights, x])
    return layers.Multiply(name="image_pooling-product")([conv(x, "aspp0", 128, norm=norm), weights])


def _light_decoder(x: Any, low_level: Any, stride: int) -> Any:
    """Concatenates features of `stride` with low-level ones of stride 8: -> [B, H/8, W/8, 128 + C].

    The published network predicts logits from each and adds them up. One convolution of both is the same.
    """
    x = Upsample(stride // 8, name="decoder-upsample")([x, low_level])
    return layers.Concatenate(name="decoder-concat")([x, low_level])


# The heads predict float32 logits under mixed precision too, since the loss needs full precision.


def _bilinear_head(x: Any, image: Any, num_classes: int, stride: int) -> Any:
    """Logits of features of `stride`, then interpolation: -> [B, H, W, num_classes]."""
    x = layers.Conv2D(num_classes, 1, dtype="float32", name=HEAD)(x)
    return Upsample(stride, dtype="float32", name=UPSAMPLE)([x, image])


def _kernels_head(x: Any, fine: Any, image: Any, num_classes: int, stride: int, norm: Norm) -> Any:
    """`SubpixelKernels` on features of `stride`: -> [B, H, W, num_classes].

    Its guide is made from the same features, and from the fine ones of each block, which show where its edges are.
    """
    fine = PixelUnshuffle(stride // 2, name="logits-unshuffle")([fine, x])
    guide = [
        conv(x, "logits/feature_projection0", GUIDE, norm=norm),
        conv(fine, "logits/feature_projection1", GUIDE, norm=norm),
    ]
    guide = separable(layers.Concatenate(name="logits-concat")(guide), "logits/guide", GUIDE, norm=norm)
    return SubpixelKernels(num_classes, stride, dtype="float32", name=HEAD)([x, guide, image])


class Parts(NamedTuple):
    """A network in two parts, so that logits can be computed tile by tile; see `split`.

    Attributes:
      features: images [B, H, W, 3] -> the head's maps, one or a list, each [B, ceil(H/stride), ceil(W/stride), any];
        padded by one on every side, with the outermost values, if the head needs those before a tile.
      head: these maps and a reference [B, H, W, 3], of which only the size matters -> logits [B, H, W, classes]. From
        rows i to j + overlap of a map it computes the logits of pixel rows stride·i to stride·j.
      stride: pixels per feature, along each axis.
      overlaps: for each map, the number of rows and columns that the head needs beyond those of a tile, if they exist.
      values: the number of float32 values per pixel in memory while the head is computed.
    """

    features: keras.Model
    head: keras.Model
    stride: int
    overlaps: tuple[int, ...]
    values: int


def split(model: keras.Model) -> Parts:
    """The two parts of a network from `deeplab_v3_plus`; they share its layers."""
    head = model.get_layer(HEAD)
    if isinstance(head, SubpixelKernels):
        features, guide, _ = head.input
        # The logits of the cells are fewer than the features they are predicted from.
        maps, overlaps, stride = [Cells(head)(features), guide], (2, 0), head.factor
    elif isinstance(head, Subpixel):
        is_padded = head.start == "bilinear"
        margin = (int(is_padded),) * 2
        x = head.input[0]
        maps = [ops.pad(x, ((0, 0), margin, margin, (0, 0)), mode="symmetric") if is_padded else x]
        overlaps, stride = (2 * is_padded,), head.factor
    else:
        maps, overlaps, stride = [head.output], (1,), model.get_layer(UPSAMPLE).stride
    inputs = [keras.Input(x.shape[1:], dtype=x.dtype) for x in maps]
    reference = keras.Input((None, None, 3), dtype="uint8")
    if isinstance(head, SubpixelKernels):
        logits = Means(head)([*inputs, reference])
    elif isinstance(head, Subpixel):
        logits = head([*inputs, reference], bordered=head.start == "bilinear")
    else:
        logits = model.get_layer(UPSAMPLE)([*inputs, reference])
    values = logits.shape[-1] + 2 * KERNEL * isinstance(head, SubpixelKernels)
    outputs = maps if maps[1:] else maps[0]
    return Parts(
        keras.Model(model.input, outputs), keras.Model([*inputs, reference], logits), stride, overlaps, values
    )


def deeplab_v3_plus(
    num_classes: int,
    *,
    backbone: str = "mobilenet_v2",
    alpha: float = 1.0,
    output_stride: int = 16,
    head: str = "subpixel",
    subpixel: str = "logits",
    subpixel_start: str = "nearest",
    decoder: bool | None = None,
    aspp_rates: Sequence[int] | None = None,
    block_strides: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
    dense_prediction_cell: bool = False,
    dropout: float = 0.1,
    momentum: float = 0.99,
) -> keras.Model:
    """Builds DeepLabV3+ for images of any size.

    Args:
      num_classes: 1 to 255.
      backbone: one of BACKBONES.
      alpha: width multiplier of MobileNetV2, above 0 and at most MAX_ALPHA.
      output_stride: 8, 16 or 32; the stride of the backbone's last features.
      head: "bilinear" (1x1 convolution, then interpolation) or "subpixel" (1x1 convolution to s² times as many
        channels, then pixel shuffle; s is 4 with the decoder, 8 with that of MobileNetV3, `output_stride` without).
      subpixel: what is shuffled, "logits" (`heads.Subpixel`) or "kernels" (`heads.SubpixelKernels`). Model folders
        of version 0.7 and before do not state it; theirs is "logits".
      subpixel_start: what the subpixel head of logits starts as, "bilinear" or "nearest". Model folders of version 0.3
        and before do not state it; theirs is "nearest".
      decoder: whether low-level features refine the result; None: as published, see `backbones.PUBLISHED`.
      aspp_rates: atrous rates of ASPP; None: as published, see `backbones.PUBLISHED` and `published_rates`.
      block_strides: the strides whose cells are centred on blocks, see `trainer.network.layers`; None: the stride of
        the subpixel head, if there is one. Imported subpixel heads have others.
      multi_grid: factors on the atrous rates of the last three convolutions of Xception, or units of ResNet; None: all
        are 1, as published.
      dense_prediction_cell: whether to use the dense prediction cell (see CELL) instead of ASPP.
      dropout: share of the features after ASPP dropped in training, in [0, 1); published 0.1.
      momentum: momentum of the batch norms. The published 0.9997 suits 30,000 steps and more: after fine-tuning for a
        thousand steps the moving statistics would still be those of the old images, and inference would differ from
        training.

    Returns:
      A model from images, uint8 or float [B, H, W, 3] RGB in 0..255, which it scales to [-1, 1] itself, to logits
      [B, H, W, num_classes], which are float32 under mixed precision too.

    Raises:
      ArgumentError: an argument is outside its range, or does not apply to the backbone.
    """
    _check(num_classes, backbone, alpha, output_stride, head, subpixel, subpixel_start)
    _check_rates(backbone, aspp_rates, block_strides, multi_grid, dense_prediction_cell)
    published = PUBLISHED[backbone]
    decoder = published.has_decoder if decoder is None else decoder
    if aspp_rates is None:
        aspp_rates = published_rates(output_stride) if published.has_atrous_branches else []
    stride = (8 if published.is_light else 4) if decoder else output_stride
    if block_strides is None:
        block_strides = [stride] if head == "subpixel" else []
    norm = Norm(momentum, _EPSILON)

    image = keras.Input((None, None, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="scale")(image)
    width = {"alpha": alpha} if published.has_alpha else {}
    grid = {"multi_grid": multi_grid} if multi_grid else {}
    x, low_level, fine = published.build(
        x, output_stride=output_stride, block_strides=block_strides, momentum=momentum, **width, **grid
    )
    if published.is_light:
        x = _light_aspp(x, output_stride, norm)
    elif dense_prediction_cell:
        x = _dense_prediction_cell(x, output_stride, norm, dropout)
    else:
        x = _aspp(x, aspp_rates, norm, dropout)
    if decoder and published.is_light:
        x = _light_decoder(x, low_level, output_stride)
    elif decoder:
        x = _decoder(x, low_level, output_stride, norm)
    if head == "bilinear":
        logits = _bilinear_head(x, image, num_classes, stride)
    elif subpixel == "kernels":
        logits = _kernels_head(x, fine, image, num_classes, stride, norm)
    else:
        logits = Subpixel(num_classes, stride, subpixel_start, dtype="float32", name=HEAD)([x, image])
    return keras.Model(image, logits, name="deeplab_v3_plus")
