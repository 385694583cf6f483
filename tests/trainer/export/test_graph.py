"""Shrinking inside an export is that of `deeplab segment`, and the lines of its labels are the ids of its masks."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.drawn.networks import random_image
from tests.trainer.export.conftest import drawn_network
from trainer.export.graph import area_weights, frozen, shrink, shrunk_side
from trainer.export.tally import reference
from trainer.export.tflite import label_lines
from trainer.formats import images
from trainer.network.inference import predictor


def test_a_cell_averages_what_it_covers():
    np.testing.assert_allclose(area_weights(2, 3), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    np.testing.assert_array_equal(area_weights(3, 3), np.eye(3))


def test_sides_are_those_of_segment_halves_included():
    longest = np.arange(1, 900, dtype=np.int32)
    for max_side in (1, 64, 513):
        for part in (1, 2, 3):
            side = np.maximum(longest // part, 1)
            large = longest > max_side
            found = shrunk_side(tf.constant(side[large]), tf.constant(longest[large]), max_side)
            sizes = zip(side[large].tolist(), longest[large].tolist(), strict=True)
            np.testing.assert_array_equal(found, [images.shrunk_size(*size, max_side)[0] for size in sizes])


def test_images_are_shrunk_as_by_opencv():
    image = random_image(83, 61)[0]
    expected = images.shrink(image, 40)
    found = shrink(image[None], *expected.shape[:2])[0].numpy()
    # Both round sums of floats; a sum near a half may fall to either side.
    assert found.shape == expected.shape and (found == expected).mean() > 0.99
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("fixed", [None, (150, 97)])
def test_an_export_shrinks_and_enlarges_as_segment_does(fixed):
    network = drawn_network(3)
    function, predict = frozen(network, 80, fixed), predictor(network, "probabilities")
    for size in [fixed] if fixed else [(64, 48), (80, 80), (150, 97), (3, 200)]:
        image = random_image(*size)[0]
        ids, probabilities = function(tf.constant(image[None]))
        expected_ids, expected = reference(predict, 80, image)
        # Grey levels that round to the other side move a probability by what a level means.
        assert np.abs(probabilities[0] - expected).max() < 0.05
        assert (ids[0].numpy() == expected_ids).mean() > 0.98


def test_labels_have_one_line_for_each_class():
    assert label_lines(["sky", "road\nor path", "tree\u2028", "Auto"]).splitlines() == [
        "sky", "road\\nor path", "tree\\u2028", "Auto"
    ]  # fmt: skip
