"""The network at any size, its geometry, and the model folder."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers, ops

from trainer.formats.cards import ModelCard, load_card
from trainer.formats.palettes import CAMVID, VOC
from trainer.network.backbones import mobilenet_v2, xception_65
from trainer.network.deeplab import deeplab_v3_plus, load_model, predictor, save_model
from trainer.options import InputError

SMALL = {"num_classes": 11, "alpha": 0.25}


def random_image(height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3)).astype("uint8")


def randomise(model: keras.Model) -> None:
    """Weights and statistics away from their initial values, so that every one of them shows in the output."""
    rng = np.random.default_rng(1)
    for layer in model.layers:
        values = layer.get_weights()
        if isinstance(layer, layers.BatchNormalization):
            values = [rng.uniform(0.5, 1.5, value.shape) for value in values]
        else:
            values = [value + rng.normal(0, 0.02, value.shape) for value in values]
        layer.set_weights(values)


@pytest.fixture(scope="module")
def small_model() -> keras.Model:
    model = deeplab_v3_plus(**SMALL)
    randomise(model)
    return model


@pytest.fixture(scope="module")
def folder(small_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model(str(path), small_model, ModelCard({**SMALL}, CAMVID, max_side=64, scores={"miou": 0.5}))
    return path


@pytest.mark.parametrize(
    ("output_stride", "head", "decoder"),
    [
        (8, "bilinear", False),
        (8, "subpixel", True),
        (16, "bilinear", True),
        (16, "subpixel", False),
        (32, "bilinear", False),
        (32, "subpixel", True),
    ],
)
def test_logits_have_the_size_of_the_picture_whatever_it_is(output_stride, head, decoder):
    rates = (2,) if decoder else None
    model = deeplab_v3_plus(3, alpha=0.25, output_stride=output_stride, head=head, decoder=decoder, aspp_rates=rates)
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
        models = [deeplab_v3_plus(2, alpha=0.1, head=head) for head in ("bilinear", "subpixel")]
    finally:
        keras.config.set_dtype_policy(before)
    for model in models:
        assert model.get_layer("aspp0").compute_dtype == "bfloat16"
        assert keras.backend.standardize_dtype(model(random_image(17, 17)).dtype) == "float32"


def test_mirrored_kernels_on_a_mirrored_picture_give_mirrored_logits():
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
    ("backbone", "block_stride", "shift"),
    [(mobilenet_v2, None, 0), (mobilenet_v2, 16, 8), (mobilenet_v2, 4, 2), (xception_65, 16, 8)],
)
def test_features_lie_on_pixels_or_on_the_middle_of_blocks(backbone, block_stride, shift):
    """With kernels that copy their centre, feature i shows the pixel it lies on: stride·i (+ half a block)."""
    image = keras.Input((None, None, 3))
    model = keras.Model(image, backbone(image, output_stride=16, block_stride=block_stride))
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
    features, low_level = model(np.repeat(pixels[None, :, :, None], 3, axis=3))
    for values, stride in ((features, 16), (low_level, 4)):
        values = ops.convert_to_numpy(values)[0, :, :, 0]
        at = shift if stride == 16 or block_stride == 4 else 0
        expected = pixels[at::stride, at::stride]
        assert values.shape == (size // stride, size // stride)
        np.testing.assert_allclose(values / values[0, 0], expected / expected[0, 0], rtol=1e-4)


def test_atrous_rates_take_the_place_of_strides():
    image = keras.Input((None, None, 3))
    rates = {}
    for output_stride in (8, 16, 32):
        model = keras.Model(image, mobilenet_v2(image, alpha=0.1, output_stride=output_stride)[0])
        rates[output_stride] = [
            model.get_layer(f"MobilenetV2-expanded_conv_{block}-depthwise").dilation_rate[0]
            for block in (6, 7, 13, 14)
        ]
    assert rates == {8: [1, 2, 2, 4], 16: [1, 1, 1, 2], 32: [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"backbone": "resnet"}, "mobilenet_v2, xception_65"),
        ({"output_stride": 4}, "8, 16 or 32"),
        ({"head": "deconvolution"}, "subpixel, bilinear"),
        ({"alpha": 0}, "alpha"),
        ({"backbone": "xception_65", "alpha": 0.5}, "mobilenet_v2 only"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        deeplab_v3_plus(**{"num_classes": 3, **arguments})


def test_predictor_gives_the_class_of_the_greatest_logit_and_the_softmax(small_model):
    image = random_image(40, 56, batch=2)
    logits = ops.convert_to_numpy(small_model(image))
    ids = predictor(small_model)(image)
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, logits.argmax(-1))
    assert len(np.unique(ids)) > 1
    probabilities = predictor(small_model, "probabilities")(image)
    assert probabilities.dtype == np.float32
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(-1, keepdims=True), atol=1e-5)


def test_predictor_can_be_used_from_many_threads_at_many_sizes(small_model):
    predict = predictor(small_model)
    images = [random_image(16 + 3 * n, 20 + n) for n in range(6)]
    expected = [predict(image) for image in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for result, wanted in zip(pool.map(predict, images * 3), expected * 3, strict=True):
            np.testing.assert_array_equal(result, wanted)


def test_a_saved_model_comes_back_with_its_card_and_to_the_bit(small_model, folder):
    model, card = load_model(str(folder))
    assert card.palette == CAMVID
    assert card.scores == {"miou": 0.5}
    assert load_card(str(folder)) == card
    image = random_image(33, 47)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(image)), ops.convert_to_numpy(small_model(image)))


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for name in ("model.keras", "model.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    return target


def rewritten(path: Path, change) -> None:
    """Rewrite the archive at `path`, each member through `change(name, bytes)`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))


def test_loading_runs_nothing_from_the_archive(folder, tmp_path, monkeypatch):
    """The layer descriptions are replaced by a call of a shell command; none may be looked at."""
    target, trace = copy_of(folder, tmp_path / "model"), tmp_path / "trace"
    call = {"module": "os", "class_name": "system", "config": f"touch {trace}", "registered_name": "function"}
    evil = {"module": "builtins", "class_name": "function", "config": "system", "registered_name": "function"}
    code = {"class_name": "Lambda", "module": "keras.layers", "config": {"function": evil, "name": "x"}, "build": call}
    rewritten(target / "model.keras", lambda name, data: json.dumps(code).encode() if name == "config.json" else data)

    def refuse(*args, **kwargs):
        raise AssertionError("a layer description was deserialised")

    monkeypatch.setattr("keras.src.saving.saving_lib.deserialize_keras_object", refuse)
    with pytest.raises(AssertionError, match="deserialised"):
        keras.saving.load_model(target / "model.keras")
    load_model(str(target))
    assert not trace.exists()


def test_links_to_other_files_are_not_followed(folder, tmp_path):
    target = copy_of(folder, tmp_path / "model")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.zeros(3)

    def link(name: str, data: bytes) -> bytes:
        if name != "model.weights.h5":
            return data
        weights = tmp_path / "weights.h5"
        weights.write_bytes(data)
        with h5py.File(weights, "r+") as file:
            group = file["layers/conv2d/vars"]
            del group["0"]
            group["0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
        return weights.read_bytes()

    rewritten(target / "model.keras", link)
    with pytest.raises(InputError, match="ExternalLink"):
        load_model(str(target))


def test_a_folder_without_a_model_is_refused(tmp_path, folder):
    with pytest.raises(InputError, match=r"model\.json is missing"):
        load_model(str(tmp_path))
    target = copy_of(folder, tmp_path / "model")
    (target / "model.keras").unlink()
    with pytest.raises(InputError, match=r"model\.keras is missing"):
        load_model(str(target))


@pytest.mark.parametrize("damage", ["text", "truncated", "empty", "no weights"])
def test_damaged_weights_are_refused(damage, folder, tmp_path):
    target = copy_of(folder, tmp_path / "model")
    path = target / "model.keras"
    whole = path.read_bytes()
    if damage == "no weights":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
    else:
        path.write_bytes({"text": b"not a model", "truncated": whole[: len(whole) // 2], "empty": b""}[damage])
    with pytest.raises(InputError, match=r"model\.keras is damaged"):
        load_model(str(target))


def test_flipped_bytes_in_the_weights_are_refused(folder, tmp_path):
    target = copy_of(folder, tmp_path / "model")
    data = bytearray((target / "model.keras").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (target / "model.keras").write_bytes(data)
    with pytest.raises(InputError, match=r"model\.keras is damaged"):
        load_model(str(target))


def change_card(folder: Path, **changes) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, **changes}))


def test_another_number_of_classes_is_refused(folder, tmp_path):
    target = copy_of(folder, tmp_path / "model")
    change_card(target, palette=VOC.to_json())
    with pytest.raises(InputError, match="11 classes but the palette voc has 21"):
        load_model(str(target))
    change_card(target, architecture={"num_classes": 21, "alpha": 0.25})
    with pytest.raises(InputError, match=r"does not belong to model\.json"):
        load_model(str(target))


def test_a_damaged_card_is_refused(folder, tmp_path):
    target = copy_of(folder, tmp_path / "model")
    change_card(target, architecture={"num_classes": 11, "layers": "evil"})
    with pytest.raises(InputError, match="layers"):
        load_model(str(target))
    (target / "model.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_model(str(target))
    (target / "model.json").write_text("[1]")
    with pytest.raises(InputError, match="expected a JSON object"):
        load_card(str(target))


JAX_PROGRAM = """
import sys
import keras, numpy as np
from trainer.train.losses import sparse_cross_entropy
from trainer.network.deeplab import load_model, predictor
assert keras.backend.backend() == "jax"
folder, images, probabilities, ids = sys.argv[1:]
model, card = load_model(folder)
images = np.load(images)
np.testing.assert_allclose(predictor(model, "probabilities")(images), np.load(probabilities), atol=1e-3)
before = [np.asarray(weight) for weight in model.trainable_weights]
model.compile(keras.optimizers.Adam(1e-3), sparse_cross_entropy(card.palette.ignore_id))
labels = np.load(ids)
loss = model.train_on_batch(images, labels, np.ones(labels.shape, "float32"))
assert np.isfinite(loss)
moved = [np.abs(np.asarray(now) - then).max() > 0 for now, then in zip(model.trainable_weights, before)]
print("moved", sum(moved), "of", len(moved), "tensorflow" in sys.modules)
"""


def test_under_jax_the_same_folder_gives_the_same_probabilities_and_can_be_trained(small_model, folder, tmp_path):
    pytest.importorskip("jax")
    images = random_image(33, 49, batch=2)
    values = {
        "images": images,
        "probabilities": predictor(small_model, "probabilities")(images),
        "ids": predictor(small_model)(images),
    }
    for name, value in values.items():
        np.save(tmp_path / f"{name}.npy", value)
    paths = [str(tmp_path / f"{name}.npy") for name in values]
    done = subprocess.run(
        [sys.executable, "-c", JAX_PROGRAM, str(folder), *paths],
        # What is run once need not be fast.
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    count = len(small_model.trainable_weights)
    assert done.stdout.split() == ["moved", str(count), "of", str(count), "False"]
