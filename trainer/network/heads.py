"""The subpixel heads: layers from features to the logits of every pixel.

Their features are centred on blocks, see `trainer.network.layers`. The bilinear head needs no layer of its own: it is
a 1x1 convolution and `trainer.network.layers.Upsample`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from trainer.network.layers import interpolate


def pixel_shuffle(x: Any, factor: int) -> Any:
    """[B, H, W, factor²·C] -> [B, H·factor, W·factor, C]; input channels are ordered (row in block, column, class)."""
    batch, rows, columns, channels = ops.shape(x)
    classes = channels // factor**2
    x = ops.reshape(x, (batch, rows, columns, factor, factor, classes))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (batch, rows * factor, columns * factor, classes))


@keras.saving.register_keras_serializable("deeplab")
class PixelUnshuffle(layers.Layer):
    """The inverse of `pixel_shuffle`, with zeros beyond the bottom and right of the map.

    Takes [map [B, H, W, C], reference [B, ceil(H/factor), ceil(W/factor), any]] and returns [B, ceil(H/factor),
    ceil(W/factor), factor²·C].

    Args:
      factor: side of the blocks, in cells of the map.
    """

    def __init__(self, factor: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs: Any) -> Any:
        x, reference = inputs
        batch, height, width, channels = ops.shape(x)
        rows, columns = ops.shape(reference)[1:3]
        x = ops.pad(x, ((0, 0), (0, self.factor * rows - height), (0, self.factor * columns - width), (0, 0)))
        x = ops.reshape(x, (batch, rows, self.factor, columns, self.factor, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (batch, rows, columns, self.factor**2 * channels))

    def compute_output_shape(self, input_shape: Any) -> tuple:
        image, reference = input_shape
        return (*reference[:3], self.factor**2 * image[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("deeplab")
class Subpixel(layers.Layer):
    """1x1 convolution to classes·factor² channels and pixel shuffle, cropped at the bottom and right to a reference.

    Takes [features [B, ceil(H/factor), ceil(W/factor), C], reference [B, H, W, any]] and returns logits, float [B, H,
    W, classes]. Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", arXiv:1609.05158.

    The logits of each of the factor² places in a block are a sum: logits that all places share, from a kernel of the
    same shape as a bilinear head's, and a difference for that place, which starts at zero. So at initialisation the
    layer upsamples the shared logits:

    * "bilinear": by interpolation between the centres of the blocks; pixel y lies at cell (y + 0.5)/factor - 0.5.
    * "nearest": by repetition over the block, exact to the bit (ICNR, Aitken et al., arXiv:1707.02937). Copies of one
      kernel would not be exact: matrix products round differently from column to column.

    Args:
      classes: channels of the output.
      factor: pixels per feature, along each axis.
      start: one of `trainer.network.options.SUBPIXEL_STARTS`.
    """

    def __init__(self, classes: int, factor: int, start: str = "bilinear", **kwargs: Any):
        super().__init__(**kwargs)
        self.classes = classes
        self.factor = factor
        self.start = start

    def build(self, input_shape: Any) -> None:
        channels, width = input_shape[0][-1], self.classes * self.factor**2
        self.kernel = self.add_weight(shape=(1, 1, channels, self.classes), name="kernel")
        self.bias = self.add_weight(shape=(self.classes,), initializer="zeros", name="bias")
        self.place_kernel = self.add_weight(shape=(1, 1, channels, width), initializer="zeros", name="place_kernel")
        self.place_bias = self.add_weight(shape=(width,), initializer="zeros", name="place_bias")

    def call(self, inputs: Any, bordered: bool = False) -> Any:
        """The logits; `bordered` features have an additional cell on every side, used for interpolation only."""
        x, reference = inputs
        shared = ops.conv(x, self.kernel, padding="valid") + self.bias
        blocks = x[:, 1:-1, 1:-1] if bordered else x
        places = ops.conv(blocks, self.place_kernel, padding="valid") + self.place_bias
        if self.start == "bilinear":
            first = 0.5 / self.factor - 0.5 + bordered
            return interpolate(shared, reference, self.factor, first) + self._shuffle(places, reference)
        batch, rows, columns, channels = ops.shape(places)
        places = ops.reshape(places, (batch, rows, columns, self.factor**2, self.classes))
        places = ops.reshape(places + shared[:, :, :, None], (batch, rows, columns, channels))
        return self._shuffle(places, reference)

    def _shuffle(self, places: Any, reference: Any) -> Any:
        height, width = ops.shape(reference)[1:3]
        return pixel_shuffle(places, self.factor)[:, :height, :width]

    def compute_output_shape(self, input_shape: Any) -> tuple:
        features, reference = input_shape
        return (features[0], *reference[1:3], self.classes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "classes": self.classes, "factor": self.factor, "start": self.start}


KERNEL = 9
"""The number of cells that `SubpixelKernels` averages: 3x3."""
START_SHARE = 0.02
"""Added to every weight that the softmax of `SubpixelKernels` starts from."""


@keras.saving.register_keras_serializable("deeplab")
class SubpixelKernels(layers.Layer):
    """The logits of every pixel as a weighted mean of those of the 3x3 cells around it, with predicted weights.

    Takes [features [B, ceil(H/factor), ceil(W/factor), C], guide of the same size, reference [B, H, W, any]] and
    returns logits, float [B, H, W, classes]. A 1x1 convolution of the features predicts the logits of the cells.
    Another one, of the guide, and a softmax predict the KERNEL weights of each of the factor² places in a block. So a
    boundary can lie anywhere between the centres of two cells, where the guide shows it. Wang et al., "CARAFE:
    content-aware reassembly of features", arXiv:1905.02188; Teed and Deng, "RAFT", arXiv:2003.12039, section 3.3
    ("convex upsampling").

    It starts as bilinear interpolation between the centres of the blocks. A softmax cannot start from weights of 0, so
    START_SHARE is added to the weights it starts from, and what that changes is subtracted from its result.

    Args:
      classes: channels of the output.
      factor: pixels per feature, along each axis.
    """

    def __init__(self, classes: int, factor: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.classes = classes
        self.factor = factor

    def build(self, input_shape: Any) -> None:
        (*_, channels), (*_, guide), _ = input_shape
        width = KERNEL * self.factor**2
        self.kernel = self.add_weight(shape=(1, 1, channels, self.classes), name="kernel")
        self.bias = self.add_weight(shape=(self.classes,), initializer="zeros", name="bias")
        self.place_kernel = self.add_weight(shape=(1, 1, guide, width), initializer="zeros", name="place_kernel")
        self.place_bias = self.add_weight(shape=(width,), initializer="zeros", name="place_bias")

    def call(self, inputs: Any) -> Any:
        features, guide, reference = inputs
        return self.means(self.cells(features), guide, reference)

    def cells(self, features: Any) -> Any:
        """The logits of the cells, and on every side once more the outermost: [B, rows + 2, columns + 2, classes]."""
        cells = ops.conv(features, self.kernel, padding="valid") + self.bias
        return ops.pad(cells, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")

    def means(self, cells: Any, guide: Any, reference: Any) -> Any:
        """The logits of every pixel, from those of the cells and one more on every side."""
        weights = ops.conv(guide, self.place_kernel, padding="valid") + self.place_bias
        batch, rows, columns, _ = ops.shape(weights)
        weights = ops.reshape(weights, (batch, rows, columns, self.factor**2, KERNEL))
        bilinear = _bilinear_weights(self.factor)
        start = (bilinear + START_SHARE) / (1 + KERNEL * START_SHARE)
        weights = ops.add(ops.softmax(ops.add(weights, np.log(start))), bilinear - start)
        around = [cells[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
        places = ops.matmul(weights, ops.stack(around, axis=3))
        places = ops.reshape(places, (batch, rows, columns, self.factor**2 * self.classes))
        height, width = ops.shape(reference)[1:3]
        return pixel_shuffle(places, self.factor)[:, :height, :width]

    def compute_output_shape(self, input_shape: Any) -> tuple:
        features, _, reference = input_shape
        return (features[0], *reference[1:3], self.classes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "classes": self.classes, "factor": self.factor}


class Cells(layers.Layer):
    """The first half of a `SubpixelKernels`, with its variables: features to cells."""

    def __init__(self, head: SubpixelKernels):
        super().__init__(dtype=head.dtype_policy)
        self.head = head

    def call(self, features: Any) -> Any:
        return self.head.cells(features)


class Means(layers.Layer):
    """The second half of a `SubpixelKernels`, with its variables: [cells, guide, reference] to logits."""

    def __init__(self, head: SubpixelKernels):
        super().__init__(dtype=head.dtype_policy)
        self.head = head

    def call(self, inputs: Any) -> Any:
        return self.head.means(*inputs)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        cells, _, reference = input_shape
        return (cells[0], *reference[1:3], cells[-1])


def _bilinear_weights(factor: int) -> np.ndarray:
    """float32 [factor², KERNEL]: the weights of the 3x3 cells in bilinear interpolation, for each place in a block."""
    position = (np.arange(factor) + 0.5) / factor - 0.5
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.array([-1, 0, 1])))
    return np.einsum("ai,bj->abij", weights, weights).reshape(factor**2, 9).astype("float32")
