"""How sure a network was of an image: exact numbers for probabilities that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.masks import certainty
from pipelines.masks.certainty import Certainty, entropies, of_maps, of_probabilities

SOFTMAX = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.9, 0.1], [0.25, 0.75]]], np.float32)
REFINED = np.array([[[1.0, 0.0], [0.4, 0.6]], [[0.9, 0.1], [0.30, 0.70]]], np.float32)


def entropy(*probabilities: float) -> float:
    return -sum(p * math.log(p) for p in probabilities if p)


def test_entropies_are_in_nats_and_an_impossible_class_adds_nothing() -> None:
    expected = [[0, math.log(2)], [entropy(0.9, 0.1), entropy(0.25, 0.75)]]
    np.testing.assert_allclose(entropies(SOFTMAX), expected, atol=1e-6)


def test_an_image_larger_than_a_block_of_rows_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), (7, 3)).astype(np.float32)
    whole = entropies(probabilities)
    monkeypatch.setattr(certainty, "ROWS", 2)
    np.testing.assert_array_equal(entropies(probabilities), whole)


def test_the_numbers_are_means_over_pixels_and_the_share_of_those_with_another_class() -> None:
    mean = round((math.log(2) + entropy(0.9, 0.1) + entropy(0.25, 0.75)) / 4, 4)
    assert of_probabilities(SOFTMAX, None) == Certainty(0.7875, mean, None)
    assert of_probabilities(SOFTMAX, REFINED) == Certainty(0.7875, mean, 0.25)
    assert of_maps(SOFTMAX.max(-1), entropies(SOFTMAX)) == Certainty(0.7875, mean)


def test_equal_probabilities_are_the_least_certain() -> None:
    assert of_probabilities(np.full((3, 3, 4), 0.25, np.float32), None) == Certainty(0.25, round(math.log(4), 4))
