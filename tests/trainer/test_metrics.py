"""Scores worked by hand, and what must not be imported for them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from trainer import metrics

LABEL = np.array([[0, 0, 1], [1, 255, 255]], np.uint8)
PREDICTION = np.array([[0, 1, 1], [1, 2, 0]], np.uint8)


def test_confusion_counts_truth_by_prediction_and_leaves_out_ignored_pixels():
    matrix = metrics.confusion(LABEL, PREDICTION, 3, 255)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 2, 0], [0, 0, 0]])


def test_scores_leave_absent_classes_out_of_the_mean():
    result = metrics.scores(metrics.confusion(LABEL, PREDICTION, 3, 255), ("a", "b", "c"))
    # a: 1 hit of 1 + 1 in the union; b: 2 hits of 3.
    assert result["per_class"] == {"a": 1 / 2, "b": 2 / 3, "c": None}
    assert result["miou"] == pytest.approx(7 / 12)
    assert result["pixel_accuracy"] == 3 / 4


def test_a_class_that_is_only_predicted_counts_as_zero():
    matrix = metrics.confusion(np.array([0, 0]), np.array([0, 1]), 2, 255)
    assert metrics.scores(matrix, ("a", "b"))["per_class"] == {"a": 0.5, "b": 0.0}


def test_nothing_counted_has_no_scores():
    result = metrics.scores(np.zeros((2, 2), np.int64), ("a", "b"))
    assert result == {"miou": None, "pixel_accuracy": None, "per_class": {"a": None, "b": None}}


def test_confusion_refuses_ids_outside_the_classes():
    with pytest.raises(ValueError, match="prediction has class ids 0 to 7"):
        metrics.confusion(np.array([0, 1]), np.array([0, 7]), 3, 255)
    with pytest.raises(ValueError, match="label has class ids 0 to 9"):
        metrics.confusion(np.array([0, 9]), np.array([0, 1]), 3, 255)
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.confusion(np.zeros((2, 3)), np.zeros((3, 2)), 3, 255)


def test_counts_of_several_images_add_up_to_those_of_their_sum():
    rng = np.random.default_rng(0)
    confusions = rng.integers(0, 50, (4, 9, 9))
    confusions[2, 3] = confusions[2, :, 3] = 0
    confusions[3] = 0
    counts = metrics.class_counts(confusions)
    assert counts.shape == (4, 3, 9)
    np.testing.assert_array_equal(metrics.class_counts(confusions.sum(0)), counts.sum(0))
    means = metrics.mean_iou(counts)
    assert metrics.iou(counts).shape == (4, 9) and means.shape == (4,) and np.isnan(means[3])
    for confusion, mean in zip(confusions[:3], means[:3], strict=True):
        assert metrics.scores(confusion, "abcdefghi")["miou"] == mean
    assert np.isnan(metrics.iou(counts)[2, 3])


def test_counts_are_hits_truth_and_prediction():
    counts = metrics.class_counts(np.array([[1, 1, 0], [0, 2, 0], [0, 0, 0]]))
    np.testing.assert_array_equal(counts, [[1, 2, 0], [2, 2, 0], [1, 3, 0]])
    np.testing.assert_array_equal(metrics.iou(counts), [1 / 2, 2 / 3, np.nan])
    assert metrics.mean_iou(counts) == (1 / 2 + 2 / 3) / 2


def test_a_confusion_matrix_in_place_of_counts_is_refused():
    with pytest.raises(ValueError, match=r"expected counts \[\.\.\., 3, C\].*got \[5, 5\]"):
        metrics.mean_iou(np.zeros((5, 5)))


def test_metrics_cards_palettes_and_records_import_neither_tensorflow_nor_keras():
    program = (
        "import sys, trainer.metrics\n"
        "from trainer.formats import cards, dataset, examples, frames, images, labels, palettes\n"
        "print([name for name in ('tensorflow', 'keras', 'jax', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
