"""Inference, from image to class ids and probabilities, as one TensorFlow function, the source of every format.

Shrinking is implemented by matrix products, since no resize operation gives the same values in two formats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from trainer.formats.exports import IDS, INPUT, OUTPUTS, PROBABILITIES
from trainer.formats.images import shrunk_size


def area_weights(cells: Any, pixels: Any) -> tf.Tensor:
    """[cells, pixels] float32: row i averages the pixels i·pixels/cells to (i + 1)·pixels/cells, covered by cell i."""
    # In units of 1 / (cells·pixels) of the side, everything is an integer.
    cell, pixel = tf.range(cells)[:, None], tf.range(pixels)[None, :]
    overlap = tf.minimum((cell + 1) * pixels, (pixel + 1) * cells) - tf.maximum(cell * pixels, pixel * cells)
    return tf.cast(tf.maximum(overlap, 0), tf.float32) / tf.cast(pixels, tf.float32)


def shrink(images: tf.Tensor, height: Any, width: Any) -> tf.Tensor:
    """[B, H, W, 3] uint8 to [B, height, width, 3] float32 (integral values); see `trainer.formats.images.shrink`."""
    batch, rows, columns = tf.unstack(tf.shape(images)[:3])
    x = tf.reshape(tf.cast(images, tf.float32), [batch, rows, columns * 3])
    x = tf.reshape(tf.matmul(area_weights(height, rows), x), [batch, height, columns, 3])
    return tf.round(tf.matmul(area_weights(width, columns), x))


def shrunk_side(side: tf.Tensor, longest: tf.Tensor, max_side: int) -> tf.Tensor:
    """One side of `trainer.formats.images.shrunk_size`, int32: round(side·max_side / longest), at least 1."""
    # In integers, since float32 could round values near a half either way. Halves are rounded to even.
    quotient, rest = side * max_side // longest, side * max_side % longest
    return tf.maximum(1, quotient + tf.cast(2 * rest + quotient % 2 > longest, tf.int32))


def _any_size(model: keras.Model, max_side: int, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores, whose argmax is the class, and probabilities of images, which are shrunk if they are large."""
    height, width = tf.unstack(tf.shape(images)[1:3])
    longest = tf.maximum(height, width)
    sides = [shrunk_side(side, longest, max_side) for side in (height, width)]
    is_large = longest > max_side
    x = tf.cond(is_large, lambda: shrink(images, *sides), lambda: tf.cast(images, tf.float32))
    x = tf.ensure_shape(x, [None, None, None, 3])
    softmax = tf.nn.softmax(model(x, training=False))
    probabilities = tf.cond(is_large, lambda: tf.image.resize(softmax, [height, width]), lambda: softmax)
    return probabilities, probabilities


def _one_size(model: keras.Model, max_side: int, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Like `_any_size`, for images of a known size, and for images that are never shrunk."""
    size = images.shape[1:3]
    shrunk = shrunk_size(*size, max_side) if size.is_fully_defined() else size
    if shrunk == size:
        logits = model(images, training=False)
        return logits, tf.nn.softmax(logits)
    probabilities = tf.image.resize(tf.nn.softmax(model(shrink(images, *shrunk), training=False)), size)
    return probabilities, probabilities


def frozen(model: keras.Model, max_side: int, size: tuple[int, int] | None = None) -> Any:
    """Inference as a TensorFlow function (a ConcreteFunction) without variables.

    Its graph contains no nested functions; its tensors are named INPUT and OUTPUTS.

    Args:
      model: a network from `deeplab_v3_plus`.
      max_side: longest side in pixels to which images are shrunk before the network (the probabilities are then
        enlarged to the size of the image); 0: never.
      size: (height, width) of one image; None: any number of any size.

    Returns:
      A function from images, uint8 [B, H, W, 3] RGB, to class ids, uint8 [B, H, W], and probabilities, float32
      [B, H, W, C].
    """
    shape = [None, None, None, 3] if size is None else [1, *size, 3]
    inside = _any_size if max_side and size is None else _one_size

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8, INPUT)])
    def whole(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        decisive, probabilities = inside(model, max_side, images)
        ids = tf.cast(tf.argmax(decisive, -1, tf.int32), tf.uint8)
        return tf.identity(ids, IDS), tf.identity(probabilities, PROBABILITIES)

    # Constants can be folded: batch norms are merged into the kernels before them.
    return convert_variables_to_constants_v2(whole.get_concrete_function())


def serving(function: Any) -> Callable[..., Any]:
    """A function from `frozen` as a tf.function from INPUT to a dictionary of OUTPUTS, as converters expect it."""

    @tf.function(input_signature=[tf.TensorSpec(function.inputs[0].shape, tf.uint8, INPUT)])
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(OUTPUTS, function(images), strict=True))

    return serve
