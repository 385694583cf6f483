"""Backbones against the names, shapes, rates and geometry of the published ones."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tests.drawn import published
from tests.drawn.checkpoints import Drawn, random_values, resnet_variables, xception_variables
from tests.drawn.networks import random_image
from trainer.network.backbones import PUBLISHED
from trainer.network.batch_norm import fold_norms
from trainer.network.deeplab import deeplab_v3_plus
from trainer.network.layers import StretchLike, WindowMeans, published_name
from trainer.network.resnet import resnet
from trainer.weights.checkpoints import architecture, load


def test_backbones_have_the_strides_that_they_were_published_with():
    strides = {name: backbone.output_stride for name, backbone in PUBLISHED.items()}
    assert {name for name, stride in strides.items() if stride == 32} == {
        "mobilenet_v3_large_seg",
        "mobilenet_v3_small_seg",
    }
    assert {*strides.values()} == {16, 32}


@pytest.mark.parametrize(
    ("backbone", "variables"),
    [
        ("resnet_v1_50_beta", lambda: resnet_variables(3, 50)),
        pytest.param("xception_41", lambda: xception_variables(3, 41), marks=pytest.mark.slow),
        pytest.param("resnet_v1_101_beta", lambda: resnet_variables(3, 101), marks=pytest.mark.slow),
        pytest.param("xception_71", lambda: xception_variables(3, 71, is_cell=True), marks=pytest.mark.slow),
    ],
)
def test_a_backbone_has_the_names_and_sizes_of_the_published_one_and_computes_what_it_does(backbone, variables):
    expected = variables()
    values = random_values(expected)
    source = Drawn(values)
    numbers = architecture(source)
    assert (numbers["backbone"], numbers.get("dense_prediction_cell", False)) == (backbone, backbone == "xception_71")
    model = deeplab_v3_plus(**numbers)
    scopes = {name.rpartition("/")[0] for name in expected}
    assert {published_name(layer.name) for layer in model.layers if layer.weights} == scopes
    for layer in model.layers:
        for weight in layer.weights:
            kind = {"kernel": "depthwise_weights" if "depthwise" in layer.name else "weights", "bias": "biases"}
            name = f"{published_name(layer.name)}/{kind.get(weight.name, weight.name)}"
            assert list(weight.shape) == expected[name], name
    assert PUBLISHED[backbone].last_weights in expected
    load(model, source)
    image = random_image(33, 65)
    expected_logits = published.logits(values, image)
    published.assert_same(model(image), expected_logits)
    fold_norms(model)
    published.assert_same(model(image), expected_logits)


@pytest.mark.parametrize(("output_stride", "rates"), [(8, [1, 2, 4, 8, 16]), (16, [1, 1, 2, 4, 8])])
def test_the_last_units_of_a_resnet_have_the_rates_of_the_grid(output_stride, rates):
    image = keras.Input((None, None, 3))
    strides = {"output_stride": output_stride, "block_strides": ()}
    model = keras.Model(image, resnet(image, depth=50, **strides, multi_grid=(1, 2, 4), momentum=0.99))
    units = ["block2/unit_4", "block3/unit_6", "block4/unit_1", "block4/unit_2", "block4/unit_3"]
    found = {name: model.get_layer(f"resnet_v1_50/{name}/bottleneck_v1/conv2".replace("/", "-")) for name in units}
    assert [found[name].dilation_rate[0] for name in units] == rates


@pytest.mark.parametrize("size", [(40, 60), (24, 24), (1, 3)])
def test_means_over_windows_are_those_of_the_published_network(size):
    x = np.random.default_rng(0).random((1, *size, 2), np.float32)
    window = [1, *(min(25, length) for length in size), 1]
    pooled = tf.nn.avg_pool2d(x, window, [1, 4, 5, 1], "VALID")
    result = WindowMeans(25, (4, 5))(x)
    np.testing.assert_allclose(ops.convert_to_numpy(result), pooled.numpy(), rtol=1e-4)
    expected = tf.compat.v1.image.resize_bilinear(pooled, size, align_corners=True)
    np.testing.assert_allclose(ops.convert_to_numpy(StretchLike()([result, x])), expected.numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("output_stride", "head"), [pytest.param(32, "bilinear", marks=pytest.mark.slow), (8, "subpixel")]
)
def test_mobilenet_v3_takes_images_of_any_size(output_stride, head):
    model = deeplab_v3_plus(3, backbone="mobilenet_v3_large_seg", output_stride=output_stride, head=head)
    for height, width in [(1, 1), (37, 53)]:
        assert model(random_image(height, width)).shape == (1, height, width, 3)


@pytest.mark.parametrize(
    ("block_stride", "shift"),
    [pytest.param(None, 0, marks=pytest.mark.slow), pytest.param(16, 8, marks=pytest.mark.slow), (4, 2)],
)
def test_features_of_a_resnet_lie_on_pixels_or_on_the_middle_of_blocks(block_stride, shift):
    """With kernels that copy their centre, a feature shows its pixel, but for the pooling: that takes the greatest of
    three cells, here the last, two pixels behind."""
    image = keras.Input((None, None, 3))
    strides = [block_stride] if block_stride else []
    model = keras.Model(image, resnet(image, depth=50, output_stride=16, block_strides=strides, momentum=0.99))
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            kernel = np.zeros(layer.kernel.shape)
            kernel[kernel.shape[0] // 2, kernel.shape[1] // 2, 0, 0] = 1.0
            layer.set_weights([kernel])
    rows, columns = np.meshgrid(np.arange(80), np.arange(80), indexing="ij")
    pixels = (1e-5 + 1e-8 * (rows * 80 + columns)).astype("float32")
    features, low_level, _ = model(np.repeat(pixels[None, :, :, None], 3, axis=3))
    for values, stride in ((features, 16), (low_level, 4)):
        values = ops.convert_to_numpy(values)[0, :, :, 0]
        at = 2 + (shift if stride == 16 or block_stride == 4 else 0)
        assert values.shape == (80 // stride, 80 // stride)
        inner = slice(80 // stride - 2)
        expected = pixels[at::stride, at::stride][inner, inner]
        np.testing.assert_allclose(values[inner, inner] / values[0, 0], expected / expected[0, 0], rtol=1e-4)
