"""The network at any size, and its geometry."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.drawn.networks import random_image, randomise
from trainer.network.backbones import PUBLISHED, mobilenet_v2, xception
from trainer.network.deeplab import deeplab_v3_plus
from trainer.network.options import BACKBONES, SUBPIXEL_STARTS
from trainer.options import InputError


@pytest.mark.parametrize(
    ("output_stride", "head", "start", "decoder"),
    [
        (16, "kernels", "bilinear", True),
        (32, "kernels", "bilinear", False),
        (8, "bilinear", "nearest", False),
        (8, "subpixel", "bilinear", True),
        (16, "bilinear", "bilinear", True),
        (16, "subpixel", "nearest", False),
        (32, "bilinear", "bilinear", False),
        (32, "subpixel", "bilinear", False),
        (32, "subpixel", "nearest", True),
    ],
)
def test_logits_have_the_size_of_the_image_whatever_it_is(output_stride, head, start, decoder):
    numbers = {"output_stride": output_stride, "head": head, "subpixel_start": start, "decoder": decoder}
    numbers |= {"head": "subpixel", "subpixel": "kernels"} if head == "kernels" else {}
    model = deeplab_v3_plus(3, alpha=0.25, aspp_rates=(2,) if decoder else None, **numbers)
    assert model.output_shape == (None, None, None, 3)
    for height, width in [(1, 1), (37, 53), (65, 97)]:
        logits = model(random_image(height, width))
        assert tuple(logits.shape) == (1, height, width, 3)
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"
        assert np.isfinite(ops.convert_to_numpy(logits)).all()


def test_published_mobilenet_v2_has_its_number_of_parameters():
    model = deeplab_v3_plus(21, head="bilinear")
    # MobileNetV2 without its classifier is known to have 2,257,984; DeepLab leaves the 1280-channel expansion out.
    backbone = 2_257_984 - (320 * 1280 + 4 * 1280)
    aspp = 2 * (320 * 256 + 4 * 256) + 512 * 256 + 4 * 256
    logits = 256 * 21 + 21
    assert model.count_params() == backbone + aspp + logits


def test_bytes_and_floats_give_the_same_logits(small_model):
    image = random_image(32, 32)
    as_bytes = ops.convert_to_numpy(small_model(image))
    np.testing.assert_array_equal(as_bytes, ops.convert_to_numpy(small_model(image.astype("float32"))))


def test_logits_are_float32_under_mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        models = [deeplab_v3_plus(2, alpha=0.1, head="bilinear")]
        models += [deeplab_v3_plus(2, alpha=0.1, subpixel_start=start) for start in SUBPIXEL_STARTS]
        models += [deeplab_v3_plus(2, alpha=0.1, subpixel="kernels")]
    finally:
        keras.config.set_dtype_policy(before)
    for model in models:
        assert model.get_layer("aspp0").compute_dtype == "bfloat16"
        assert keras.backend.standardize_dtype(model(random_image(17, 17)).dtype) == "float32"


def test_mirrored_kernels_on_a_mirrored_image_give_mirrored_logits():
    """Holds at sizes 16k + 1 only if every strided cell and every interpolated pixel lies where it should."""
    model = deeplab_v3_plus(3, alpha=0.25, head="bilinear", decoder=True, aspp_rates=(2,))
    randomise(model)
    image = random_image(33, 65)
    expected = ops.convert_to_numpy(model(image))[:, :, ::-1]
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            kernel, *bias = layer.get_weights()
            layer.set_weights([kernel[:, ::-1], *bias])
    result = ops.convert_to_numpy(model(image[:, :, ::-1]))
    np.testing.assert_allclose(result, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("backbone", "numbers", "block_stride", "shift"),
    [
        (mobilenet_v2, {"alpha": 1.0}, None, 0),
        (mobilenet_v2, {"alpha": 1.0}, 16, 8),
        (mobilenet_v2, {"alpha": 1.0}, 4, 2),
        (xception, {"depth": 65}, 16, 8),
    ],
)
def test_features_lie_on_pixels_or_on_the_middle_of_blocks(backbone, numbers, block_stride, shift):
    """With kernels that copy their centre, feature i shows the pixel it lies on: stride·i (+ half a block)."""
    image = keras.Input((None, None, 3))
    strides = {"output_stride": 16, "block_strides": [block_stride] if block_stride else []}
    model = keras.Model(image, backbone(image, **numbers, **strides, momentum=0.99))
    for layer in model.layers:
        if isinstance(layer, layers.DepthwiseConv2D):
            kernel = np.zeros(layer.kernel.shape)
            kernel[1, 1] = 1.0
            layer.set_weights([kernel])
        elif isinstance(layer, layers.Conv2D):
            kernel = np.zeros(layer.kernel.shape)
            kernel[kernel.shape[0] // 2, kernel.shape[1] // 2, 0, 0] = 1.0
            layer.set_weights([kernel])
    size = 80
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    # Small enough for no rectification at 6 to bite.
    pixels = (1e-5 + 1e-8 * (rows * size + columns)).astype("float32")
    features, low_level, fine = model(np.repeat(pixels[None, :, :, None], 3, axis=3))
    for values, stride in ((features, 16), (low_level, 4), (fine, 2)):
        values = ops.convert_to_numpy(values)[0, :, :, 0]
        at = shift if stride == 16 or block_stride == stride else 0
        expected = pixels[at::stride, at::stride]
        assert values.shape == (size // stride, size // stride)
        np.testing.assert_allclose(values / values[0, 0], expected / expected[0, 0], rtol=1e-4)


def test_atrous_rates_take_the_place_of_strides():
    image = keras.Input((None, None, 3))
    rates = {}
    for output_stride in (8, 16, 32):
        features = mobilenet_v2(image, alpha=0.1, output_stride=output_stride, block_strides=(), momentum=0.99)
        model = keras.Model(image, features.last)
        rates[output_stride] = [
            model.get_layer(f"MobilenetV2-expanded_conv_{block}-depthwise").dilation_rate[0]
            for block in (6, 7, 13, 14)
        ]
    assert rates == {8: [1, 2, 2, 4], 16: [1, 1, 1, 2], 32: [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"backbone": "resnet"}, "mobilenet_v2, mobilenet_v3_large_seg"),
        ({"backbone": "mobilenet_v3_large_seg", "aspp_rates": (6,)}, "aspp_rates do not apply to mobilenet_v3"),
        ({"dense_prediction_cell": True, "aspp_rates": (6,)}, "cannot be combined with atrous rates"),
        ({"dense_prediction_cell": True, "backbone": "mobilenet_v3_small_seg"}, "be combined with mobilenet_v3_small"),
        ({"multi_grid": (1, 2, 4)}, "multi_grid does not apply to mobilenet_v2"),
        ({"backbone": "xception_65", "multi_grid": (1, 2)}, "multi_grid must be three whole numbers"),
        ({"block_strides": (3,)}, "block_strides must be among 2, 4, 8"),
        ({"output_stride": 4}, "8, 16 or 32"),
        ({"head": "deconvolution"}, "subpixel, bilinear"),
        ({"subpixel": "pixels"}, "subpixel must be one of kernels, logits, got 'pixels'"),
        ({"subpixel_start": "zero"}, "subpixel_start must be one of bilinear, nearest, got 'zero'"),
        ({"alpha": 0}, "alpha"),
        ({"backbone": "xception_65", "alpha": 0.5}, "alpha must be 1 for xception_65"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        deeplab_v3_plus(**{"num_classes": 3, **arguments})


def test_every_backbone_that_options_name_can_be_built():
    assert tuple(PUBLISHED) == BACKBONES
