"""Depthwise convolution, with an implementation of its own for JAX on a CPU.

There XLA has no kernels for it: it convolves one channel after the other, and for the gradient of the weights every
channel with every other, to keep only the diagonal. Here the shifted maps are multiplied by their weights and added
up, which XLA does in one pass; a training step of DeepLabV3+ takes less than half the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("deeplab")
class DepthwiseConv2D(layers.DepthwiseConv2D):
    """Keras's depthwise convolution, without bias; the values are the same up to rounding.

    The class has the same name as Keras's because arrays in Keras files are named after the classes of their layers.
    """

    def call(self, inputs: Any) -> Any:
        if not _is_jax_on_cpu():
            return super().call(inputs)
        if self.padding == "same":
            windows = self.kernel_size, self.strides, self.dilation_rate
            inputs = ops.pad(inputs, ((0, 0), *map(_same, inputs.shape[1:3], *windows), (0, 0)))
        return depthwise_conv(inputs, self.kernel[..., 0], self.strides, self.dilation_rate)


def _same(size: int, side: int, stride: int, rate: int) -> tuple[int, int]:
    """The zeros before and after an axis of `size` cells that make ceil(size / stride) windows, as Keras pads."""
    total = max((-(-size // stride) - 1) * stride + rate * (side - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def _is_jax_on_cpu() -> bool:
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() == "cpu"


def depthwise_conv(x: Any, kernel: Any, strides: Sequence[int], rates: Sequence[int]) -> Any:
    """Depthwise convolution without padding, of JAX arrays.

    The gradients are written out because JAX's own would keep, of all layers at once, a shifted map for every tap of
    the kernel.

    Args:
      x: float [B, H, W, C].
      kernel: [rows, columns, C].
      strides: (vertical, horizontal).
      rates: atrous rates, (vertical, horizontal).

    Returns:
      [B, rows of windows, columns of windows, C], of the dtype of `x`; summed in float32.
    """
    import jax
    import jax.numpy as jnp

    @jax.custom_gradient
    def convolve(x: Any, kernel: Any) -> Any:
        def gradients(cotangents: Any) -> tuple[Any, Any]:
            padding = []
            for axis in (0, 1):
                margin = _margin(kernel, rates, axis)
                end = x.shape[axis + 1] - 1 - strides[axis] * (cotangents.shape[axis + 1] - 1)
                padding.append((margin, end, strides[axis] - 1))
            dilated = jax.lax.pad(cotangents, cotangents.dtype.type(0), ((0, 0, 0), *padding, (0, 0, 0)))

            def of_tap(tap: Any) -> Any:
                shifted = _shifted(x, kernel, *jnp.divmod(tap, kernel.shape[1]), strides, rates)
                return jnp.sum(shifted.astype("float32") * cotangents, (1, 2))

            # The sum over the batch, which devices share, comes last and once for all taps.
            of_kernel = jax.lax.map(of_tap, jnp.arange(kernel.shape[0] * kernel.shape[1])).sum(1)
            return _convolve(dilated, kernel[::-1, ::-1], (1, 1), rates), of_kernel.reshape(kernel.shape)

        return _convolve(x, kernel, strides, rates), gradients

    return convolve(x, jnp.asarray(kernel, "float32"))


def _margin(kernel: Any, rates: Sequence[int], axis: int) -> int:
    """The cells by which an unpadded convolution shrinks a map along an axis, 0 or 1."""
    return rates[axis] * (kernel.shape[axis] - 1)


def _shifted(x: Any, kernel: Any, row: Any, column: Any, strides: Sequence[int], rates: Sequence[int]) -> Any:
    """The values under one tap of the kernel, in all windows."""
    from jax import lax

    batch, height, width, channels = x.shape
    size = batch, height - _margin(kernel, rates, 0), width - _margin(kernel, rates, 1), channels
    return lax.dynamic_slice(x, (0, row * rates[0], column * rates[1], 0), size)[:, :: strides[0], :: strides[1]]


def _convolve(x: Any, kernel: Any, strides: Sequence[int], rates: Sequence[int]) -> Any:
    """The convolution, summed in float32 whatever the dtype of `x`, as convolutions do."""
    rows, columns, _ = kernel.shape
    products = [_shifted(x, kernel, i, j, strides, rates) * kernel[i, j] for i in range(rows) for j in range(columns)]
    return sum(products).astype(x.dtype)
