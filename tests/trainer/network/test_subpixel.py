"""The subpixel head: what it starts as, and what it can learn."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from trainer.network.layers import Subpixel
from trainer.network.options import SUBPIXEL_STARTS

FACTORS = (2, 3, 4, 8, 16, 32)
SIZES = ((1, 1), (1, 6), (2, 3), (5, 7))
"""Cells in a column and in a row."""


def reference(height: int, width: int, batch: int = 1) -> np.ndarray:
    """An image of which only the size counts."""
    return np.zeros((batch, height, width, 3), "uint8")


def random_features(rows: int, columns: int, channels: int, batch: int = 1) -> np.ndarray:
    rng = np.random.default_rng(rows * columns + channels)
    return rng.normal(size=(batch, rows, columns, channels)).astype("float32")


def between(cells: np.ndarray, factor: int) -> np.ndarray:
    """Linear interpolation of [cells, ...] along the first axis, pixel by pixel, in float64."""
    rows = []
    for pixel in range(len(cells) * factor):
        position = np.clip((pixel + 0.5) / factor - 0.5, 0, len(cells) - 1)
        before = int(position)
        after = min(before + 1, len(cells) - 1)
        rows.append(cells[before] * (1 - (position - before)) + cells[after] * (position - before))
    return np.stack(rows)


def bilinear(cells: np.ndarray, factor: int) -> np.ndarray:
    """[rows, columns, C] -> [rows·factor, columns·factor, C]."""
    cells = between(cells.astype("float64"), factor)
    return between(cells.swapaxes(0, 1), factor).swapaxes(0, 1)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("classes", [2, 3, 21])
def test_the_head_starts_as_bilinear_interpolation_between_the_middles_of_blocks(classes, factor):
    layer = Subpixel(classes, factor)
    for rows, columns in SIZES:
        x = random_features(rows, columns, 64)
        underlying = None
        for height, width in ((rows * factor, columns * factor), ((rows - 1) * factor + 1, columns * factor - 1)):
            result = ops.convert_to_numpy(layer([x, reference(height, width)]))[0]
            if underlying is None:
                underlying = x[0].astype("float64") @ ops.convert_to_numpy(layer.kernel)[0, 0]
            expected = bilinear(underlying, factor)[:height, :width]
            assert np.ptp(expected) > 0
            np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6 * np.abs(underlying).max())


@pytest.mark.parametrize("factor", FACTORS)
def test_the_bilinear_start_is_what_resizing_images_gives(factor):
    """Of half-pixel centres, as Keras, OpenCV and PyTorch resize."""
    x, layer = random_features(4, 6, 5), Subpixel(3, factor)
    result = ops.convert_to_numpy(layer([x, reference(4 * factor, 6 * factor)]))
    shared = ops.conv(x, layer.kernel, padding="valid")
    expected = ops.convert_to_numpy(ops.image.resize(shared, (4 * factor, 6 * factor), interpolation="bilinear"))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
@pytest.mark.parametrize("classes", [2, 3, 21])
@pytest.mark.parametrize("channels", [7, 64, 256])
def test_the_head_starts_as_nearest_neighbour_upsampling_to_the_bit(classes, factor, channels):
    x = random_features(5, 7, channels, batch=2)
    layer = Subpixel(classes, factor, "nearest")
    result = ops.convert_to_numpy(layer([x, reference(5 * factor, 7 * factor, batch=2)]))
    underlying = ops.convert_to_numpy(ops.conv(x, layer.kernel, padding="valid"))
    assert np.ptp(underlying) > 0
    np.testing.assert_array_equal(result, underlying.repeat(factor, axis=1).repeat(factor, axis=2))


@pytest.mark.parametrize("start", SUBPIXEL_STARTS)
def test_every_place_of_a_block_is_learnt_on_its_own(start):
    layer = Subpixel(2, 2, start)
    x = np.ones((1, 2, 2, 1), "float32")
    layer([x, reference(4, 4)])
    layer.set_weights([np.array([[[[10.0, 20.0]]]]), np.zeros(2), np.arange(8.0).reshape(1, 1, 1, 8), np.zeros(8)])
    result = ops.convert_to_numpy(layer([x, reference(4, 4)]))
    np.testing.assert_allclose(result[0, :, :, 0], np.tile([[10, 12], [14, 16]], (2, 2)), rtol=1e-6)
    np.testing.assert_allclose(result[0, :, :, 1], np.tile([[21, 23], [25, 27]], (2, 2)), rtol=1e-6)


@pytest.mark.parametrize("start", SUBPIXEL_STARTS)
def test_training_reaches_shared_logits_and_differences_of_the_places(start):
    features, image = keras.Input((None, None, 5)), keras.Input((None, None, 3))
    layer = Subpixel(3, 4, start)
    model = keras.Model([features, image], layer([features, image]))
    before = layer.get_weights()
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.random.default_rng(0).integers(0, 3, (2, 11, 8))
    model.train_on_batch([random_features(3, 2, 5, batch=2), reference(11, 8, batch=2)], labels)
    for weight, then, now in zip(layer.weights, before, layer.get_weights(), strict=True):
        moved = np.abs(now - then)
        assert np.isfinite(now).all() and (moved > 0).all(), weight.name


@pytest.mark.parametrize("start", SUBPIXEL_STARTS)
def test_the_head_is_cropped_at_the_bottom_and_right(start):
    layer, x = Subpixel(3, 4, start), random_features(3, 2, 5)
    full = ops.convert_to_numpy(layer([x, reference(12, 8)]))
    cropped = ops.convert_to_numpy(layer([x, reference(9, 7)]))
    np.testing.assert_allclose(cropped, full[:, :9, :7], rtol=1e-6, atol=1e-6)


def test_a_border_of_cells_is_interpolated_towards_and_not_shown():
    layer, x = Subpixel(3, 4), random_features(5, 6, 7)
    layer([x, reference(20, 24)])
    layer.set_weights([np.random.default_rng(1).normal(size=weight.shape) for weight in layer.weights])
    whole = ops.convert_to_numpy(layer([x, reference(20, 24)]))
    inner = ops.convert_to_numpy(layer([x, reference(11, 16)], bordered=True))
    np.testing.assert_allclose(inner, whole[:, 4:15, 4:20], rtol=0, atol=1e-5)
