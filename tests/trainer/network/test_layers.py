"""Geometry and interpolation, by exact values."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from tests.drawn.places import ROOT
from trainer.network.heads import PixelUnshuffle, Subpixel, SubpixelKernels, pixel_shuffle
from trainer.network.layers import Norm, Upsample, conv, depthwise, layer_name, published_name


def test_layer_names_can_be_turned_back_into_published_names():
    published = "MobilenetV2/expanded_conv_3/depthwise"
    assert "/" not in layer_name(published)
    assert published_name(layer_name(published)) == published


def aligned_corners(features: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resizing of [H, W, C] with aligned corners, pixel by pixel."""
    rows, columns, channels = features.shape
    out = np.zeros((height, width, channels))
    for y in range(height):
        for x in range(width):
            v, u = y * (rows - 1) / (height - 1), x * (columns - 1) / (width - 1)
            top, left = min(int(v), rows - 2), min(int(u), columns - 2)
            dy, dx = v - top, u - left
            out[y, x] = (1 - dy) * ((1 - dx) * features[top, left] + dx * features[top, left + 1]) + dy * (
                (1 - dx) * features[top + 1, left] + dx * features[top + 1, left + 1]
            )
    return out


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_upsampling_is_bilinear_with_aligned_corners_at_sizes_stride_k_plus_1(stride):
    features = np.random.default_rng(0).normal(size=(1, 3, 5, 2)).astype("float32")
    height, width = 2 * stride + 1, 4 * stride + 1
    result = Upsample(stride)([features, np.zeros((1, height, width, 3), "uint8")])
    expected = aligned_corners(features[0], height, width)
    np.testing.assert_allclose(ops.convert_to_numpy(result)[0], expected, atol=1e-6)


def test_upsampling_continues_the_last_feature_to_the_edge_at_other_sizes():
    features = np.array([[[[1.0], [5.0]]]], "float32")
    result = Upsample(4)([features, np.zeros((1, 3, 7, 3))])
    row = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0]
    np.testing.assert_array_equal(ops.convert_to_numpy(result)[0, :, :, 0], [row] * 3)


def test_upsampling_in_half_precision_still_places_features_exactly():
    """bfloat16 cannot tell pixel 300 from 301; positions must be computed in float32."""
    features = np.arange(40, dtype="float32").reshape(1, 1, 40, 1)
    layer = Upsample(16, dtype="mixed_bfloat16")
    result = layer([features, np.zeros((1, 1, 624, 1), "float32")])
    assert keras.backend.standardize_dtype(result.dtype) == "bfloat16"
    assert float(result[0, 0, 38 * 16 + 8, 0]) == 38.5


def test_pixel_shuffle_orders_channels_by_row_column_class():
    # Two classes, factor 2: channel = (row * 2 + column) * 2 + class.
    x = np.arange(8, dtype="float32").reshape(1, 1, 1, 8)
    result = ops.convert_to_numpy(pixel_shuffle(x, 2))
    np.testing.assert_array_equal(result[0, :, :, 0], [[0, 2], [4, 6]])
    np.testing.assert_array_equal(result[0, :, :, 1], [[1, 3], [5, 7]])


def set_to_centre(layer: keras.layers.Layer) -> None:
    """Weights with which a 3x3 (or 1x1) convolution copies the pixel under its centre."""
    kernel = np.zeros(layer.kernel.shape, "float32")
    middle = kernel.shape[0] // 2
    kernel[middle, middle] = 1.0
    layer.set_weights([kernel])


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("on_blocks", [False, True])
@pytest.mark.parametrize("kind", ["conv3", "conv1", "depthwise"])
def test_strided_cells_lie_at_even_or_at_odd_pixels_for_every_size(size, on_blocks, kind):
    """The i-th of ceil(n / 2) cells lies at pixel 2i, or at 2i + 1 when centred on blocks (0 past the edge)."""
    image = keras.Input((None, None, 1))
    norm = Norm(0.99, 0.0)
    if kind == "depthwise":
        x = depthwise(image, "scope", norm=norm, strides=2, activation=None, on_blocks=on_blocks)
    else:
        kernel_size = 3 if kind == "conv3" else 1
        x = conv(
            image, "scope", 1, norm=norm, kernel_size=kernel_size, strides=2, activation=None, on_blocks=on_blocks
        )
    model = keras.Model(image, x)
    set_to_centre(model.get_layer("scope"))
    pixels = np.arange(1.0, size + 1, dtype="float32")
    result = ops.convert_to_numpy(model(pixels.reshape(1, 1, size, 1)))
    expected = np.append(pixels, 0.0)[1::2] if on_blocks else pixels[::2]
    assert result.shape[2] == -(-size // 2)
    # One row high: a kernel centred below it sees nothing.
    row = result[0, 0, :, 0] if not on_blocks else None
    if row is None:
        tall = ops.convert_to_numpy(model(np.tile(pixels.reshape(1, 1, size, 1), (1, 2, 1, 1))))
        row = tall[0, 0, :, 0]
    np.testing.assert_array_equal(row, expected[: -(-size // 2)])


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 9), (1, 2)])
def test_a_depthwise_window_on_blocks_is_centred_on_them_at_even_and_odd_sizes(height, width, kernel_size):
    image, half = keras.Input((None, None, 3)), kernel_size // 2
    outputs = depthwise(
        image, "x", norm=Norm(0.9, 1e-3), kernel_size=kernel_size, strides=2, activation=None, on_blocks=True
    )
    model, x = keras.Model(image, outputs), np.random.default_rng(0).normal(size=(1, height, width, 3))
    kernel = model.get_layer("x").get_weights()[0][..., 0]
    padded = np.pad(x[0], ((half - 1, half + 1), (half - 1, half + 1), (0, 0)))
    expected = [
        [(padded[i : i + kernel_size, j : j + kernel_size] * kernel).sum((0, 1)) for j in range(0, width, 2)]
        for i in range(0, height, 2)
    ]
    np.testing.assert_allclose(ops.convert_to_numpy(model(x))[0] * 1.001**0.5, expected, rtol=0, atol=1e-5)


def test_layers_survive_serialisation():
    heads = (
        Subpixel(3, 4, name="head"),
        Subpixel(3, 4, "nearest", name="head"),
        SubpixelKernels(3, 4, name="head"),
    )
    for layer in (Upsample(8, name="up"), PixelUnshuffle(2, name="down"), *heads):
        copy = type(layer).from_config(layer.get_config())
        assert copy.get_config() == layer.get_config()


def test_settings_of_keras_change_neither_the_layout_nor_the_precision(tmp_path):
    (tmp_path / "keras.json").write_text('{"floatx": "float16", "image_data_format": "channels_first"}')
    program = (
        "import keras; from trainer.network import layers\n"
        "x = layers.conv(keras.Input((None, None, 3)), 'a', 4, norm=layers.Norm(0.9, 1e-5))\n"
        "print(x.shape, x.dtype, keras.config.dtype_policy().name)"
    )
    environment = os.environ | {"KERAS_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "(None, None, None, 4) float32 float32\n", done.stderr
