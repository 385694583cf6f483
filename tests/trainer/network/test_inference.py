"""Predictions are the class, softmax and entropy of the logits, computed tile by tile as for the whole image."""

from __future__ import annotations

import concurrent.futures
import ctypes
import gc

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.drawn.networks import assert_greatest, random_image, randomise, small_network
from tests.drawn.training import pooled_network
from trainer.network import inference
from trainer.network.deeplab import HEAD, UPSAMPLE
from trainer.network.heads import Subpixel, SubpixelKernels
from trainer.network.inference import predictor
from trainer.network.layers import Upsample

HEADS = ("bilinear", "subpixel from bilinear", "subpixel from nearest", "kernels")


def headed(head: str, stride: int, classes: int) -> keras.Model:
    """The shortest network with a head of HEADS."""
    image = keras.Input((None, None, 3))
    x = layers.AveragePooling2D(stride, padding="same")(layers.Rescaling(1 / 64, offset=-2.0)(image))
    x = layers.Conv2D(16, 1)(x)
    if head == "kernels":
        logits = SubpixelKernels(classes, stride, dtype="float32", name=HEAD)([x, layers.Conv2D(4, 1)(x), image])
    elif head.startswith("subpixel"):
        logits = Subpixel(classes, stride, head.split()[-1], dtype="float32", name=HEAD)([x, image])
    else:
        logits = layers.Conv2D(classes, 1, dtype="float32", name=HEAD)(x)
        logits = Upsample(stride, dtype="float32", name=UPSAMPLE)([logits, image])
    model = keras.Model(image, logits)
    randomise(model)
    return model


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of a few cells."""
    monkeypatch.setattr(inference, "TILE_BYTES", {"CPU": 1 << 15, "GPU": 1 << 15})
    monkeypatch.setattr(inference, "TILE_SIDE", 64)


STRIDES, CLASSES = (4, 8, 16, 32), (1, 3, 40)
COMBINATIONS = [
    # Every head at every stride, with every number of classes and every number at every stride; the others are slow.
    pytest.param(head, stride, classes, marks=() if (i + j + k) % 3 == 0 else pytest.mark.slow)
    for i, head in enumerate(HEADS)
    for j, stride in enumerate(STRIDES)
    for k, classes in enumerate(CLASSES)
]


@pytest.mark.parametrize(("head", "stride", "classes"), COMBINATIONS)
def test_tiles_give_what_the_whole_image_gives(head, stride, classes, small_tiles):
    model = headed(head, stride, classes)
    predict = {what: predictor(model, what) for what in inference.WHAT}
    rng = np.random.default_rng(stride + classes)
    sizes = [(1, 1), (stride, 3 * stride + 1), (stride + 1, 1), *rng.integers(1, 150, (3, 2)).tolist()]
    for height, width in sizes:
        image = random_image(height, width, batch=2)
        logits = ops.convert_to_numpy(model(image))
        probabilities = ops.convert_to_numpy(ops.softmax(logits))
        assert_greatest(predict["ids"](image), logits)
        np.testing.assert_allclose(predict["probabilities"](image), probabilities, rtol=0, atol=1e-5)
        ids, best, entropy = predict["best"](image)
        assert ids.dtype == np.uint8 and best.dtype == entropy.dtype == np.float32
        assert_greatest(ids, logits)
        np.testing.assert_allclose(best, probabilities.max(-1), rtol=0, atol=1e-5)
        logarithms = np.log(np.maximum(probabilities, 1e-30))
        np.testing.assert_allclose(entropy, -(probabilities * logarithms).sum(-1), rtol=0, atol=2e-5)


def test_a_network_of_ours_gives_the_same_in_tiles(small_tiles):
    model, image = small_network(), random_image(201, 157)
    assert_greatest(predictor(model)(image), ops.convert_to_numpy(model(image)))


@pytest.mark.parametrize("head", HEADS)
def test_features_of_half_precision_give_logits_of_full_precision(head, small_tiles):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = headed(head, 8, 5)
    finally:
        keras.config.set_dtype_policy(before)
    image = random_image(70, 90)
    ids, best, _ = predictor(model, "best")(image)
    probabilities = ops.convert_to_numpy(ops.softmax(model(image)))
    # Compiled, a convolution and its bias are rounded once.
    np.testing.assert_allclose(best, probabilities.max(-1), atol=5e-3)
    assert (ids == probabilities.argmax(-1)).mean() > 0.98


@pytest.mark.parametrize(("area", "side"), [(0, 4), (1, 0), (5, 3), (100, 4), (10**6, 10**6)])
def test_tiles_cover_every_cell_once(area, side):
    seen = np.zeros((7, 11), int)
    for tile in inference._tiles(7, 11, area, side):
        seen[tile] += 1
        height, width = seen[tile].shape
        assert height * width <= max(area, 1) and max(height, width) <= max(side, 1)
    assert (seen == 1).all()


@pytest.mark.parametrize("head", HEADS)
def test_logits_of_a_large_image_are_never_whole(head, small_tiles, monkeypatch):
    """40 classes of 200x300 pixels are 9.6 MB of logits, of which a tile has 32 kB."""
    model, largest = headed(head, 4, 40), [0]
    compiled = inference._compiled

    def watched(network, *dtypes):
        run = compiled(network, *dtypes)

        def call(*inputs):
            largest[0] = max([largest[0], *(int(np.prod(x.shape)) for x in inputs[1:])])
            return run(*inputs)

        return call

    monkeypatch.setattr(inference, "_compiled", watched)
    assert predictor(model)(random_image(200, 300)).shape == (1, 200, 300)
    assert 0 < largest[0] * 40 * 4 / 3 <= 1 << 15


def test_predictor_gives_the_class_of_the_greatest_logit_and_the_softmax(small_model):
    image = random_image(40, 56, batch=2)
    logits = ops.convert_to_numpy(small_model(image))
    ids = predictor(small_model)(image)
    assert ids.dtype == np.uint8
    assert_greatest(ids, logits)
    assert len(np.unique(ids)) > 1
    probabilities = predictor(small_model, "probabilities")(image)
    assert probabilities.dtype == np.float32
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(-1, keepdims=True), atol=1e-5)


def test_predictor_follows_the_weights():
    image, model = random_image(40, 56), pooled_network(3)
    predict = predictor(model, "probabilities")
    before = predict(image)
    randomise(model)
    assert np.abs(predict(image) - before).max() > 1e-3


def test_predictor_can_be_used_from_many_threads_at_many_sizes(small_model):
    predict = predictor(small_model)
    images = [random_image(16 + 3 * n, 20 + n) for n in range(6)]
    expected = [predict(image) for image in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for result, want in zip(pool.map(predict, images * 3), expected * 3, strict=True):
            np.testing.assert_array_equal(result, want)


class Heap(ctypes.Structure):
    """What glibc's `mallinfo2` returns."""

    NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only newer glibc counts its heap")
def test_predictor_frees_what_building_the_network_has_left():
    """TensorFlow would keep an operation for every variable, and for every shape that was read."""
    function = ctypes.CDLL(None).mallinfo2
    function.restype = Heap
    model = small_network()
    gc.collect()
    before = function().uordblks
    predict = predictor(model)
    assert before - function().uordblks > 4 << 20
    assert predict(random_image(16, 16)).shape == (1, 16, 16)
