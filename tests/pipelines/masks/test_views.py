"""The mean over views of an image, by networks that are known."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.masks.options import ViewOptions, Views
from pipelines.masks.views import mean_softmax, resized
from trainer.options import InputError

RAMP = np.repeat(np.arange(0, 240, 20, dtype=np.uint8)[None, :, None], 3, 2)[None].repeat(8, 1)
"""[1, 8, 12, 3]: grey levels that grow to the right."""


def by_brightness(images: np.ndarray, what: str) -> np.ndarray:
    """Stands in for a network that looks at single pixels: class 1 is as probable as the red value says."""
    assert what == "probabilities"
    assert images.dtype == np.uint8 and images.flags.c_contiguous
    red = images[..., 0].astype(np.float32) / 255
    return np.stack([1 - red, red], -1)


def by_column(images: np.ndarray, what: str) -> np.ndarray:
    """Stands in for a network that sees only where a pixel is: class 1 in the left half, whatever is there."""
    left = np.zeros(images.shape[:3], np.float32)
    left[:, :, : images.shape[2] // 2] = 1
    return np.stack([1 - left, left], -1)


def test_one_view_is_the_network_s_own_softmax():
    assert (mean_softmax(by_brightness, RAMP, Views()) == by_brightness(RAMP, "probabilities")).all()


def test_a_mirrored_view_is_mirrored_back():
    softmax = mean_softmax(by_brightness, RAMP, Views(flip=True))
    np.testing.assert_allclose(softmax, by_brightness(RAMP, "probabilities"), atol=1e-6)
    np.testing.assert_array_equal(mean_softmax(by_column, RAMP, Views(flip=True)), np.full((1, 8, 12, 2), 0.5))


@pytest.mark.parametrize("scales", [(2.0,), (0.5, 1.0), (1.0, 1.5, 2.0)])
def test_views_of_other_sizes_are_brought_back_in_place(scales):
    softmax = mean_softmax(by_brightness, RAMP, Views(scales))
    inside = (slice(None), slice(None), slice(2, -2))
    np.testing.assert_allclose(softmax[inside], by_brightness(RAMP, "probabilities")[inside], atol=0.01)
    np.testing.assert_allclose(softmax.sum(-1), 1, atol=1e-5)


def test_the_network_sees_every_scale_and_both_sides():
    seen = []

    def network(images, what):
        seen.append((*images.shape[1:3], bool(images[0, 0, 0, 0] < images[0, 0, -1, 0])))
        return by_brightness(images, what)

    mean_softmax(network, RAMP.repeat(3, 0), Views((0.5, 1.5), flip=True))
    assert seen == [(4, 6, True), (4, 6, False), (12, 18, True), (12, 18, False)]


def test_all_views_weigh_the_same():
    sizes = {8: 0.25, 12: 0.5, 16: 1.0}

    def network(images, what):
        return np.full((*images.shape[:3], 2), 1 - sizes[images.shape[1]], np.float32)

    assert mean_softmax(network, RAMP, Views((1.0, 1.5, 2.0))).max() == pytest.approx((0.75 + 0.5 + 0) / 3)


def test_an_image_of_one_row_is_shrunk_by_averages_like_one_of_one_column():
    row = np.random.default_rng(0).random((1, 1, 40, 2), np.float32)
    means = row.reshape(1, 1, 10, 4, 2).mean(3)
    np.testing.assert_allclose(resized(row, (1, 10)), means, atol=1e-6)
    np.testing.assert_allclose(resized(row.swapaxes(1, 2), (10, 1)), means.swapaxes(1, 2), atol=1e-6)


def test_many_classes_and_tiny_images_are_resized():
    softmax = np.random.default_rng(0).random((2, 3, 5, 255), np.float32)
    assert resized(softmax, (1, 1)).shape == (2, 1, 1, 255)
    assert resized(softmax, (7, 9)).shape == (2, 7, 9, 255)
    assert resized(softmax.repeat(4, 1).repeat(4, 2), (8, 13)).shape == (2, 8, 13, 255)
    assert mean_softmax(by_brightness, RAMP[:, :1, :1], Views((0.25,), flip=True)).shape == (1, 1, 1, 2)


def test_the_cost_of_views():
    assert Views().passes == 1 and Views().area == 1 and Views().is_single
    assert Views((0.5, 1.0, 2.0), flip=True).passes == 2 * (0.25 + 1 + 4)
    assert Views((0.5,)).area == 1
    assert Views((1.0, 1.5)).area == 2.25


def test_the_flags_of_views_are_those_that_ask_for_them():
    assert Views().flags == ""
    assert Views(flip=True).flags == "--flip"
    assert Views((1.0, 1.5)).flags == "--scales 1 1.5"
    assert Views((0.75,), flip=True).flags == "--scales 0.75 --flip"


def test_the_order_of_sizes_does_not_matter_and_a_size_given_twice_is_refused():
    assert ViewOptions(scales=(1.5, 1.0)).views == ViewOptions(scales=(1.0, 1.5)).views
    with pytest.raises(InputError, match=r"--scales 1 1\.5 1 names a size twice"):
        ViewOptions(scales=(1.0, 1.5, 1.0))
