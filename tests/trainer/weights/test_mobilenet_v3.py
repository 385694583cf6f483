"""MobileNetV3: the published checkpoint, and what Keras Applications has of it."""

from __future__ import annotations

import re

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from keras.src.legacy.saving import legacy_h5_format

from tests.drawn import published
from tests.drawn.checkpoints import mobilenet_v3_small_variables, write_checkpoint
from tests.drawn.networks import random_image, randomise
from trainer.network.deeplab import deeplab_v3_plus
from trainer.weights.checkpoints import architecture, load, load_weights_from, open_published

NAME = "mobilenet_v3_small_seg"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The values of a checkpoint, what was imported of it, and the network."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    values = write_checkpoint(path, mobilenet_v3_small_variables(4))
    source = open_published(str(path))
    numbers = architecture(source)
    model = deeplab_v3_plus(**numbers)
    return values, load(model, source), model, numbers


def test_every_variable_of_the_checkpoint_has_its_layer(imported):
    values, result, model, numbers = imported
    expected = {"backbone": NAME, "num_classes": 4, "output_stride": 32, "decoder": True, "head": "bilinear"}
    assert expected.items() <= numbers.items()
    assert (result.skipped, result.unused) == ([], [])
    assert model.count_params() == sum(value.size for value in values.values()) - 4  # two biases are one


def test_it_computes_what_was_published(imported):
    values, _, model, _ = imported
    image = random_image(65, 97)
    published.assert_same(model(image), published.logits(values, image, 32))


@pytest.mark.parametrize("names", ["published", pytest.param("Keras 3", marks=pytest.mark.slow)])
def test_imagenet_weights_start_all_but_the_last_blocks(names, imported, tmp_path):
    classifier = keras.applications.MobileNetV3Small(weights=None, include_top=False, input_shape=(32, 32, 3))
    randomise(classifier)
    path = str(tmp_path / "mobilenet.h5")
    with h5py.File(path, "w") as file:
        if names == "Keras 3":
            legacy_h5_format.save_weights_to_hdf5_group(file, classifier)
        else:
            for layer in (layer for layer in classifier.layers if layer.weights):
                name = re.sub(r"_(expand|depthwise|project|squeeze_excite)(?=_|$)", r"/\1", layer.name)
                name = name.replace("_bn", "/BatchNorm").replace("excite_conv", "excite/Conv")
                name = re.sub(r"^conv", "Conv", name)
                for weight in layer.weights:
                    kind = "depthwise_kernel" if "depthwise" in name and weight.name == "kernel" else weight.name
                    file[f"{name}/{name}/{kind}:0"] = ops.convert_to_numpy(weight)
    model = deeplab_v3_plus(4, backbone=NAME)
    result = load_weights_from(model, path)
    blocks = {name.split("/")[1] for name in result.skipped if name.startswith("MobilenetV3/")}
    assert blocks == {"Conv_1", "expanded_conv_8", "expanded_conv_9", "expanded_conv_10"}
    assert {name.split("/")[1] for name in result.unused} <= blocks
    pairs = {
        "expanded_conv_7_squeeze_excite_conv_1": "expanded_conv_7-squeeze_excite-Conv_1",
        "conv_bn": "Conv-BatchNorm",
    }
    for theirs, ours in pairs.items():
        layers_ = classifier.get_layer(theirs), model.get_layer(f"MobilenetV3-{ours}")
        for one, other in zip(*(layer.get_weights() for layer in layers_), strict=True):
            np.testing.assert_array_equal(one, other)
