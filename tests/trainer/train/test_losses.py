"""The loss and its pixel weights, by numbers worked by hand."""

from __future__ import annotations

import functools
import math

import keras
import numpy as np
import pytest

from trainer import metrics
from trainer.train.losses import SparseCrossEntropy, TrainingLoss, lovasz_softmax, pixel_weights

# Softmax of these logits: class 0 has probability 3/4, class 1 has 1/4.
LOGITS = np.tile(np.array([math.log(3.0), 0.0], "float32"), (1, 2, 2, 1))
RIGHT, WRONG = math.log(4 / 3), math.log(4)


def test_mean_over_pixels_that_have_a_class():
    labels = np.array([[[0, 1], [255, 255]]], "uint8")
    assert float(SparseCrossEntropy(255)(labels, LOGITS)) == pytest.approx((RIGHT + WRONG) / 2)


def test_weights_of_ignored_pixels_do_not_dilute_the_mean():
    labels = np.array([[[0, 1], [255, 255]]], "uint8")
    weights = np.array([[[1.0, 3.0], [50.0, 50.0]]], "float32")
    assert float(SparseCrossEntropy(255)(labels, LOGITS, weights)) == pytest.approx((RIGHT + 3 * WRONG) / 4)


def test_ignore_id_just_behind_the_classes():
    labels = np.array([[[0, 0], [2, 2]]], "uint8")
    assert float(SparseCrossEntropy(2)(labels, LOGITS)) == pytest.approx(RIGHT)


def test_a_batch_with_only_ignored_pixels_has_zero_loss():
    labels = np.full((1, 2, 2), 255, "uint8")
    assert float(SparseCrossEntropy(255)(labels, LOGITS)) == 0.0
    assert float(SparseCrossEntropy(255)(labels, LOGITS, np.ones((1, 2, 2), "float32"))) == 0.0


def test_a_batch_whose_weights_are_all_zero_has_zero_loss():
    labels = np.zeros((1, 2, 2), "uint8")
    assert float(SparseCrossEntropy(255)(labels, LOGITS, np.zeros((1, 2, 2), "float32"))) == 0.0


def test_lovasz_of_certain_predictions_is_one_minus_the_iou_of_the_classes_that_are_there():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 255], size=(2, 9, 7)).astype("uint8")
    ids = rng.integers(0, 4, labels.shape)  # of class 3 there is none
    loss = float(lovasz_softmax(labels, np.eye(4, dtype="float32")[ids], 255))
    scores = metrics.scores(metrics.confusion(labels, ids.astype("uint8"), 4, 255), ("a", "b", "c", "d"))
    assert loss == pytest.approx(1 - np.mean([scores["per_class"][name] for name in "abc"]), abs=1e-6)


def test_lovasz_by_hand():
    # Errors of class 0: 0.25 where it is, 0.5 and 0.1 where it is not. Sorted 0.5, 0.25, 0.1, 1 - IoU grows to 1/2, 1,
    # 1. Class 1 is there at two pixels: errors 0.5, 0.25 (not of it), 0.1; 1 - IoU grows to 1/2, 2/3, 1.
    labels = np.array([[[0, 1, 1, 255]]], "uint8")
    probabilities = np.array([[[[0.75, 0.25], [0.5, 0.5], [0.1, 0.9], [0.3, 0.7]]]], "float32")
    of_0, of_1 = 0.5 * 0.5 + 0.25 * 0.5, 0.5 * 0.5 + 0.25 / 6 + 0.1 / 3
    assert float(lovasz_softmax(labels, probabilities, 255)) == pytest.approx((of_0 + of_1) / 2)


def test_lovasz_of_a_batch_with_only_ignored_pixels_is_zero():
    labels = np.full((1, 2, 2), 255, "uint8")
    assert float(lovasz_softmax(labels, keras.ops.softmax(LOGITS), 255)) == 0.0
    assert float(TrainingLoss(255, lovasz=2.0)(labels, LOGITS)) == 0.0


def test_the_training_loss_adds_lovasz_of_every_second_pixel_by_its_weight():
    labels = np.zeros((1, 4, 4), "uint8")
    labels[0, 1::2, 1::2] = [[0, 1], [255, 1]]
    logits = np.tile(LOGITS, (1, 2, 2, 1))
    expected = float(lovasz_softmax(labels[:, 1::2, 1::2], keras.ops.softmax(logits[:, 1::2, 1::2]), 255))
    assert expected > 0
    plain = float(TrainingLoss(255)(labels, logits))
    assert plain == float(SparseCrossEntropy(255)(labels, logits))
    assert float(TrainingLoss(255, lovasz=2.0)(labels, logits)) == pytest.approx(plain + 2 * expected)


def weights_of(*labels: np.ndarray, num_classes: int = 3, ignore_id: int = 255, max_ratio: float = 4.0) -> np.ndarray:
    return keras.ops.convert_to_numpy(pixel_weights(np.stack(labels), num_classes, ignore_id, max_ratio))


def test_pixel_weights_by_a_worked_example():
    """12 valid pixels: 9 of class 0, 2 of class 1, 1 of class 2, so N / (K n) = 4/9, 2 and 4.

    With max_ratio 4 they are clipped to 1/2, 2 and 2; their mean is (9 * 1/2 + 2 * 2 + 1 * 2) / 12 = 10.5 / 12.
    """
    label = np.array([[0, 0, 0, 0, 9], [0, 0, 0, 0, 9], [0, 1, 1, 2, 9]], np.uint8)
    (weights,) = weights_of(label, ignore_id=9)
    mean = 10.5 / 12
    expected = np.select([label == 0, label == 1, label == 2], [0.5 / mean, 2 / mean, 2 / mean], 0.0)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.dtype == np.float32 and weights[label != 9].mean() == pytest.approx(1)


def test_every_image_of_a_batch_has_pixel_weights_of_its_own():
    labels = [np.array([row], np.uint8) for row in ([0, 0, 0, 1], [2, 2, 255, 7], [1, 2, 0, 0])]
    found = weights_of(*labels)
    np.testing.assert_array_equal(found, np.concatenate([weights_of(label) for label in labels]))
    np.testing.assert_array_equal(found[1], [[1, 1, 0, 0]])


def test_pixel_weights_without_a_bound_give_every_class_the_same_share():
    label = np.array([[0, 0, 0, 0, 0, 0, 1, 2]], np.uint8)
    (weights,) = weights_of(label, max_ratio=1e6)
    sums = [weights[label == c].sum() for c in range(3)]
    np.testing.assert_allclose(sums, [8 / 3] * 3, rtol=1e-6)


@pytest.mark.parametrize("ignore_id", [1, 11, 255])
def test_pixel_weights_of_a_wholly_ignored_image_are_zero(ignore_id):
    (weights,) = weights_of(np.full([4, 4], ignore_id, np.uint8), num_classes=11, ignore_id=ignore_id)
    np.testing.assert_array_equal(weights, np.zeros([4, 4], np.float32))


def test_pixel_weights_differ_by_no_more_than_their_bound():
    label = np.zeros([100, 100], np.uint8)
    label[0, 0] = 1
    (weights,) = weights_of(label, num_classes=2, max_ratio=10.0)
    assert weights.max() / weights.min() <= 10.001
    assert weights[0, 0] > 1 > 0.99 * weights[1, 1]


def test_the_training_loss_weighs_pixels_by_their_labels():
    """Of three pixels two are of class 0, so the weights are 3/4, 3/4 and 3/2."""
    labels = np.array([[[0, 0], [1, 255]]], "uint8")
    weigh = functools.partial(pixel_weights, num_classes=2, ignore_id=255, max_ratio=10.0)
    expected = (0.75 * 2 * RIGHT + 1.5 * WRONG) / 3
    assert float(TrainingLoss(255, weigh)(labels, LOGITS)) == pytest.approx(expected)
    assert float(TrainingLoss(255)(labels, LOGITS)) == pytest.approx((2 * RIGHT + WRONG) / 3)
