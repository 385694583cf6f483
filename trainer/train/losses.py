"""What training minimises."""

from __future__ import annotations

import keras


def sparse_cross_entropy(ignore_id: int) -> keras.losses.Loss:
    """Weighted mean of the cross-entropy over the pixels that have a class.

    The loss takes labels [B, H, W] (class ids and `ignore_id`, integers), logits [B, H, W, C] and optionally weights
    [B, H, W] >= 0, and gives sum(w·ce) / sum(w) over all pixels of the batch whose label is not `ignore_id`; 0 where
    no pixel is left, or all of them weigh nothing. It does not depend on how ignored pixels are spread over the batch.
    """
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=ignore_id, reduction="mean_with_sample_weight", name="sparse_cross_entropy"
    )
