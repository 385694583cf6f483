"""What training minimises."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def _devices() -> int:
    """How many devices share the batch, each with a loss of its own."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _over_devices(weight: Any) -> Any:
    """The sum over all devices: Keras adds up what they give, so that each gives its share of the mean over them."""
    import tensorflow as tf

    # Keras also asks for the loss once outside of them, to see its shape.
    devices = tf.distribute.get_replica_context()
    if devices is None or devices.num_replicas_in_sync == 1:
        return weight
    return devices.all_reduce(tf.distribute.ReduceOp.SUM, weight)


def lovasz_softmax(labels: Any, probabilities: Any, ignore_id: int) -> Any:
    """The Lovász extension of 1 - IoU, mean over the classes that are there (Berman et al., arXiv:1705.08790).

    Of probabilities that are all 0 or 1 it is 1 - IoU, and between those the convex function nearest to it, so that
    gradients lower what the score counts, of small classes as of large ones.

    Args:
      labels: [B, H, W] class ids and `ignore_id`; taken as the pixels of one image.
      probabilities: [B, H, W, C] float, the softmax.
      ignore_id: of pixels that count for nothing.

    Returns:
      A number from 0 to 1; 0 where no pixel has a class.
    """
    classes = probabilities.shape[-1]
    labels = ops.reshape(ops.cast(labels, "int32"), [-1])
    valid = ops.cast(ops.not_equal(labels, ignore_id), "float32")
    truth = ops.cast(ops.equal(ops.arange(classes)[:, None], labels), "float32") * valid
    errors = ops.abs(truth - ops.transpose(ops.reshape(probabilities, [-1, classes]))) * valid
    # By falling error: without any, ignored pixels come last, where what they weigh does not matter.
    order = ops.argsort(ops.stop_gradient(-errors), axis=-1)
    errors, truth = ops.take_along_axis(errors, order, axis=-1), ops.take_along_axis(truth, order, axis=-1)
    count = ops.sum(truth, axis=-1, keepdims=True)
    # 1 - IoU when the pixels up to here are wrong, and what each of them adds to it.
    loss = 1 - (count - ops.cumsum(truth, axis=-1)) / ops.maximum(count + ops.cumsum(1 - truth, axis=-1), 1)
    added = ops.concatenate([loss[:, :1], loss[:, 1:] - loss[:, :-1]], axis=-1)
    present = ops.cast(count[:, 0] > 0, "float32")
    return ops.divide_no_nan(ops.sum(ops.sum(errors * added, axis=-1) * present), ops.sum(present))


class _WithLovasz(keras.losses.Loss):
    def __init__(self, cross_entropy: keras.losses.Loss, ignore_id: int, weight: float) -> None:
        super().__init__(name="cross_entropy_and_lovasz", reduction="sum")
        self.cross_entropy, self.ignore_id, self.weight = cross_entropy, ignore_id, weight

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        # One pixel of every 2 x 2, so that there is a quarter to sort.
        labels, logits = y_true[:, 1::2, 1::2], y_pred[:, 1::2, 1::2]
        lovasz = lovasz_softmax(labels, ops.softmax(logits), self.ignore_id)
        return self.cross_entropy(y_true, y_pred, sample_weight) + self.weight * lovasz / _devices()


def training_loss(ignore_id: int, lovasz: float = 0.0) -> keras.losses.Loss:
    """`sparse_cross_entropy` and `lovasz` times `lovasz_softmax`, of which devices take the mean over their own."""
    cross_entropy = sparse_cross_entropy(ignore_id)
    return _WithLovasz(cross_entropy, ignore_id, lovasz) if lovasz else cross_entropy


def batch_weight(labels: Any, weights: Any, ignore_id: int) -> Any:
    """The sum of the weights [B, H, W], 1 where they are None, of all pixels that have a class, over all devices."""
    valid = ops.cast(ops.not_equal(labels, ignore_id), "float32")
    weight = ops.sum(valid if weights is None else valid * ops.cast(weights, "float32"))
    return _over_devices(weight) if keras.backend.backend() == "tensorflow" else weight


class _SparseCrossEntropy(keras.losses.Loss):
    def __init__(self, ignore_id: int) -> None:
        super().__init__(name="sparse_cross_entropy", reduction="sum")
        self.ignore_id = ignore_id
        self.weighted_sum = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=ignore_id, reduction="sum"
        )

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        weight = batch_weight(y_true, sample_weight, self.ignore_id)
        return ops.divide_no_nan(self.weighted_sum(y_true, y_pred, sample_weight), weight)


def sparse_cross_entropy(ignore_id: int) -> keras.losses.Loss:
    """Weighted mean of the cross-entropy over the pixels that have a class.

    The loss takes labels [B, H, W] (class ids and `ignore_id`, integers), logits [B, H, W, C] and optionally weights
    [B, H, W] >= 0, and gives sum(w·ce) / sum(w) over all pixels of the batch whose label is not `ignore_id`; 0 where
    no pixel is left, or all of them weigh nothing. It does not depend on how ignored pixels are spread over the batch,
    nor on how the batch is spread over devices: each gives its part of the mean over the whole batch.
    """
    return _SparseCrossEntropy(ignore_id)
