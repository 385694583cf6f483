"""The Jaccard index as a streaming Keras metric."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.metrics import mean_iou


@keras.saving.register_keras_serializable("deeplab")
class Jaccard(keras.metrics.Metric):
    """Mean intersection over union from one confusion matrix over everything seen since the last reset.

    Updated with labels [B, H, W] (class ids and `ignore_id`) and logits [B, H, W, C]. Pixels labelled `ignore_id` are
    left out, and so are classes absent from truth and prediction. Sample weights are disregarded: the index is defined
    over pixels. Counts are pairs of int32 digits of base 2^24, so they stay exact where float32 would not count on.

    Args:
      num_classes: C.
      ignore_id: label of the pixels that count for nothing.
    """

    _BASE = 1 << 24

    def __init__(self, num_classes: int, ignore_id: int, name: str = "jaccard", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        self.ignore_id = ignore_id
        shape = (num_classes * num_classes,)
        self.low = self.add_variable(shape, initializer="zeros", dtype="int32", name="low")
        self.high = self.add_variable(shape, initializer="zeros", dtype="int32", name="high")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        guesses = ops.reshape(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), (-1,))
        pairs = self.num_classes * self.num_classes
        # Ignored pixels are counted in a place of their own behind the matrix.
        cell = ops.where(labels == self.ignore_id, pairs, labels * self.num_classes + guesses)
        # `ops.bincount` cannot be compiled under JAX.
        counts = ops.segment_sum(ops.ones_like(cell), cell, num_segments=pairs + 1)[:pairs]
        low = self.low + counts
        self.low.assign(low % self._BASE)
        self.high.assign(self.high + low // self._BASE)

    def confusion(self) -> np.ndarray:
        """int64 [num_classes, num_classes]: truth by prediction, pixels counted so far."""
        low, high = (ops.convert_to_numpy(variable).astype(np.int64) for variable in (self.low, self.high))
        return (high * self._BASE + low).reshape(self.num_classes, self.num_classes)

    def result(self) -> Any:
        """float32 scalar in [0, 1]; 0 before the first update."""
        counts = ops.cast(self.high, "float32") * self._BASE + ops.cast(self.low, "float32")
        counts = ops.reshape(counts, (self.num_classes, self.num_classes))
        hits = ops.diag(counts)
        union = ops.sum(counts, axis=0) + ops.sum(counts, axis=1) - hits
        present = ops.cast(union > 0, "float32")
        ious = hits / ops.maximum(union, 1.0)
        return ops.sum(ious * present) / ops.maximum(ops.sum(present), 1.0)

    def mean_iou(self) -> float:
        """The same in float64, from the exact counts."""
        return mean_iou(self.confusion())

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes, "ignore_id": self.ignore_id}
