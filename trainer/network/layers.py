"""The layers the network is made of, written with ``keras.ops`` so that they run under every Keras backend.

Geometry. A strided 3x3 convolution pads explicitly and without padding of its own, so that for *every* size n it gives
ceil(n / 2) cells:

* `centred` on pixels, padding (1, 1): cell i lies at input 2i. This is what TensorFlow's SAME does on the odd sizes
  (513) the published weights were trained with. Feature i of stride s then lies at pixel s·i, and `Upsample` puts it
  back there.
* centred on blocks, padding (0, 2): cell i lies at input 2i + 1. Used for exactly one stage, the one that brings the
  features to the stride at which the subpixel head works, so that feature i lies at s·i + s/2, the middle of the block
  of s x s pixels that the head fills from it.

Names. Keras forbids "/" in names and PyTorch forbids ".", so a layer is named like the published variable scope with
"-" for "/": `MobilenetV2/expanded_conv_3/depthwise` is `MobilenetV2-expanded_conv_3-depthwise`. No published name
contains "-", so `published_name` turns it back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import initializers, layers, ops

from trainer.network.depthwise import DepthwiseConv2D


class Norm(NamedTuple):
    """Settings of batch normalisation.

    Attributes:
      momentum: share of the moving statistics that one step keeps, in [0, 1).
      epsilon: added to the variance; 1e-3 in the published backbones, 1e-5 in ASPP and decoder.
    """

    momentum: float
    epsilon: float


class Features(NamedTuple):
    """What a backbone gives for images [B, H, W, 3].

    Attributes:
      last: its last features, [B, ceil(H/output_stride), ceil(W/output_stride), C].
      low_level: what it has published for the decoder, of stride 4, of MobileNetV3 8.
      fine: its first features, of stride 2, which still have every edge of the image.
    """

    last: Any
    low_level: Any
    fine: Any


def layer_name(published: str) -> str:
    """The layer's name for the variable scope `published`, e.g. "logits/semantic"."""
    return published.replace("/", "-")


def published_name(name: str) -> str:
    """The inverse of `layer_name`."""
    return name.replace("-", "/")


def _has_replicas() -> bool:
    """Whether the model being built is trained on several devices at once; only TensorFlow can say so."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync > 1


@keras.saving.register_keras_serializable("deeplab")
class BatchNormalization(layers.BatchNormalization):
    """Keras' batch normalisation, whose training step is one of TensorFlow's kernels where there is one.

    Keras writes it as a dozen operations, each of which goes through the whole map: a training step of DeepLabV3+ on a
    CPU takes 1.5 times as long with them. The values are the same up to rounding. The class bears Keras' name because
    the arrays in a Keras file are named by it.

    Attributes:
      folded: whether all but its offset has gone into the convolution before it, see `fold_norms`.
    """

    folded = False

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if self.folded:
            return ops.add(inputs, self.beta)
        learning = training and self.trainable
        if not learning or self.synchronized or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=self.gamma, offset=self.beta, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        # TensorFlow gives the unbiased estimate, n / (n - 1) times Keras' variance; of one value both are 0.
        count = tf.cast(tf.size(inputs, tf.int64) // inputs.shape[-1], variance.dtype)
        variance *= (count - 1) / count
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1 - self.momentum))
        return outputs


def fold_norms(model: keras.Model) -> None:
    """Moves what batch norms multiply by into the kernels of the convolutions before them, in place.

    Predictions are the same up to rounding, and take a fifth less time of a CPU with MobileNetV2. From then on the
    model can only predict: it must be neither trained nor saved.
    """
    for norm in model.layers:
        if not isinstance(norm, BatchNormalization) or norm.folded:
            continue
        convolution = model.get_layer(norm.name.removesuffix(layer_name("/BatchNorm")))
        gamma, beta, mean, variance = norm.get_weights()
        scale = gamma / np.sqrt(variance + norm.epsilon)
        kernel = convolution.kernel
        # A depthwise kernel has its channels on the axis before the last.
        per_kernel = scale[:, None] if isinstance(convolution, DepthwiseConv2D) else scale
        kernel.assign(ops.convert_to_numpy(kernel) * per_kernel)
        norm.beta.assign(beta - mean * scale)
        norm.folded = True


def _normalise(x: Any, scope: str, norm: Norm, activation: str | None) -> Any:
    # Replicas share their statistics: the pooled map of an image is 1x1, and the variance of one value is zero. On a
    # single device Keras' sums for that would only round differently.
    x = BatchNormalization(
        momentum=norm.momentum,
        epsilon=norm.epsilon,
        synchronized=_has_replicas(),
        name=layer_name(f"{scope}/BatchNorm"),
    )(x)
    return layers.Activation(activation, name=layer_name(f"{scope}/{activation}"))(x) if activation else x


def pad(x: Any, scope: str, on_blocks: bool, kernel_size: int = 3) -> Any:
    """Zeros around [B, H, W, C] for a window of stride 2 without padding of its own, see the module's docstring."""
    half = kernel_size // 2
    width = (half - on_blocks, half + on_blocks)
    return layers.ZeroPadding2D((width, width), name=layer_name(f"{scope}/pad"))(x)


def next_pixel(x: Any, scope: str) -> Any:
    """[B, H, W, C] moved by one, so that a stride of 2 takes rows and columns 1, 3, 5, ... and not 0, 2, 4, ..."""
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
    """Convolution without bias, batch normalisation, activation; [B, H, W, C] -> [B, ceil(H/strides), .., filters].

    Args:
      scope: the published variable scope, which names the layers.
      kernel_size: 1 or 3.
      rate: the atrous rate.
      on_blocks: where strided cells are centred, see the module's docstring.
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
        kernel_initializer="he_normal",
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
    """Depthwise convolution without bias, batch normalisation, activation; `rate` is atrous, of both axes or each."""
    if strides > 1:
        x = pad(x, scope, on_blocks, kernel_size)
    x = DepthwiseConv2D(
        kernel_size,
        strides=strides,
        padding="same" if strides == 1 else "valid",
        dilation_rate=rate,
        use_bias=False,
        # Keras counts the channels into the fan-in of a depthwise kernel, which would start it near zero. The
        # value is DeepLab's.
        depthwise_initializer=initializers.TruncatedNormal(stddev=0.33),
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
    """`depthwise` and then a 1x1 `conv`, each with its own batch normalisation, as DeepLab splits them."""
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
    """[size, cells] float32: row y holds the bilinear weights of the cells around first + y / stride, in cells."""
    position = ops.cast(ops.arange(size), "float32") / stride + first
    # Past the first and the last cell their values stay: there is nothing to interpolate towards.
    position = ops.clip(position, 0.0, ops.cast(cells - 1, "float32"))
    return ops.relu(1.0 - ops.abs(position[:, None] - ops.cast(ops.arange(cells), "float32")))


def interpolate(x: Any, reference: Any, stride: int, first: float = 0.0) -> Any:
    """Bilinear interpolation to the size of a reference: two small matrix products.

    Args:
      x: [B, rows, columns, C].
      reference: [B, H, W, any].
      stride: of the cells against the pixels of the reference.
      first: where the first pixel lies, in cells: pixel y lies at first + y / stride.

    Returns:
      [B, H, W, C].
    """
    batch, rows, columns, channels = ops.shape(x)
    height, width = ops.shape(reference)[1:3]
    vertical = ops.cast(_weights(height, rows, stride, first), x.dtype)
    horizontal = ops.cast(_weights(width, columns, stride, first), x.dtype)
    # Columns first, while rows are few: the product over rows has wide right sides, which suit processors better.
    x = ops.reshape(ops.matmul(horizontal, x), (batch, rows, width * channels))
    return ops.reshape(ops.matmul(vertical, x), (batch, height, width, channels))


@keras.saving.register_keras_serializable("deeplab")
class Upsample(layers.Layer):
    """Bilinear interpolation of features at any stride to the size of a reference.

    Called with [features [B, ceil(H/stride), ceil(W/stride), C], reference [B, H, W, any]], gives [B, H, W, C].
    Feature i lies at row (column) stride·i. For sizes stride·k + 1 this is bilinear resizing with aligned corners, as
    in the published DeepLab; for other sizes the last feature is extended to the end of the image.

    Args:
      stride: of the features against the reference.
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
    """Spread a pooled vector over a map: [[B, 1, 1, C], reference [B, H, W, any]] -> [B, H, W, C]."""

    def call(self, inputs: Any) -> Any:
        x, reference = inputs
        return x + ops.cast(ops.zeros_like(reference[..., :1]), x.dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        pooled, reference = input_shape
        return (pooled[0], *reference[1:3], pooled[-1])


@keras.saving.register_keras_serializable("deeplab")
class WindowMeans(layers.Layer):
    """Means over windows that lie on a grid: [B, H, W, C] -> [B, rows, columns, C].

    Args:
      window: side of the square windows, in cells; a smaller map is one window.
      strides: cells from window to window, vertically and horizontally; none reaches beyond the map.
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
    """[windows, size] float32: row i holds the share that every cell has in the mean of window i."""
    # Under JAX sizes are numbers, and have to stay so.
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
            # One row alone lies at the first cell.
            position = ops.arange(ops.shape(reference)[axis], dtype="float32") * (
                (cells - 1) / ops.maximum(size - 1, 1)
            )
            near = ops.abs(position[:, None] - ops.arange(ops.shape(x)[axis], dtype="float32"))
            x = ops.einsum(name, x, ops.cast(ops.relu(1.0 - near), x.dtype))
        return x

    def compute_output_shape(self, input_shape: Any) -> tuple:
        pooled, reference = input_shape
        return (pooled[0], *reference[1:3], pooled[-1])
