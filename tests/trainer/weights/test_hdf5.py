"""HDF5 files of the Keras ports and of Keras Applications."""

from __future__ import annotations

import zlib

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from keras.src.legacy.saving import legacy_h5_format

from tests.drawn.checkpoints import ALPHA, mobilenet_variables, xception_variables
from tests.drawn.networks import random_image, randomise
from tests.drawn.ports import golbstein, random_values, write_port
from trainer.network.deeplab import deeplab_v3_plus
from trainer.network.layers import published_name
from trainer.options import InputError
from trainer.weights import probe
from trainer.weights.checkpoints import architecture, load, load_weights_from
from trainer.weights.hdf5 import Hdf5


@pytest.fixture(scope="module")
def values():
    return random_values(mobilenet_variables(3))


@pytest.fixture(scope="module")
def small():
    """A network that `values` fit."""
    return deeplab_v3_plus(3, alpha=ALPHA, head="bilinear")


@pytest.mark.parametrize("root", ["", "model_weights/"])
def test_every_variable_of_bonlimes_files_is_known(root, values, tmp_path):
    xception = {name: np.zeros(shape, "float16") for name, shape in xception_variables(4).items()}
    variables = values if root else xception
    write_port(tmp_path / "port.h5", variables, root)
    source = Hdf5(str(tmp_path / "port.h5"))
    assert source.shapes == {name: value.shape for name, value in variables.items()}
    for name in list(variables)[::40]:
        np.testing.assert_array_equal(source.read(name), variables[name])


def test_a_port_is_loaded_like_a_checkpoint(values, small, tmp_path):
    renamed = {name: value for name, value in values.items() if not name.startswith("aspp0/")}
    renamed |= {"expanded_conv_99/other": np.zeros(3, "float32")}
    write_port(tmp_path / "port.h5", renamed)
    imported = load_weights_from(small, str(tmp_path / "port.h5"))
    assert str(imported) == (
        "107 layers loaded (MobilenetV2, image_pooling, concat_projection, logits/semantic), 2 newly initialised "
        "(aspp0); not used: expanded_conv_99/expanded_conv_99"
    )
    for name in ("MobilenetV2/expanded_conv_3/depthwise", "MobilenetV2/Conv", "concat_projection"):
        layer = next(layer for layer in small.layers if published_name(layer.name) == name)
        kind = "depthwise_weights" if name.endswith("depthwise") else "weights"
        np.testing.assert_array_equal(layer.get_weights()[0], values[f"{name}/{kind}"])


@pytest.mark.parametrize("name", ["custom_logits_semantic", "conv_upsample"])
def test_other_names_of_the_last_layer_are_known(name, tmp_path):
    variables = {f"{name}/weights": np.ones((1, 1, 256, 5)), f"{name}/biases": np.ones(5)}
    write_port(tmp_path / "port.h5", variables)
    assert set(Hdf5(str(tmp_path / "port.h5")).shapes) == {"logits/semantic/weights", "logits/semantic/biases"}


def test_a_subpixel_port_predicts_what_it_predicted(tmp_path):
    """Its channels are in another order, and its cells lie where Keras puts them for even sizes."""
    port = golbstein(2, 32)
    randomise(port)
    path = str(tmp_path / "port.h5")
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, port)
    source = Hdf5(path)
    numbers = architecture(source)
    expected = {"head": "subpixel", "num_classes": 2, "output_stride": 8, "block_strides": [2, 4, 8], "decoder": False}
    assert expected.items() <= numbers.items()
    model = deeplab_v3_plus(**numbers)
    imported = load(model, source)
    assert (imported.skipped, imported.unused) == ([], [])
    image = random_image(32, 32)
    result, expected = (ops.convert_to_numpy(network(image.astype("float32"))) for network in (model, port))
    np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())
    other = load(deeplab_v3_plus(2, decoder=True), source)
    assert "logits/semantic" in other.skipped and "logits/semantic/place_weights" in other.unused


@pytest.mark.parametrize("written", ["before version 3", pytest.param("version 3", marks=pytest.mark.slow)])
def test_imagenet_weights_of_keras_start_the_backbone(written, tmp_path):
    path = str(tmp_path / "mobilenet.weights.h5")
    classifier = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=2)
    randomise(classifier)
    if written == "version 3":
        classifier.save_weights(path)
    else:
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, classifier)
    model = deeplab_v3_plus(3)
    imported = load_weights_from(model, path)
    assert str(imported).startswith(
        "102 layers loaded (MobilenetV2), 7 newly initialised (image_pooling, aspp0, concat_projection, "
        "logits/semantic); "
    )
    assert {name.split("/")[0] for name in imported.unused} == {"Conv_1", "Conv_1_bn", "predictions"}
    pairs = {"block_5_depthwise_BN": "MobilenetV2-expanded_conv_5-depthwise-BatchNorm", "Conv1": "MobilenetV2-Conv"}
    for theirs, ours in pairs.items():
        weights = (network.get_layer(name).get_weights() for network, name in ((classifier, theirs), (model, ours)))
        for one, other in zip(*weights, strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="ImageNet weights of a backbone"):
        architecture(Hdf5(path))


def test_shapes_are_compared_before_anything_is_read(values, small, tmp_path):
    path = tmp_path / "port.h5"
    write_port(path, {name: value for name, value in values.items() if name != "aspp0/weights"})
    with h5py.File(path, "a") as file:
        file.create_dataset("aspp0/aspp0/kernel:0", (1 << 20, 1 << 20), "float32", chunks=(1024, 1024))
    with pytest.raises(InputError, match=r"aspp0 has kernel of shape \[1048576, 1048576\].*\[1, 1, 80, 256\]"):
        load_weights_from(small, str(path))


@pytest.mark.parametrize("case", ["virtual", "external", "text", "twice", "huge chunk", "truncated", "no file"])
def test_hdf5_files_that_are_not_plain_weights_are_refused(case, values, small, tmp_path):
    path, secret = tmp_path / "port.h5", tmp_path / "secret"
    secret.write_bytes(bytes(4 * 256))
    write_port(path, {name: value for name, value in values.items() if not name.startswith("aspp0/BatchNorm")})
    message = {"virtual": "another file", "external": "another file", "twice": "twice"}.get(case, "port.h5")
    with h5py.File(path, "a") as file:
        for kind in ("gamma", "beta", "moving_mean", "moving_variance"):
            name = f"aspp0_BN/aspp0_BN/{kind}:0"
            if case == "virtual":
                layout = h5py.VirtualLayout((256,), "float32")
                layout[:] = h5py.VirtualSource(str(secret), "x", (256,))
                file.create_virtual_dataset(name, layout)
            elif case == "external":
                file.create_dataset(name, (256,), "float32", external=[(str(secret), 0, 1024)])
            elif case == "text":
                file.create_dataset(name, (256,), h5py.string_dtype())
            elif case == "huge chunk":
                file.create_dataset(name, (256,), "float32", chunks=(1 << 24,), maxshape=(None,))
            else:
                file[name] = np.ones(256, "float32")
                file[f"aspp0_BN/other/{name}"] = np.ones(256) if case == "twice" and kind == "gamma" else 0
    if case == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    if case == "no file":
        path.unlink()
    with pytest.raises(InputError, match=message):
        load_weights_from(small, str(path))


@pytest.mark.parametrize("case", ["unstored", "huge chunk", "gigabytes of zeros", "text"])
def test_an_array_that_claims_more_than_the_file_stores_is_never_read(case, tmp_path, monkeypatch):
    """Nor by the subprocess, which would take gigabytes and many seconds to find that its shape does not fit."""
    path, name = str(tmp_path / "port.h5"), "aspp0/aspp0/kernel:0"
    with h5py.File(path, "w") as file:
        if case == "unstored":
            file.create_dataset(name, (3 << 28,), "float32", chunks=(1 << 20,), fillvalue=1)
        elif case == "huge chunk":
            file.create_dataset(name, data=np.ones(9, "float32"), chunks=(1 << 24,), maxshape=(None,), compression=1)
        elif case == "gigabytes of zeros":
            array = file.create_dataset(name, (3 << 28,), "float32", chunks=(1 << 24,), compression=9)
            zeros = zlib.compress(bytes(4 << 24), 9)
            for start in range(0, 3 << 28, 1 << 24):
                array.id.write_direct_chunk((start,), zeros)
        else:  # of which every value may refer to the same bytes
            file.create_dataset(name, (99,), h5py.string_dtype())
    read = []
    with monkeypatch.context() as patch, h5py.File(path) as file:
        patch.setattr(h5py.Dataset, "__getitem__", lambda array, _: read.append(array.name))
        file.visititems(probe.read)
        with pytest.raises(InputError, match=r"port\.h5: /aspp0/aspp0/kernel:0 (claims|is not a plain array)"):
            Hdf5(path).read("aspp0/weights")
    assert not read


def test_weights_that_are_compressed_or_beside_an_empty_array_are_read(tmp_path):
    path, random = str(tmp_path / "port.h5"), np.random.default_rng(0).random(1 << 20, np.float32)
    with h5py.File(path, "w") as file:
        for name, values in (("Conv", np.zeros(8 << 20, "float32")), ("aspp0", random)):
            file.create_dataset(f"{name}/{name}/kernel:0", data=values, chunks=(1 << 20,), compression=9)
        file.create_dataset("logits_semantic/logits_semantic/bias:0", (256,), "float32")
        file["top_level_model_weights"] = h5py.Empty("float32")
    source = Hdf5(path)
    np.testing.assert_array_equal(source.read("aspp0/weights"), random)
    assert not source.read("MobilenetV2/Conv/weights").any() and not source.read("logits/semantic/biases").any()


def test_a_file_that_matches_nothing_is_refused(small, tmp_path):
    write_port(tmp_path / "port.h5", {"block1_conv1/weights": np.ones((3, 3, 3, 64))})
    with pytest.raises(InputError, match="has no layer of this model"):
        load_weights_from(small, str(tmp_path / "port.h5"))
