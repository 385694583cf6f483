"""What training minimises."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def _over_devices(weight: Any) -> Any:
    """The sum over all devices: Keras adds up what they give, so that each gives its share of the mean over them."""
    import tensorflow as tf

    # Keras also asks for the loss once outside of them, to see its shape.
    devices = tf.distribute.get_replica_context()
    if devices is None or devices.num_replicas_in_sync == 1:
        return weight
    return devices.all_reduce(tf.distribute.ReduceOp.SUM, weight)


class _SparseCrossEntropy(keras.losses.Loss):
    def __init__(self, ignore_id: int) -> None:
        super().__init__(name="sparse_cross_entropy", reduction="sum")
        self.ignore_id = ignore_id
        self.weighted_sum = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=ignore_id, reduction="sum"
        )

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        valid = ops.cast(ops.not_equal(y_true, self.ignore_id), "float32")
        weight = ops.sum(valid if sample_weight is None else valid * ops.cast(sample_weight, "float32"))
        if keras.backend.backend() == "tensorflow":
            weight = _over_devices(weight)
        return ops.divide_no_nan(self.weighted_sum(y_true, y_pred, sample_weight), weight)


def sparse_cross_entropy(ignore_id: int) -> keras.losses.Loss:
    """Weighted mean of the cross-entropy over the pixels that have a class.

    The loss takes labels [B, H, W] (class ids and `ignore_id`, integers), logits [B, H, W, C] and optionally weights
    [B, H, W] >= 0, and gives sum(w·ce) / sum(w) over all pixels of the batch whose label is not `ignore_id`; 0 where
    no pixel is left, or all of them weigh nothing. It does not depend on how ignored pixels are spread over the batch,
    nor on how the batch is spread over devices: each gives its part of the mean over the whole batch.
    """
    return _SparseCrossEntropy(ignore_id)
