"""The losses of the training: the cross-entropy, with weights of the pixels, alone or with the Lovász softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from trainer.network.layers import replicas

Weigh = Callable[[Any], Any]
"""A function from the labels of a batch, int [B, H, W], to the weights of its pixels, float32 [B, H, W]."""

IDS = 256
"""The number of ids that a label can have."""


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


def pixel_weights(labels: Any, num_classes: int, ignore_id: int, max_ratio: float) -> Any:
    """Adaptive pixel weights of each image: inverse class frequency, bounded.

    With N valid pixels, n_c of them of class c, and K classes present: w_c = N / (K n_c), the factor by which class c
    falls short of an equal share; clipped to [1 / sqrt(max_ratio), sqrt(max_ratio)], so that no class weighs more
    than `max_ratio` times another; divided by its mean over the valid pixels, so that weights do not change the
    learning rate.

    Args:
      labels: int [B, H, W], ids in [0, 255].
      num_classes: number of classes; ids from this number on are ignored, as `ignore_id` is.
      ignore_id: the id of pixels that do not count.
      max_ratio: at least 1; with 1, all valid pixels weigh the same.

    Returns:
      float32 [B, H, W] with mean 1 over the valid pixels of each image and 0 elsewhere; all 0 if no pixel is valid.
    """
    shape = ops.shape(labels)
    places = ops.cast(labels, "int32") + IDS * ops.reshape(ops.arange(shape[0]), [-1, 1, 1])
    places = ops.reshape(places, [-1])
    counts = ops.segment_sum(ops.ones_like(places, "float32"), places, num_segments=shape[0] * IDS)
    ids = ops.arange(IDS)
    is_class = ops.logical_and(ids < num_classes, ops.not_equal(ids, ignore_id))
    counts = ops.reshape(counts, [-1, IDS]) * ops.cast(is_class, "float32")
    present = ops.cast(counts > 0, "float32")
    valid, classes = (ops.sum(x, axis=-1, keepdims=True) for x in (counts, present))
    bound = max_ratio**0.5
    weights = present * ops.clip(ops.divide_no_nan(valid, classes * counts), 1 / bound, bound)
    weights *= ops.divide_no_nan(valid, ops.sum(weights * counts, axis=-1, keepdims=True))
    return ops.reshape(ops.take(ops.reshape(weights, [-1]), places), shape)


class TrainingLoss(keras.losses.Loss):
    """`SparseCrossEntropy`, with the weights that `weigh` gives, plus `lovasz` times `lovasz_softmax`.

    Weights are computed where the loss is, not by the stream of batches, which would have to bring them to the device.
    If there are several devices, each computes `lovasz_softmax` of its part of the batch; the loss is their mean.

    Args:
      ignore_id: the label of pixels that do not count.
      weigh: `pixel_weights`, given all but the labels; None: every pixel weighs 1.
      lovasz: the weight of `lovasz_softmax`, at least 0.
    """

    def __init__(self, ignore_id: int, weigh: Weigh | None = None, lovasz: float = 0.0) -> None:
        super().__init__(name="training_loss", reduction="sum")
        self.cross_entropy = SparseCrossEntropy(ignore_id)
        self.ignore_id, self.weigh, self.lovasz = ignore_id, weigh, lovasz

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        loss = self.cross_entropy(y_true, y_pred, self.weigh(y_true) if self.weigh else sample_weight)
        if not self.lovasz:
            return loss
        # One pixel of every 2 x 2, since sorting takes most of the time.
        labels, logits = y_true[:, 1::2, 1::2], y_pred[:, 1::2, 1::2]
        lovasz = lovasz_softmax(labels, ops.softmax(logits), self.ignore_id)
        return loss + self.lovasz * lovasz / replicas()  # each computes a loss


def batch_weight(labels: Any, ignore_id: int, weights: Any) -> Any:
    """The total weight of the pixels that have a class, over all devices: a float32 scalar.

    Args:
      labels: int [B, H, W], class ids and `ignore_id`.
      ignore_id: the label of pixels that do not count.
      weights: float [B, H, W] of at least 0; None: 1 for every pixel.
    """
    valid = ops.cast(ops.not_equal(labels, ignore_id), "float32")
    weight = ops.sum(valid if weights is None else valid * ops.cast(weights, "float32"))
    return _over_devices(weight) if keras.backend.backend() == "tensorflow" else weight


class SparseCrossEntropy(keras.losses.Loss):
    """The weighted mean of the cross-entropy over the pixels that have a class.

    The loss takes labels, int [B, H, W], class ids and `ignore_id`; logits, float [B, H, W, C]; and optionally
    weights, float [B, H, W] of at least 0. It returns sum(w·ce) / sum(w) over all pixels of the batch whose label is
    not `ignore_id`, or 0 if the sum of their weights is 0. If there are several devices, each returns its part of the
    mean over the whole batch, so the result does not depend on the distribution of the batch.

    Args:
      ignore_id: the label of pixels that do not count.
    """

    def __init__(self, ignore_id: int) -> None:
        super().__init__(name="sparse_cross_entropy", reduction="sum")
        self.ignore_id = ignore_id
        self.weighted_sum = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=ignore_id, reduction="sum"
        )

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        # Keras adds up the losses of all devices, so each divides by the weight of the whole batch.
        weight = batch_weight(y_true, self.ignore_id, sample_weight)
        return ops.divide_no_nan(self.weighted_sum(y_true, y_pred, sample_weight), weight)
