"""How sure a network was of an image: exact numbers for probabilities that are known."""

from __future__ import annotations

import math

import numpy as np

from pipelines.masks.certainty import Certainty, of_maps

BEST, ENTROPY = np.float32([[1, 0.5], [0.9, 0.75]]), np.float32([[0, 0.7], [0.3, 0.6]])


def test_the_numbers_are_means_over_pixels_and_the_share_of_those_with_another_class() -> None:
    assert of_maps(BEST, ENTROPY, None) == Certainty(0.7875, 0.4, None)
    assert of_maps(BEST, ENTROPY, np.array([[False, True], [False, False]])) == Certainty(0.7875, 0.4, 0.25)


def test_numbers_have_no_more_digits_than_a_batch_of_other_images_leaves_alone() -> None:
    third = np.full((3, 3), 1 / 3, np.float32)
    assert of_maps(third, third * math.pi, third < np.eye(3)) == Certainty(0.3333, 1.0472, 0.333333)
