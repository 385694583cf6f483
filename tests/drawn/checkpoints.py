"""TensorFlow checkpoints under the names of the published ones, with values of no meaning."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf

ALPHA = 0.25
"""Width of the network of `mobilenet_variables`."""


def norm(scope: str, channels: int) -> dict[str, list[int]]:
    kinds = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"{scope}/BatchNorm/{kind}": [channels] for kind in kinds}


def conv(scope: str, size: int, inputs: int, outputs: int) -> dict[str, list[int]]:
    return {f"{scope}/weights": [size, size, inputs, outputs], **norm(scope, outputs)}


def depthwise(scope: str, channels: int) -> dict[str, list[int]]:
    return {f"{scope}/depthwise_weights": [3, 3, channels, 1], **norm(scope, channels)}


def separable(scope: str, inputs: int, outputs: int) -> dict[str, list[int]]:
    return {**depthwise(f"{scope}_depthwise", inputs), **conv(f"{scope}_pointwise", 1, inputs, outputs)}


def logits(classes: int) -> dict[str, list[int]]:
    return {"logits/semantic/weights": [1, 1, 256, classes], "logits/semantic/biases": [classes]}


def mobilenet_variables(classes: int, behind: str = "pooling") -> dict[str, list[int]]:
    """Names and shapes of a published MobileNetV2 checkpoint of depth multiplier 0.25, written out by hand.

    Args:
      behind: it "pooling" alone, as for VOC; that and the "decoder", as for ADE20K; or the "cell" and the decoder.
    """
    found = conv("MobilenetV2/Conv", 3, 3, 8)
    inputs = 8
    # Channels after each block; 24 · 0.25 = 6 is not rounded to 8.
    for block, outputs in enumerate([4, 6, 6, 8, 8, 8, 16, 16, 16, 16, 24, 24, 24, 40, 40, 40, 80]):
        scope = f"MobilenetV2/expanded_conv_{block}" if block else "MobilenetV2/expanded_conv"
        wide = {4: 24, 6: 40, 8: 48, 16: 96, 24: 144, 40: 240}[inputs] if block else inputs
        if block:
            found |= conv(f"{scope}/expand", 1, inputs, wide)
        found |= depthwise(f"{scope}/depthwise", wide) | conv(f"{scope}/project", 1, wide, outputs)
        inputs = outputs
    if behind == "cell":
        found |= cell(80)
    else:
        found |= conv("aspp0", 1, 80, 256) | conv("image_pooling", 1, 80, 256)
        found |= conv("concat_projection", 1, 512, 256)
    return found | (decoder(40) if behind != "pooling" else {}) | logits(classes)


def mobilenet_v3_small_variables(classes: int) -> dict[str, list[int]]:
    """Names and shapes of the published MobileNetV3-small checkpoint for Cityscapes, written out by hand."""
    biased = lambda scope, inputs, outputs: {f"{scope}/weights": [1, 1, inputs, outputs], f"{scope}/biases": [outputs]}
    found, inputs = conv("MobilenetV3/Conv", 3, 3, 16), 16
    # Kernel, expanded channels, channels, channels that are squeezed into.
    blocks = [(3, 16, 16, 8), (3, 72, 24, 0), (3, 88, 24, 0), (5, 96, 40, 24), (5, 240, 40, 64), (5, 240, 40, 64)]
    blocks += [(5, 120, 48, 32), (5, 144, 48, 40), (5, 144, 48, 40), (5, 288, 48, 72), (5, 288, 48, 72)]
    for number, (kernel, wide, outputs, squeezed) in enumerate(blocks):
        scope = f"MobilenetV3/expanded_conv_{number}" if number else "MobilenetV3/expanded_conv"
        if number:
            found |= conv(f"{scope}/expand", 1, inputs, wide)
        found |= depthwise(f"{scope}/depthwise", wide)
        found[f"{scope}/depthwise/depthwise_weights"] = [kernel, kernel, wide, 1]
        if squeezed:
            found |= biased(f"{scope}/squeeze_excite/Conv", wide, squeezed)
            found |= biased(f"{scope}/squeeze_excite/Conv_1", squeezed, wide)
        found |= conv(f"{scope}/project", 1, wide, outputs)
        inputs = outputs
    found |= conv("MobilenetV3/Conv_1", 1, 48, 288) | conv("aspp0", 1, 288, 128) | biased("image_pooling", 288, 128)
    found |= biased("decoder/decoder_conv0", 128, classes) | biased("decoder/feature_projection0", 88, classes)
    return found


ENTRY = {41: (128, 256, 728), 65: (128, 256, 728), 71: (128, 256, 256, 728, 728)}
"""Channels behind every block of the entry flow of the three Xceptions."""


def xception_variables(classes: int, depth: int = 65, is_cell: bool = False) -> dict[str, list[int]]:
    """Names and shapes of the published Xception checkpoints with decoder, written out by hand.

    Args:
      is_cell: whether the dense prediction cell takes the place of ASPP.
    """
    root = f"xception_{depth}"
    found = conv(f"{root}/entry_flow/conv1_1", 3, 3, 32) | conv(f"{root}/entry_flow/conv1_2", 3, 32, 64)
    before = (64, *ENTRY[depth])
    modules = [
        *((f"entry_flow/block{i}/unit_1", before[i - 1], (n,) * 3, True) for i, n in enumerate(ENTRY[depth], 1)),
        *((f"middle_flow/block1/unit_{unit}", 728, (728,) * 3, False) for unit in range(1, 9 if depth == 41 else 17)),
        ("exit_flow/block1/unit_1", 728, (728, 1024, 1024), True),
        ("exit_flow/block2/unit_1", 1024, (1536, 1536, 2048), False),
    ]
    for unit, inputs, depths, shortcut in modules:
        scope = f"{root}/{unit}/xception_module"
        if shortcut:
            found |= conv(f"{scope}/shortcut", 1, inputs, depths[-1])
        for number, depth in enumerate(depths, start=1):
            found |= separable(f"{scope}/separable_conv{number}", inputs, depth)
            inputs = depth
    return found | (cell(2048) | decoder(256) | logits(classes) if is_cell else _behind(classes))


def resnet_variables(classes: int, depth: int) -> dict[str, list[int]]:
    """Names and shapes of a ResNet "beta" with all of DeepLab behind it, written out by hand."""
    root = f"resnet_v1_{depth}"
    found = (
        conv(f"{root}/conv1_1", 3, 3, 64) | conv(f"{root}/conv1_2", 3, 64, 64) | conv(f"{root}/conv1_3", 3, 64, 128)
    )
    inputs = 128
    for block, units, inner in ((1, 3, 64), (2, 4, 128), (3, 6 if depth == 50 else 23, 256), (4, 3, 512)):
        for unit in range(1, units + 1):
            scope = f"{root}/block{block}/unit_{unit}/bottleneck_v1"
            if unit == 1:
                found |= conv(f"{scope}/shortcut", 1, inputs, 4 * inner)
            found |= conv(f"{scope}/conv1", 1, inputs, inner) | conv(f"{scope}/conv2", 3, inner, inner)
            found |= conv(f"{scope}/conv3", 1, inner, 4 * inner)
            inputs = 4 * inner
    return found | _behind(classes)


def _behind(classes: int) -> dict[str, list[int]]:
    """ASPP, decoder and logits behind 2048 channels."""
    found = conv("aspp0", 1, 2048, 256) | conv("image_pooling", 1, 2048, 256)
    for branch in (1, 2, 3):
        found |= separable(f"aspp{branch}", 2048, 256)
    return found | conv("concat_projection", 1, 1280, 256) | decoder(256) | logits(classes)


def cell(inputs: int) -> dict[str, list[int]]:
    """The dense prediction cell, of five branches."""
    found = separable("meta_architecture/branch0", inputs, 256)
    for branch in (1, 2, 3, 4):
        found |= separable(f"meta_architecture/branch{branch}", 256, 256)
    return found | conv("meta_architecture/concat_projection", 1, 1280, 256)


def decoder(low_level: int) -> dict[str, list[int]]:
    found = conv("decoder/feature_projection0", 1, low_level, 48)
    return found | separable("decoder/decoder_conv0", 304, 256) | separable("decoder/decoder_conv1", 256, 256)


def random_values(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Variables under which numbers neither vanish nor overflow, however deep the network is."""
    rng, values = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        values[name] = rng.random(shape, np.float32) + (0.5 if name.endswith(("gamma", "variance")) else -0.5)
        if name.endswith("weights"):
            inputs = np.prod(shape[:2] if name.endswith("depthwise_weights") else shape[:3])
            values[name] *= np.float32(5 / np.sqrt(inputs))
    return values


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A `trainer.weights.checkpoints.Source` without a file."""

    values: dict[str, np.ndarray]
    path: str = "drawn"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self.values.items()}

    def read(self, name: str) -> np.ndarray:
        return self.values[name]


def write_checkpoint(path: Path, shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Write variables of random values, with an optimizer's slot and a step as training leaves them."""
    values = random_values(shapes)
    extra = {"logits/semantic/biases/Momentum": np.zeros(3, np.float32), "global_step": np.int64(30000)}
    saved = {**values, **extra}
    tf.raw_ops.SaveV2(
        prefix=str(path), tensor_names=list(saved), shape_and_slices=[""] * len(saved), tensors=list(saved.values())
    )
    return values
