"""Windows cover an image once, see a margin around their part, and give what the whole image gives."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tests.drawn.networks import random_image, randomise
from trainer.network.deeplab import HEAD, UPSAMPLE
from trainer.network.inference import predictor
from trainer.network.layers import Upsample
from trainer.network.options import MARGIN, MIN_WINDOW
from trainer.network.windows import spans, windowed


@pytest.mark.parametrize("length", [1, 1024, 1025, 1535, 2049, 5472, 40_000])
@pytest.mark.parametrize("side", [MIN_WINDOW, MIN_WINDOW + 17, 4096])
def test_windows_cover_an_axis_once_and_see_a_margin_up_to_its_ends(length, side):
    cover = np.zeros(length, int)
    for seen, kept in spans(length, side):
        cover[kept] += 1
        assert seen.start % 32 == 0 and 0 < seen.stop - seen.start <= side
        assert seen.start == 0 or kept.start - seen.start == MARGIN
        assert seen.stop == length or seen.stop - kept.stop == MARGIN
    assert (cover == 1).all()
    assert (len(spans(length, side)) == 1) == (length <= side)


def test_there_are_no_more_windows_than_needed():
    assert [len(spans(5472, side)) for side in (5472, 5471, 4096, 1024)] == [1, 2, 2, 11]


def test_only_images_of_more_pixels_than_a_window_are_cut():
    sizes = []

    def predict(images):
        sizes.append(images.shape[1:3])
        return images[..., 0]

    long = np.zeros((1, 500, 2000, 3), np.uint8)
    windowed(predict, MIN_WINDOW)(long)
    assert sizes == [(500, 2000)]
    windowed(predict, MIN_WINDOW)(np.zeros((1, 600, 2000, 3), np.uint8))
    assert sizes[1:] == [(600, 768), (600, 1024), (600, 1024), (600, 720)]


def test_every_result_of_every_image_is_put_together():
    images = np.random.default_rng(0).integers(0, 256, (2, 1300, 1100, 3), np.uint8)
    red, colours = windowed(lambda seen: (seen[..., 0], seen.astype(np.float32)), MIN_WINDOW)(images)
    np.testing.assert_array_equal(red, images[..., 0])
    np.testing.assert_array_equal(colours, images)
    assert colours.dtype == np.float32
    np.testing.assert_array_equal(windowed(lambda seen: seen[..., 1], MIN_WINDOW)(images), images[..., 1])


@pytest.mark.parametrize("stride", [8, 32])
def test_a_network_that_sees_no_further_than_the_margin_gives_the_same_as_for_the_whole_image(stride):
    image = keras.Input((None, None, 3))
    x = layers.AveragePooling2D(stride, padding="same")(layers.Rescaling(1 / 64, offset=-2.0)(image))
    x = layers.Conv2D(4, 3, padding="same", activation="tanh")(x)
    logits = layers.Conv2D(3, 1, dtype="float32", name=HEAD)(x)
    model = keras.Model(image, Upsample(stride, dtype="float32", name=UPSAMPLE)([logits, image]))
    randomise(model)
    large = random_image(1088, 1216)
    predict = predictor(model, "probabilities")
    np.testing.assert_allclose(windowed(predict, MIN_WINDOW)(large), predict(large), atol=1e-6)
