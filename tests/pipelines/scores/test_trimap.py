"""Distances from the boundaries of labels that are known by hand, and confusion matrices by distance."""

from __future__ import annotations

import numpy as np

from pipelines.scores.trimap import BANDS, band_confusions, trimap_distance
from trainer import metrics

FAR = np.inf


def uint8(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_pixels_on_both_sides_of_a_boundary_have_distance_one() -> None:
    np.testing.assert_array_equal(trimap_distance(uint8([0, 0, 0, 1, 1, 1]), 255), [[3, 2, 1, 1, 2, 3]])


def test_trimap_distance_is_euclidean_and_boundaries_are_between_four_neighbours() -> None:
    label = np.zeros((3, 4), np.uint8)
    label[0, 0] = 1
    np.testing.assert_allclose(
        trimap_distance(label, 255),
        [[1, 1, 2, 3], [1, 2, 1 + 2**0.5, 1 + 5**0.5], [2, 1 + 2**0.5, 1 + 5**0.5, 1 + 8**0.5]],
        rtol=1e-6,
    )


def test_a_label_without_boundaries_is_far_from_them_everywhere() -> None:
    assert (trimap_distance(np.full((3, 3), 2, np.uint8), 255) == FAR).all()
    assert (trimap_distance(np.full((3, 3), 255, np.uint8), 255) == FAR).all()


def test_classes_meet_across_an_ignored_strip() -> None:
    np.testing.assert_array_equal(trimap_distance(uint8([0, 0, 9, 9, 1, 1]), 9), [[2, 1, FAR, FAR, 1, 2]])


def test_an_ignored_region_inside_one_class_makes_no_boundary() -> None:
    np.testing.assert_array_equal(trimap_distance(uint8([0, 0, 9, 9, 0, 1]), 9), [[5, 4, FAR, FAR, 1, 1]])
    assert (trimap_distance(uint8([0, 9, 9, 0]), 9) == FAR).all()


def test_band_confusions_of_an_image_worked_by_hand() -> None:
    matrices = band_confusions(uint8([0, 0, 0, 1, 1, 1]), [uint8([0, 0, 1, 1, 1, 0])], 2, 255)
    assert matrices.shape == (1, 6, 2, 2)
    np.testing.assert_array_equal(matrices[0, 0], [[0, 1], [0, 1]])
    np.testing.assert_array_equal(matrices[0, 1], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(matrices[0, 2], [[1, 0], [1, 0]])
    assert matrices[0, 3:].sum() == 0


def test_bands_add_up_to_the_confusion_matrix_the_trainer_uses() -> None:
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, 4, (6, 7)), np.ones((9, 9))).astype(np.uint8)
    label[label == 3] = 11
    masks = [rng.integers(0, 3, label.shape).astype(np.uint8) for _ in range(2)]
    matrices, distance = band_confusions(label, masks, 3, 11), trimap_distance(label, 11)
    for mask, bands in zip(masks, matrices, strict=True):
        np.testing.assert_array_equal(bands.sum(0), metrics.confusion(label, mask, 3, 11))
        for width, cumulated in zip(BANDS, np.cumsum(bands, 0), strict=False):
            near = np.where(distance <= width, label, 11)
            np.testing.assert_array_equal(cumulated, metrics.confusion(near, mask, 3, 11))
