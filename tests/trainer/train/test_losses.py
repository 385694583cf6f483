"""The loss, by numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.train.losses import sparse_cross_entropy

# Softmax of these logits: class 0 has probability 3/4, class 1 has 1/4.
LOGITS = np.tile(np.array([math.log(3.0), 0.0], "float32"), (1, 2, 2, 1))
RIGHT, WRONG = math.log(4 / 3), math.log(4)


def test_mean_over_pixels_that_have_a_class():
    labels = np.array([[[0, 1], [255, 255]]], "uint8")
    assert float(sparse_cross_entropy(255)(labels, LOGITS)) == pytest.approx((RIGHT + WRONG) / 2)


def test_weights_of_ignored_pixels_do_not_dilute_the_mean():
    labels = np.array([[[0, 1], [255, 255]]], "uint8")
    weights = np.array([[[1.0, 3.0], [50.0, 50.0]]], "float32")
    assert float(sparse_cross_entropy(255)(labels, LOGITS, weights)) == pytest.approx((RIGHT + 3 * WRONG) / 4)


def test_ignore_id_just_behind_the_classes():
    labels = np.array([[[0, 0], [2, 2]]], "uint8")
    assert float(sparse_cross_entropy(2)(labels, LOGITS)) == pytest.approx(RIGHT)


def test_a_batch_of_nothing_but_void_costs_nothing():
    labels = np.full((1, 2, 2), 255, "uint8")
    assert float(sparse_cross_entropy(255)(labels, LOGITS)) == 0.0
    assert float(sparse_cross_entropy(255)(labels, LOGITS, np.ones((1, 2, 2), "float32"))) == 0.0


def test_all_weights_zero_cost_nothing():
    labels = np.zeros((1, 2, 2), "uint8")
    assert float(sparse_cross_entropy(255)(labels, LOGITS, np.zeros((1, 2, 2), "float32"))) == 0.0
