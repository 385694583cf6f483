"""The subpixel head: what it starts as, and what it can learn."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from trainer.network.heads import Cells, Means, PixelUnshuffle, Subpixel, SubpixelKernels, pixel_shuffle
from trainer.network.options import SUBPIXEL_STARTS

FACTORS = (2, 3, 4, 8, 16, 32)
SIZES = ((1, 1), (1, 6), (2, 3), (5, 7))
"""Cells in a column and in a row."""


GUIDE = 2


def maps(layer: keras.Layer, x: Any) -> list:
    """What `layer` takes of `x`: of SubpixelKernels the guide are the last channels."""
    return [x[..., :-GUIDE], x[..., -GUIDE:]] if isinstance(layer, SubpixelKernels) else [x]


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
@pytest.mark.parametrize("head", [Subpixel, SubpixelKernels])
def test_the_head_starts_as_bilinear_interpolation_between_the_middles_of_blocks(head, classes, factor):
    layer = head(classes, factor)
    for rows, columns in SIZES:
        x = random_features(rows, columns, 64)
        underlying = None
        for height, width in ((rows * factor, columns * factor), ((rows - 1) * factor + 1, columns * factor - 1)):
            result = ops.convert_to_numpy(layer([*maps(layer, x), reference(height, width)]))[0]
            if underlying is None:
                kernel = ops.convert_to_numpy(layer.kernel)[0, 0]
                underlying = x[0, ..., : len(kernel)].astype("float64") @ kernel
            expected = bilinear(underlying, factor)[:height, :width]
            assert np.ptp(expected) > 0
            np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6 * np.abs(underlying).max())


@pytest.mark.parametrize("factor", FACTORS)
def test_the_bilinear_start_is_what_resizing_images_gives(factor):
    """Of half-pixel centres, as Keras, OpenCV and PyTorch resize."""
    x, layer = random_features(4, 6, 5), Subpixel(3, factor)
    result = ops.convert_to_numpy(layer([*maps(layer, x), reference(4 * factor, 6 * factor)]))
    shared = ops.conv(x, layer.kernel, padding="valid")
    expected = ops.convert_to_numpy(ops.image.resize(shared, (4 * factor, 6 * factor), interpolation="bilinear"))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
@pytest.mark.parametrize("classes", [2, 3, 21])
@pytest.mark.parametrize("channels", [7, 64, 256])
def test_the_head_starts_as_nearest_neighbour_upsampling_to_the_bit(classes, factor, channels):
    x = random_features(5, 7, channels, batch=2)
    layer = Subpixel(classes, factor, "nearest")
    result = ops.convert_to_numpy(layer([*maps(layer, x), reference(5 * factor, 7 * factor, batch=2)]))
    underlying = ops.convert_to_numpy(ops.conv(x, layer.kernel, padding="valid"))
    assert np.ptp(underlying) > 0
    np.testing.assert_array_equal(result, underlying.repeat(factor, axis=1).repeat(factor, axis=2))


@pytest.mark.parametrize("start", SUBPIXEL_STARTS)
def test_every_place_of_a_block_is_learnt_on_its_own(start):
    layer = Subpixel(2, 2, start)
    x = np.ones((1, 2, 2, 1), "float32")
    layer([*maps(layer, x), reference(4, 4)])
    layer.set_weights([np.array([[[[10.0, 20.0]]]]), np.zeros(2), np.arange(8.0).reshape(1, 1, 1, 8), np.zeros(8)])
    result = ops.convert_to_numpy(layer([*maps(layer, x), reference(4, 4)]))
    np.testing.assert_allclose(result[0, :, :, 0], np.tile([[10, 12], [14, 16]], (2, 2)), rtol=1e-6)
    np.testing.assert_allclose(result[0, :, :, 1], np.tile([[21, 23], [25, 27]], (2, 2)), rtol=1e-6)


def test_every_pixel_weighs_the_cells_around_it_as_its_kernel_says():
    """In full: softmax of what the guide gives and the start, less what the start has too much."""
    layer, rng = SubpixelKernels(2, 2), np.random.default_rng(0)
    x = random_features(3, 4, 5)
    layer([*maps(layer, x), reference(6, 8)])
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    kernel, bias, place_kernel, place_bias = (weight.astype("float64") for weight in layer.get_weights())
    cells = np.pad(x[0, ..., :3] @ kernel[0, 0] + bias, ((1, 1), (1, 1), (0, 0)), mode="edge")
    learnt = (x[0, ..., 3:] @ place_kernel[0, 0] + place_bias).reshape(3, 4, 2, 2, 9)
    near, far = 0.75, 0.25  # of a pixel's middle, in blocks of two, to the middles of the nearest blocks
    shares = {0: (far, near, 0.0), 1: (0.0, near, far)}
    result = ops.convert_to_numpy(layer([*maps(layer, x), reference(6, 8)]))[0]
    for row, column in np.ndindex(6, 8):
        bilinear = np.outer(shares[row % 2], shares[column % 2]).ravel()
        start = (bilinear + 0.02) / 1.18
        powers = start * np.exp(learnt[row // 2, column // 2, row % 2, column % 2])
        weights = powers / powers.sum() + bilinear - start
        around = cells[row // 2 : row // 2 + 3, column // 2 : column // 2 + 3].reshape(9, 2)
        np.testing.assert_allclose(result[row, column], weights @ around, rtol=0, atol=1e-5)


@pytest.mark.parametrize("boundary", range(5))
def test_a_boundary_can_lie_at_any_pixel_between_two_cells(boundary):
    layer, x = SubpixelKernels(2, 4), np.zeros((1, 1, 2, 4), "float32")
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = 1.0
    layer([*maps(layer, x), reference(4, 8)])
    bias = np.zeros((4, 4, 9))
    bias[:, :boundary, 4] = bias[:, boundary:, 5] = 20  # the cell itself, and the one to its right
    layer.set_weights([np.eye(2)[None, None], np.zeros(2), np.zeros((1, 1, 2, 144)), bias.ravel()])
    ids = ops.convert_to_numpy(layer([*maps(layer, x), reference(4, 8)]))[0, :, :4].argmax(-1)
    np.testing.assert_array_equal(ids, np.tile(np.arange(4) >= boundary, (4, 1)))


@pytest.mark.parametrize("size", [(8, 12), (5, 9), (1, 1)])
def test_pixels_become_channels_as_a_pixel_shuffle_takes_them_back(size):
    (height, width), factor = size, 4
    x = random_features(height, width, 3, batch=2)
    cells = reference(-(-height // factor), -(-width // factor), batch=2)
    result = PixelUnshuffle(factor)([x, cells])
    assert result.shape == (*cells.shape[:3], 48)
    back = ops.convert_to_numpy(pixel_shuffle(result, factor))
    np.testing.assert_array_equal(back[:, :height, :width], x)
    assert not back[:, height:].any() and not back[:, :, width:].any()


def of_starts(classes: int, factor: int) -> list:
    return [Subpixel(classes, factor, start) for start in SUBPIXEL_STARTS]


@pytest.mark.parametrize("head", [0, 1, 2])
def test_training_reaches_what_the_places_share_and_what_is_their_own(head):
    features, image = keras.Input((None, None, 5)), keras.Input((None, None, 3))
    layer = [*of_starts(3, 4), SubpixelKernels(3, 4)][head]
    model = keras.Model([features, image], layer([*maps(layer, features), image]))
    before = layer.get_weights()
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.random.default_rng(0).integers(0, 3, (2, 11, 8))
    model.train_on_batch([random_features(3, 2, 5, batch=2), reference(11, 8, batch=2)], labels)
    for weight, then, now in zip(layer.weights, before, layer.get_weights(), strict=True):
        moved = np.abs(now - then)
        assert np.isfinite(now).all() and (moved > 0).all(), weight.name


@pytest.mark.parametrize("head", [0, 1, 2])
def test_the_head_is_cropped_at_the_bottom_and_right(head):
    layer, x = [*of_starts(3, 4), SubpixelKernels(3, 4)][head], random_features(3, 2, 5)
    full = ops.convert_to_numpy(layer([*maps(layer, x), reference(12, 8)]))
    cropped = ops.convert_to_numpy(layer([*maps(layer, x), reference(9, 7)]))
    np.testing.assert_allclose(cropped, full[:, :9, :7], rtol=1e-6, atol=1e-6)


def test_a_border_of_cells_is_interpolated_towards_and_not_shown():
    layer, x = Subpixel(3, 4), random_features(5, 6, 7)
    layer([x, reference(20, 24)])
    layer.set_weights([np.random.default_rng(1).normal(size=weight.shape) for weight in layer.weights])
    whole = ops.convert_to_numpy(layer([x, reference(20, 24)]))
    inner = ops.convert_to_numpy(layer([x, reference(11, 16)], bordered=True))
    np.testing.assert_allclose(inner, whole[:, 4:15, 4:20], rtol=0, atol=1e-5)


def test_the_halves_of_the_kernels_head_give_a_part_of_what_the_whole_gives():
    layer, x = SubpixelKernels(3, 4), random_features(5, 6, 7)
    features, guide = maps(layer, x)
    layer([features, guide, reference(20, 24)])
    layer.set_weights([np.random.default_rng(1).normal(size=weight.shape) for weight in layer.weights])
    whole = ops.convert_to_numpy(layer([features, guide, reference(20, 24)]))
    cells = Cells(layer)(features)
    inner = Means(layer)([cells[:, 1:6, 1:7], guide[:, 1:4, 1:5], reference(11, 16)])
    np.testing.assert_allclose(ops.convert_to_numpy(inner), whole[:, 4:15, 4:20], rtol=0, atol=1e-5)
