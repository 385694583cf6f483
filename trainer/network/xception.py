"""The modified aligned Xception of DeepLabV3+ (arXiv:1802.02611, figure 4), with 41, 65 or 71 layers.

The network's layers are named after the published variables, see `trainer.network.layers`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from keras import layers

from trainer.network.layers import Features, Norm, conv, layer_name, separable
from trainer.network.strides import Stride

EPSILON = 1e-3

# (channels, stride) of every block of the entry flow, and the number of units of the middle flow.
_ENTRY = {
    41: ((128, 2), (256, 2), (728, 2)),
    65: ((128, 2), (256, 2), (728, 2)),
    71: ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)),
}
_MIDDLE = {41: 8, 65: 16, 71: 16}


def _xception_module(
    x: Any,
    scope: str,
    depths: tuple[int, int, int],
    *,
    skip: str,
    inner: bool,
    norm: Norm,
    step: dict[str, Any],
    grid: Sequence[int],
) -> tuple[Any, Any]:
    """Three separable convolutions, and a shortcut.

    Args:
      depths: output channels of each of the three.
      skip: the shortcut: "conv" (a strided 1x1 convolution), "sum" or "none".
      inner: whether ReLU follows both halves of each separable convolution, rather than preceding the whole.
      step: `strides`, `rate` and `on_blocks`; only the last convolution is strided.
      grid: factors on the atrous rates of the three.

    Returns:
      The output of the module, and that of its second convolution.
    """
    inputs, second = x, None
    for number, depth in enumerate(depths, start=1):
        part = f"{scope}/separable_conv{number}"
        if not inner:
            x = layers.Activation("relu", name=layer_name(f"{part}/relu"))(x)
        here = (step if number == 3 else {}) | {"rate": step["rate"] * grid[number - 1]}
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


def xception(
    x: Any,
    *,
    depth: int,
    output_stride: int,
    block_strides: Collection[int],
    multi_grid: Sequence[int] = (1, 1, 1),
    momentum: float,
) -> Features:
    """The features of Xception.

    Args:
      x: images, float [B, H, W, 3] in [-1, 1].
      depth: 41, 65 or 71.
      output_stride: 8, 16 or 32.
      block_strides: the strides whose cells are centred on blocks, see `trainer.network.layers`.
      multi_grid: factors on the atrous rates of the last three convolutions.
      momentum: momentum of the batch norms, see `layers.Norm`.

    Returns:
      Last features with 2048 channels, low-level ones with 256 at stride 4, fine ones with 64.
    """
    norm = Norm(momentum, EPSILON)
    stride = Stride(output_stride, block_strides)
    first = stride.step(2)
    root = f"xception_{depth}"
    x = conv(x, f"{root}/entry_flow/conv1_1", 32, norm=norm, kernel_size=3, strides=2, on_blocks=first["on_blocks"])
    x = conv(x, f"{root}/entry_flow/conv1_2", 64, norm=norm, kernel_size=3)
    low_level, fine = None, x
    # (scope, depths, skip, inner, stride, grid), see `_xception_module`.
    plain = (1, 1, 1)
    blocks = [
        (f"entry_flow/block{number}/unit_1", (channels,) * 3, "conv", False, step, plain)
        for number, (channels, step) in enumerate(_ENTRY[depth], start=1)
    ]
    blocks += [
        (f"middle_flow/block1/unit_{unit}", (728,) * 3, "sum", False, 1, plain)
        for unit in range(1, _MIDDLE[depth] + 1)
    ]
    blocks += [
        ("exit_flow/block1/unit_1", (728, 1024, 1024), "conv", False, 2, plain),
        ("exit_flow/block2/unit_1", (1536, 1536, 2048), "none", True, 1, tuple(multi_grid)),
    ]
    for part, depths, skip, inner, step, grid in blocks:
        scope, before = f"{root}/{part}/xception_module", stride.reached
        x, second = _xception_module(
            x, scope, depths, skip=skip, inner=inner, norm=norm, step=stride.step(step), grid=grid
        )
        if before == 4 and low_level is None and step == 2:
            low_level = second
    return Features(x, low_level, fine)
