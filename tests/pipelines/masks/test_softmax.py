"""What a softmax says of its pixels, against the same in words of NumPy, and known numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.masks import softmax
from pipelines.masks.softmax import maps, most_probable

SOFTMAX = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.9, 0.1], [0.25, 0.75]]], np.float32)


def entropy(*probabilities: float) -> float:
    return -sum(p * math.log(p) for p in probabilities if p)


def test_entropies_are_in_nats_and_an_impossible_class_adds_nothing() -> None:
    ids, best, entropies = maps(SOFTMAX)
    assert ids.tolist() == [[0, 0], [0, 1]] and best.tolist() == [[1, 0.5], [np.float32(0.9), 0.75]]
    expected = [[0, math.log(2)], [entropy(0.9, 0.1), entropy(0.25, 0.75)]]
    np.testing.assert_allclose(entropies, expected, atol=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 11, 150, 254])
@pytest.mark.parametrize("block", [1, 1000, softmax.BLOCK])
@pytest.mark.parametrize("strided", [False, True])
def test_every_pixel_is_decided_as_if_it_were_alone(classes, block, strided, monkeypatch) -> None:
    monkeypatch.setattr(softmax, "BLOCK", block)
    drawn = np.random.default_rng(classes).dirichlet(np.ones(classes), (2, 7, 19)).astype(np.float32)
    drawn[0, 0] = 1 / classes  # equally probable
    drawn[0, 1] = np.eye(classes)[-1]
    probabilities = np.repeat(drawn, 2, axis=2)[:, :, ::-2] if strided else drawn
    ids, best, entropies = maps(probabilities)
    assert (ids.dtype, best.dtype, entropies.dtype) == (np.uint8, np.float32, np.float32)
    np.testing.assert_array_equal(ids, probabilities.argmax(-1))
    np.testing.assert_array_equal(best, probabilities.max(-1))
    exact = probabilities.astype(np.float64)
    np.testing.assert_allclose(entropies, -(exact * np.log(np.maximum(exact, 1e-300))).sum(-1), atol=2e-5)
    for image, ids_of_image, best_of_image in zip(probabilities, ids, best, strict=True):
        alone = most_probable(image, *image.shape[:2])
        np.testing.assert_array_equal(alone[0], ids_of_image)
        np.testing.assert_array_equal(alone[1], best_of_image)


def test_the_most_probable_class_is_the_first_of_equals_and_probabilities_are_interpolated():
    equal = np.full((2, 2, 3), 1 / 3, np.float32)
    assert most_probable(equal, 2, 2)[0].tolist() == [[0, 0], [0, 0]]
    probabilities = np.zeros((1, 2, 2), np.float32)
    probabilities[0, 0] = (0.9, 0.1)
    probabilities[0, 1] = (0.2, 0.8)
    ids, best = most_probable(probabilities, 1, 4)
    # Columns lie at 0, 0.25, 0.75 and 1 of the way from the left pixel to the right.
    np.testing.assert_allclose(best[0], [0.9, 0.725, 0.625, 0.8], atol=1e-6)
    assert ids.tolist() == [[0, 0, 1, 1]]
