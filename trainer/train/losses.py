"""The losses of the training: the weighted cross-entropy, alone or with the Lovász softmax."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def _devices() -> int:
    """The number of devices that share the batch, each computing a loss."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _over_devices(weight: Any) -> Any:
    """The sum of `weight` over all devices."""
    import tensorflow as tf

    # Keras also calls the loss once outside of any device, to infer its shape.
    devices = tf.distribute.get_replica_context()
    if devices is None or devices.num_replicas_in_sync == 1:
        return weight
    return devices.all_reduce(tf.distribute.ReduceOp.SUM, weight)


def lovasz_softmax(labels: Any, probabilities: Any, ignore_id: int) -> Any:
    """The Lovász-softmax loss (Berman et al., arXiv:1705.08790), averaged over the classes present.

    It is the convex extension of 1 - IoU to probabilities other than 0 and 1, so its gradients improve the score
    itself, for small classes as well as large ones.

    Args:
      labels: int [B, H, W], class ids and `ignore_id`; the whole batch is treated as one image.
      probabilities: float [B, H, W, C], the softmax.
      ignore_id: the label of pixels that do not count.

    Returns:
      A scalar in [0, 1]; 0 if no pixel has a class.
    """
    classes = probabilities.shape[-1]
    labels = ops.reshape(ops.cast(labels, "int32"), [-1])
    valid = ops.cast(ops.not_equal(labels, ignore_id), "float32")
    truth = ops.cast(ops.equal(ops.arange(classes)[:, None], labels), "float32") * valid
    errors = ops.abs(truth - ops.transpose(ops.reshape(probabilities, [-1, classes]))) * valid
    # In descending order of error. Ignored pixels, whose error is 0, come last and contribute nothing.
    order = ops.argsort(ops.stop_gradient(-errors), axis=-1)
    errors, truth = ops.take_along_axis(errors, order, axis=-1), ops.take_along_axis(truth, order, axis=-1)
    count = ops.sum(truth, axis=-1, keepdims=True)
    # For each pixel, 1 - IoU if all pixels up to it are wrong, and the increase at that pixel.
    loss = 1 - (count - ops.cumsum(truth, axis=-1)) / ops.maximum(count + ops.cumsum(1 - truth, axis=-1), 1)
    increase = ops.concatenate([loss[:, :1], loss[:, 1:] - loss[:, :-1]], axis=-1)
    present = ops.cast(count[:, 0] > 0, "float32")
    return ops.divide_no_nan(ops.sum(ops.sum(errors * increase, axis=-1) * present), ops.sum(present))


class _WithLovasz(keras.losses.Loss):
    def __init__(self, cross_entropy: keras.losses.Loss, ignore_id: int, weight: float) -> None:
        super().__init__(name="cross_entropy_and_lovasz", reduction="sum")
        self.cross_entropy, self.ignore_id, self.weight = cross_entropy, ignore_id, weight

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        # One pixel of every 2 x 2, since sorting takes most of the time.
        labels, logits = y_true[:, 1::2, 1::2], y_pred[:, 1::2, 1::2]
        lovasz = lovasz_softmax(labels, ops.softmax(logits), self.ignore_id)
        return self.cross_entropy(y_true, y_pred, sample_weight) + self.weight * lovasz / _devices()


def training_loss(ignore_id: int, lovasz: float = 0.0) -> keras.losses.Loss:
    """`sparse_cross_entropy`, plus `lovasz` times `lovasz_softmax`.

    If there are several devices, each computes `lovasz_softmax` of its part of the batch; the loss is their mean.

    Args:
      ignore_id: the label of pixels that do not count.
      lovasz: the weight of `lovasz_softmax`, at least 0.
    """
    cross_entropy = sparse_cross_entropy(ignore_id)
    return _WithLovasz(cross_entropy, ignore_id, lovasz) if lovasz else cross_entropy


def batch_weight(labels: Any, weights: Any, ignore_id: int) -> Any:
    """The total weight of the pixels that have a class, over all devices: a float32 scalar.

    Args:
      labels: int [B, H, W], class ids and `ignore_id`.
      weights: float [B, H, W] of at least 0; None: 1 for every pixel.
      ignore_id: the label of pixels that do not count.
    """
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
        # Keras adds up the losses of all devices, so each divides by the weight of the whole batch.
        weight = batch_weight(y_true, sample_weight, self.ignore_id)
        return ops.divide_no_nan(self.weighted_sum(y_true, y_pred, sample_weight), weight)


def sparse_cross_entropy(ignore_id: int) -> keras.losses.Loss:
    """The weighted mean of the cross-entropy over the pixels that have a class.

    The loss takes labels, int [B, H, W], class ids and `ignore_id`; logits, float [B, H, W, C]; and optionally
    weights, float [B, H, W] of at least 0. It returns sum(w·ce) / sum(w) over all pixels of the batch whose label is
    not `ignore_id`, or 0 if the sum of their weights is 0. If there are several devices, each returns its part of the
    mean over the whole batch, so the result does not depend on the distribution of the batch.

    Args:
      ignore_id: the label of pixels that do not count.
    """
    return _SparseCrossEntropy(ignore_id)
