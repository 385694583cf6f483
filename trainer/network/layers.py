"""The layers of the network, written with `keras.ops` so that they run under every Keras backend.

Geometry. A strided 3x3 convolution is padded explicitly, so that for *every* input size n it gives ceil(n / 2) cells.
Its cells are centred in one of two ways:

* on pixels, padding (1, 1): cell i is centred at input 2i. This is what TensorFlow's SAME does on the odd sizes (513)
  that the published weights were trained with. Feature i of stride s then lies at pixel s·i, where `Upsample` puts it.
* on blocks, padding (0, 2): cell i is centred at input 2i + 1. This is used for one stage only, the one that brings
  the features to the stride s of the subpixel head. Feature i then lies at s·i + s/2, the middle of the block of s x s
  pixels that the head predicts from it.

Names. A layer is named after the published variable scope, with "-" for "/": Keras forbids "/", and PyTorch ".".
`MobilenetV2/expanded_conv_3/depthwise` is `MobilenetV2-expanded_conv_3-depthwise`. No published name contains "-", so
`published_name` is the inverse.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import layers, ops

from trainer.network.batch_norm import BatchNormalization
from trainer.network.depthwise import DepthwiseConv2D
from trainer.network.initializers import he_normal, truncated_normal

# Keras's settings file, keras.json, may ask for maps [B, C, H, W], which the layers here are not written for, or for
# float16 or float64, of which no flag would tell.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")


class Norm(NamedTuple):
    """The settings of batch norms.

    Attributes:
      momentum: share of the moving statistics that a training step keeps, in [0, 1).
      epsilon: constant added to the variance; as published, 1e-3 in MobileNet and Xception, else 1e-5.
    """

    momentum: float
    epsilon: float


class Features(NamedTuple):
    """The outputs of a backbone for images [B, H, W, 3].

    Attributes:
      last: the last features, [B, ceil(H/output_stride), ceil(W/output_stride), C].
      low_level: the features for the decoder, as published: of stride 4, or 8 for MobileNetV3.
      fine: the first features, of stride 2, which still show every edge of the image.
    """

    last: Any
    low_level: Any
    fine: Any


def layer_name(published: str) -> str:
    """The name of the layer with the published variable scope, e.g. "logits/semantic"."""
    return published.replace("/", "-")


def published_name(name: str) -> str:
    """The inverse of `layer_name`."""
    return name.replace("-", "/")


def replicas() -> int:
    """The number of copies of the model that share each batch: under TensorFlow one for every device, else one."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _normalise(x: Any, scope: str, norm: Norm, activation: str | None) -> Any:
    # Replicas must share their statistics: if one has a single image, the variance of its pooled 1x1 map is zero. On
    # one device, synchronising would merely round differently.
    x = BatchNormalization(
        momentum=norm.momentum,
        epsilon=norm.epsilon,
        synchronized=replicas() > 1,
        name=layer_name(f"{scope}/BatchNorm"),
    )(x)
    return layers.Activation(activation, name=layer_name(f"{scope}/{activation}"))(x) if activation else x


def pad(x: Any, scope: str, on_blocks: bool, kernel_size: int = 3) -> Any:
    """Pads [B, H, W, C] with zeros for an unpadded window of stride 2, see the module's docstring."""
    half = kernel_size // 2
    width = (half - on_blocks, half + on_blocks)
    return layers.ZeroPadding2D((width, width), name=layer_name(f"{scope}/pad"))(x)


@keras.saving.register_keras_serializable("deeplab")
class PadToEven(layers.Layer):
    """Pads [B, H, W, C] with zeros at the bottom and right to an even height and width.

    On maps of even size, windows of stride 2 that are padded as "same" are centred on blocks. So nothing is copied
    where nothing is missing: these are the largest maps of a network.
    """

    def call(self, x: Any) -> Any:
        height, width = ops.shape(x)[1:3]
        return ops.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))

    def compute_output_shape(self, input_shape: Any) -> tuple:
        batch, *sides, channels = input_shape
        return (batch, *(side if side is None else side + side % 2 for side in sides), channels)


def next_pixel(x: Any, scope: str) -> Any:
    """Shifts [B, H, W, C] by one, so that a stride of 2 takes rows and columns 1, 3, 5, ... instead of 0, 2, 4, ..."""
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name=layer_name(f"{scope}/pad"))(x)
    return layers.Cropping2D(((1, 0), (1, 0)), name=layer_name(f"{scope}/crop"))(x)


def conv(
    x: Any,
    scope: str,
    filters: int,
    *,
    norm: Norm,
    kernel_size: int = 1,
    strides: int = 1,
    rate: int = 1,
    activation: str | None = "relu",
    on_blocks: bool = False,
) -> Any:
    """Convolution without bias, batch norm, activation.

    Args:
      x: float [B, H, W, C].
      scope: the published variable scope, after which the layers are named.
      filters: output channels.
      norm: settings of the batch norm.
      kernel_size: 1 or 3.
      strides: 1 or 2.
      rate: atrous rate.
      activation: name of the Keras activation; None for none.
      on_blocks: whether strided cells are centred on blocks, see the module's docstring.

    Returns:
      [B, ceil(H/strides), ceil(W/strides), filters].
    """
    padding = "same"
    if strides > 1:
        padding = "valid"
        if kernel_size == 3:
            x = pad(x, scope, on_blocks)
        elif on_blocks:
            x = next_pixel(x, scope)
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        dilation_rate=rate,
        use_bias=False,
        kernel_initializer=he_normal(),
        name=layer_name(scope),
    )(x)
    return _normalise(x, scope, norm, activation)


def depthwise(
    x: Any,
    scope: str,
    *,
    norm: Norm,
    kernel_size: int = 3,
    strides: int = 1,
    rate: int | tuple[int, int] = 1,
    activation: str | None = "relu",
    on_blocks: bool = False,
) -> Any:
    """Depthwise convolution without bias, batch norm, activation: [B, H, W, C] -> [B, ceil(H/strides), .., C].

    Arguments are those of `conv`, but `rate` may also be (vertical, horizontal), and `kernel_size` any odd number.
    """
    if strides > 1:
        x = PadToEven(name=layer_name(f"{scope}/pad"))(x) if on_blocks else pad(x, scope, on_blocks, kernel_size)
    x = DepthwiseConv2D(
        kernel_size,
        strides=strides,
        padding="same" if strides == 1 or on_blocks else "valid",
        dilation_rate=rate,
        use_bias=False,
        # Keras's default counts the channels in the fan-in of a depthwise kernel, and would start it near zero. The
        # value is that of the published DeepLab.
        depthwise_initializer=truncated_normal(0.33),
        name=layer_name(scope),
    )(x)
    return _normalise(x, scope, norm, activation)


def separable(
    x: Any,
    scope: str,
    filters: int,
    *,
    norm: Norm,
    strides: int = 1,
    rate: int | tuple[int, int] = 1,
    activation: str | None = "relu",
    on_blocks: bool = False,
) -> Any:
    """Depthwise separable convolution: `depthwise`, then a 1x1 `conv`, each with its own batch norm as in DeepLab."""
    x = depthwise(
        x,
        f"{scope}_depthwise",
        norm=norm,
        strides=strides,
        rate=rate,
        activation=activation,
        on_blocks=on_blocks,
    )
    return conv(x, f"{scope}_pointwise", filters, norm=norm, activation=activation)


def _weights(size: Any, cells: Any, stride: int, first: float) -> Any:
    """float32 [size, cells]: row y holds the weights of the cells in linear interpolation at cell first + y / stride.

    Before the first and after the last cell, their values are repeated.
    """
    position = ops.cast(ops.arange(size), "float32") / stride + first
    position = ops.clip(position, 0.0, ops.cast(cells - 1, "float32"))
    return ops.relu(1.0 - ops.abs(position[:, None] - ops.cast(ops.arange(cells), "float32")))


def interpolate(x: Any, reference: Any, stride: int, first: float = 0.0) -> Any:
    """Bilinear interpolation to the size of a reference, as two small matrix products.

    Args:
      x: float [B, rows, columns, C].
      reference: [B, H, W, any], of which only the size matters.
      stride: pixels of the reference per cell.
      first: position of the first pixel, in cells: pixel y lies at first + y / stride.

    Returns:
      [B, H, W, C], of the dtype of `x`.
    """
    batch, rows, columns, channels = ops.shape(x)
    height, width = ops.shape(reference)[1:3]
    vertical = ops.cast(_weights(height, rows, stride, first), x.dtype)
    horizontal = ops.cast(_weights(width, columns, stride, first), x.dtype)
    # Columns first, while there are few rows: the product over rows then has wide right-hand sides, which is faster.
    x = ops.reshape(ops.matmul(horizontal, x), (batch, rows, width * channels))
    return ops.reshape(ops.matmul(vertical, x), (batch, height, width, channels))


@keras.saving.register_keras_serializable("deeplab")
class Upsample(layers.Layer):
    """Bilinear interpolation of features to the size of a reference.

    Takes [features [B, ceil(H/stride), ceil(W/stride), C], reference [B, H, W, any]] and returns [B, H, W, C].
    Feature i lies at row (column) stride·i. For sizes stride·k + 1 this is bilinear resizing with aligned corners, as
    in the published DeepLab; for other sizes the last feature is repeated up to the end of the image.

    Args:
      stride: pixels of the reference per feature.
    """

    def __init__(self, stride: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, inputs: Any) -> Any:
        return interpolate(*inputs, self.stride)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        features, reference = input_shape
        return (features[0], *reference[1:3], features[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stride": self.stride}


@keras.saving.register_keras_serializable("deeplab")
class BroadcastLike(layers.Layer):
    """Repeats a pooled vector over a map: [[B, 1, 1, C], reference [B, H, W, any]] -> [B, H, W, C]."""

    def call(self, inputs: Any) -> Any:
        x, reference = inputs
        return x + ops.cast(ops.zeros_like(reference[..., :1]), x.dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        pooled, reference = input_shape
        return (pooled[0], *reference[1:3], pooled[-1])


@keras.saving.register_keras_serializable("deeplab")
class WindowMeans(layers.Layer):
    """Average pooling, without padding: [B, H, W, C] -> [B, rows, columns, C].

    Args:
      window: side of the square windows, in cells; cut to the height and width of smaller maps.
      strides: cells between windows, (vertical, horizontal).
    """

    def __init__(self, window: int, strides: tuple[int, int], **kwargs: Any):
        super().__init__(**kwargs)
        self.window = window
        self.strides = tuple(strides)

    def call(self, x: Any) -> Any:
        vertical, horizontal = (
            _shares(size, self.window, stride) for size, stride in zip(ops.shape(x)[1:3], self.strides, strict=True)
        )
        x = ops.einsum("bhwc,rh->brwc", x, ops.cast(vertical, x.dtype))
        return ops.einsum("brwc,sw->brsc", x, ops.cast(horizontal, x.dtype))

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (input_shape[0], None, None, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "window": self.window, "strides": self.strides}


def _shares(size: Any, window: int, stride: int) -> Any:
    """float32 [windows, size]: row i holds the weights of the cells in the mean over window i."""
    # Under JAX sizes are Python numbers, and must remain so: shapes depend on them.
    window = min(window, size) if isinstance(size, int) else ops.minimum(window, size)
    first = ops.arange((size - window) // stride + 1)[:, None] * stride
    cells = ops.arange(size)
    return ops.cast((cells >= first) & (cells < first + window), "float32") / ops.cast(window, "float32")


@keras.saving.register_keras_serializable("deeplab")
class StretchLike(layers.Layer):
    """Bilinear resizing with aligned corners: [[B, h, w, C], reference [B, H, W, any]] -> [B, H, W, C]."""

    def call(self, inputs: Any) -> Any:
        x, reference = inputs
        for axis, name in ((1, "bhwc,rh->brwc"), (2, "bhwc,rw->bhrc")):
            cells, size = ops.cast(ops.shape(x)[axis], "float32"), ops.cast(ops.shape(reference)[axis], "float32")
            # A single row lies at the first cell.
            position = ops.arange(ops.shape(reference)[axis], dtype="float32") * (
                (cells - 1) / ops.maximum(size - 1, 1)
            )
            near = ops.abs(position[:, None] - ops.arange(ops.shape(x)[axis], dtype="float32"))
            x = ops.einsum(name, x, ops.cast(ops.relu(1.0 - near), x.dtype))
        return x

    def compute_output_shape(self, input_shape: Any) -> tuple:
        pooled, reference = input_shape
        return (pooled[0], *reference[1:3], pooled[-1])
