"""Inference: from images to predictions, tile by tile, under every Keras backend."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.network.deeplab import split

WHAT = ("ids", "best", "probabilities")
"""The kinds of predictions, see `predictor`."""

TILE_BYTES = {"CPU": 16 << 20, "GPU": 256 << 20}
"""Bounds on the bytes of logits in memory: a GPU needs more to be busy."""

TILE_SIDE = 640
"""Bound on the sides of tiles, in pixels, since the cost of interpolating a pixel grows with the side."""


def _even(length: int, most: int) -> int:
    """The length of the parts if `length` is cut into as few equal parts, of at most max(1, `most`), as possible."""
    return math.ceil(length / math.ceil(length / max(1, most)))


def _tiles(rows: int, columns: int, area: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Tiles that cover [rows, columns], with at most `area` cells and sides of at most `side`, but at least 1x1."""
    width = _even(columns, min(side, area))
    height = _even(rows, min(side, area // width))
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, top + height), slice(left, left + width)


def _outputs(logits: Any, what: str) -> Any:
    """The predictions of kind `what` for logits [B, H, W, C], see `predictor`."""
    if what == "ids":
        return ops.cast(ops.argmax(logits, axis=-1), "uint8")
    if what == "probabilities":
        return ops.softmax(logits, axis=-1)
    shifted = logits - ops.max(logits, axis=-1, keepdims=True)
    powers = ops.exp(shifted)
    total = ops.sum(powers, axis=-1)
    # With p = powers / total: max(p) = 1 / total, and the entropy is -sum(p log p).
    entropy = ops.log(total) - ops.sum(powers * shifted, axis=-1) / total
    return [ops.cast(ops.argmax(logits, axis=-1), "uint8"), 1 / total, entropy]


def _compiled(network: keras.Model, *dtypes: str) -> Callable[..., Any]:
    """Compiles a network for inference, into a function of arrays or of slices of another compiled network's outputs.

    Args:
      dtypes: the dtypes of its inputs.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        specs = [tf.TensorSpec(x.shape, dtype) for x, dtype in zip(network.inputs, dtypes, strict=True)]

        def traced(*inputs: Any) -> Any:
            return network(inputs if inputs[1:] else inputs[0], training=False)

        return tf.function(traced, input_signature=specs, autograph=False).get_concrete_function()
    lock = threading.Lock()
    if keras.backend.backend() == "jax":
        import jax

        @jax.jit
        def apply(trained: list[Any], others: list[Any], *inputs: Any) -> Any:
            return network.stateless_call(trained, others, inputs if inputs[1:] else inputs[0], training=False)[0]

        def call(*inputs: Any) -> Any:
            groups = (network.trainable_variables, network.non_trainable_variables)
            with lock:
                # Outputs stay on the device, for the next network.
                return apply(*([variable.value for variable in group] for group in groups), *inputs)

        return call

    def run(*inputs: np.ndarray) -> Any:
        with lock:
            return network.predict_on_batch(inputs if inputs[1:] else inputs[0])

    return run


def _forget_operations() -> None:
    """Frees the operations that TensorFlow has kept from making and reading variables, some 17 MiB for MobileNetV2.

    It keeps one, of some 36 KiB, for every variable that it makes, and for every shape that it reads or assigns.
    """
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.eager import context

        context.context().clear_kernel_cache()


def _tile_bytes() -> int:
    if keras.backend.backend() != "tensorflow":
        return TILE_BYTES["GPU"]  # other backends compile anew for every size of tile
    import tensorflow as tf

    return TILE_BYTES["GPU" if tf.config.list_logical_devices("GPU") else "CPU"]


def predictor(model: keras.Model, what: str = "ids") -> Callable[[np.ndarray], Any]:
    """Compiles a network into a thread-safe function from images to predictions.

    Under TensorFlow it is traced once for all sizes. Logits are computed tile by tile: only the features and the
    predictions are in memory for whole images.

    Args:
      model: a network from `deeplab_v3_plus`. `batch_norm.fold_norms` makes it faster on a CPU.
      what: one of WHAT.

    Returns:
      A function of images, uint8 [B, H, W, 3] RGB, that returns for "ids": uint8 [B, H, W], the class with the
      greatest logit; for "best": the same, its probability, float32 [B, H, W], and the entropy of the softmax in
      nats, float32 [B, H, W]; for "probabilities": the softmax, float32 [B, H, W, num_classes].
    """
    if what not in WHAT:
        raise ValueError(f"what must be one of {', '.join(WHAT)}, got {what!r}")
    # Not later: compiled functions are among the operations.
    _forget_operations()
    parts = split(model)
    network = _compiled(parts.features, "uint8")
    head = keras.Model(parts.head.inputs, _outputs(parts.head.output, what))
    decide = _compiled(head, *(x.dtype for x in parts.head.inputs))
    stride, tile_bytes = parts.stride, _tile_bytes()

    def predict(images: np.ndarray) -> Any:
        maps = network(images)
        maps = maps if parts.overlaps[1:] else [maps]
        batch, height, width, _ = images.shape
        cells = tile_bytes // (batch * stride**2 * parts.values * 4)
        results: list[np.ndarray] = []
        for rows, columns in _tiles(math.ceil(height / stride), math.ceil(width / stride), cells, TILE_SIDE // stride):
            inputs = [
                x[:, rows.start : rows.stop + overlap, columns.start : columns.stop + overlap]
                for x, overlap in zip(maps, parts.overlaps, strict=True)
            ]
            tile = tuple(slice(part.start * stride, part.stop * stride) for part in (rows, columns))
            values = decide(*inputs, images[(slice(None), *tile)])
            values = [np.asarray(value) for value in (values if what == "best" else [values])]
            if values[0].shape[1:3] == (height, width):
                results = values
                break
            if not results:
                results = [np.empty((batch, height, width, *value.shape[3:]), value.dtype) for value in values]
            for result, value in zip(results, values, strict=True):
                result[(slice(None), *tile)] = value
        return results[0] if len(results) == 1 else tuple(results)

    return predict
