"""Published checkpoints: real, synthetic, foreign and damaged."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from tests.drawn import published
from tests.drawn.checkpoints import (
    ALPHA,
    Drawn,
    mobilenet_variables,
    random_values,
    write_checkpoint,
    xception_variables,
)
from tests.drawn.checkpoints import conv as conv_variables
from tests.drawn.networks import random_image
from tests.drawn.places import DATA
from trainer.formats.cards import ModelCard
from trainer.formats.labels import Palette
from trainer.formats.palettes import CAMVID, VOC
from trainer.network.deeplab import deeplab_v3_plus
from trainer.network.folder import save_model
from trainer.network.inference import predictor
from trainer.network.layers import published_name
from trainer.network.options import SUBPIXEL_STARTS
from trainer.options import InputError
from trainer.weights.checkpoints import Checkpoint, architecture, load, load_weights_from

REAL = DATA / "deeplabv3_mnv2_pascal/model.ckpt"
MORE = [("decoder", 16), ("cell", 16)]
needs_real = pytest.mark.skipif(not REAL.with_suffix(".ckpt.index").exists(), reason=f"no checkpoint at {REAL}")


def weights_of(model: keras.Model) -> dict[str, list[np.ndarray]]:
    return {published_name(layer.name): layer.get_weights() for layer in model.layers if layer.weights}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A MobileNetV2 checkpoint of 3 classes: its path and values."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    return str(path), write_checkpoint(path, mobilenet_variables(3))


def test_every_variable_of_a_mobilenet_checkpoint_has_its_layer(small):
    path, values = small
    assert architecture(Checkpoint(path)) == {
        "num_classes": 3,
        "backbone": "mobilenet_v2",
        "alpha": ALPHA,
        "output_stride": 16,
        "decoder": False,
        "head": "bilinear",
        "aspp_rates": [],
    }
    model = deeplab_v3_plus(3, alpha=ALPHA, head="bilinear")
    imported = load_weights_from(model, path)
    assert (imported.skipped, imported.unused) == ([], [])
    weights = weights_of(model)
    assert sorted(imported.loaded) == sorted(weights)
    np.testing.assert_array_equal(
        weights["MobilenetV2/expanded_conv_3/depthwise"][0],
        values["MobilenetV2/expanded_conv_3/depthwise/depthwise_weights"],
    )
    kinds = ("gamma", "beta", "moving_mean", "moving_variance")
    for kind, array in zip(kinds, weights["aspp0/BatchNorm"], strict=True):
        np.testing.assert_array_equal(array, values[f"aspp0/BatchNorm/{kind}"])
    np.testing.assert_array_equal(weights["logits/semantic"][1], values["logits/semantic/biases"])
    image = random_image(65, 33)
    published.assert_same(model(image), published.logits(values, image))


@pytest.mark.parametrize(
    ("behind", "output_stride"), [("cell", 8), *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_heads_compute_the_same_as_the_published_ones(behind, output_stride):
    values = random_values(mobilenet_variables(3, behind))
    source = Drawn(values)
    numbers = architecture(source) | {"output_stride": output_stride}
    assert (numbers.get("dense_prediction_cell", False), numbers["decoder"]) == (behind == "cell", True)
    model = deeplab_v3_plus(**numbers)
    imported = load(model, source)
    assert (imported.skipped, imported.unused) == ([], [])
    if behind == "cell":
        scopes = {name.split("/")[1] for name in imported.loaded if name.startswith("meta_architecture/")}
        halves = {f"branch{branch}_{half}" for branch in range(5) for half in ("depthwise", "pointwise")}
        assert scopes == {*halves, "concat_projection"}
    image = random_image(33, 65)
    published.assert_same(model(image), published.logits(values, image, output_stride))


def test_the_backbone_is_loaded_from_weights_with_another_head(small):
    """No decoder; the cell in place of ASPP; and slim's classifier, beside averages of its variables."""
    model = deeplab_v3_plus(3, alpha=ALPHA, decoder=True)
    imported = load_weights_from(model, small[0])
    assert {name.split("/")[0] for name in imported.skipped} == {"decoder"}
    assert str(imported).endswith("10 newly initialised (decoder)")
    said = str(load(model, Drawn(random_values(mobilenet_variables(3, "cell")))))
    assert said.startswith("113 layers loaded (MobilenetV2, decoder, logits/semantic), 6 newly initialised (")
    assert said.endswith("(image_pooling, aspp0, concat_projection); not used: meta_architecture")
    slim = {name: shape for name, shape in mobilenet_variables(3).items() if name.startswith("MobilenetV2/")}
    slim |= conv_variables("MobilenetV2/Conv_1", 1, 80, 1280) | {"MobilenetV2/Logits/biases": [1001]}
    said = str(load(model, Drawn(random_values(slim | {"MobilenetV2/Conv/weights/ExponentialMovingAverage": [1]}))))
    assert said.startswith("102 layers loaded (MobilenetV2), 17 newly initialised")
    assert said.endswith("not used: MobilenetV2/Conv_1, MobilenetV2/Logits"), said


@pytest.mark.parametrize("start", SUBPIXEL_STARTS)
def test_a_subpixel_head_starts_as_an_enlargement_of_the_published_layer(start, small):
    path, values = small
    model = deeplab_v3_plus(3, alpha=ALPHA, head="subpixel", subpixel_start=start)
    assert load_weights_from(model, path).skipped == []
    head = model.get_layer("logits-semantic")
    x = np.random.default_rng(0).random((1, 2, 3, 256), np.float32)
    result = ops.convert_to_numpy(head([x, np.zeros((1, 32, 48, 3))]))
    cells = x @ values["logits/semantic/weights"][0, 0] + values["logits/semantic/biases"]
    kind = {"size": (32, 48), "interpolation": start}
    np.testing.assert_allclose(result, ops.convert_to_numpy(ops.image.resize(cells, **kind)), rtol=1e-4, atol=1e-5)


THREE = {"num_classes": 3, "alpha": ALPHA}


def saved_head(folder, start: str):
    """The subpixel head, with random weights, of a model of three classes that is saved in the folder."""
    source = deeplab_v3_plus(**THREE, subpixel_start=start)
    head = source.get_layer("logits-semantic")
    head.set_weights([np.random.default_rng(0).normal(size=weight.shape) for weight in head.weights])
    save_model(str(folder), source, ModelCard(THREE, Palette("three", VOC.names[:3], VOC.colors[:3])))
    return head


def test_weights_of_a_subpixel_head_carry_over_whatever_it_starts_as(tmp_path):
    head = saved_head(tmp_path, "nearest")
    model = deeplab_v3_plus(**THREE, subpixel_start="bilinear")
    imported = load_weights_from(model, str(tmp_path))
    assert (imported.skipped, imported.unused) == ([], [])
    for weight, expected in zip(model.get_layer("logits-semantic").get_weights(), head.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_head_of_kernels_begins_with_what_the_places_of_one_of_logits_share(tmp_path):
    head = saved_head(tmp_path, "bilinear")
    model = deeplab_v3_plus(**THREE, subpixel="kernels")
    load_weights_from(model, str(tmp_path))
    kernel, bias, *places = model.get_layer("logits-semantic").get_weights()
    np.testing.assert_array_equal(kernel, head.get_weights()[0])
    np.testing.assert_array_equal(bias, head.get_weights()[1])
    assert not any(weight.any() for weight in places)
    other = deeplab_v3_plus(2, alpha=ALPHA, subpixel="kernels")
    assert "logits/semantic" in load_weights_from(other, str(tmp_path)).skipped


def test_all_but_the_last_layer_is_loaded_when_classes_differ(small):
    path, values = small
    model = deeplab_v3_plus(5, alpha=ALPHA)
    before = weights_of(model)["logits/semantic"]
    imported = load_weights_from(model, path)
    assert imported.skipped == ["logits/semantic"]
    assert "logits/semantic" not in imported.loaded
    assert "1 newly initialised (logits/semantic)" in str(imported)
    after = weights_of(model)
    for old, new in zip(before, after["logits/semantic"], strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(after["aspp0"][0], values["aspp0/weights"])


def test_another_alpha_is_refused_with_variable_found_and_expected_shape(small):
    model = deeplab_v3_plus(3, alpha=0.5)
    before = weights_of(model)
    with pytest.raises(InputError, match=r"MobilenetV2/Conv has kernel of shape \[3, 3, 3, 8\].*\[3, 3, 3, 16\]"):
        load_weights_from(model, small[0])
    for name, arrays in weights_of(model).items():
        for old, new in zip(before[name], arrays, strict=True):
            np.testing.assert_array_equal(old, new)


def test_xception_checkpoint_is_recognised_and_fits(tmp_path):
    path = tmp_path / "xception.ckpt"
    values = write_checkpoint(path, xception_variables(4))
    found = architecture(Checkpoint(str(path)))
    assert found == {
        "num_classes": 4,
        "backbone": "xception_65",
        "alpha": 1.0,
        "output_stride": 16,
        "decoder": True,
        "head": "bilinear",
        "aspp_rates": [6, 12, 18],
    }
    model = deeplab_v3_plus(4, backbone="xception_65", head="bilinear")
    imported = load_weights_from(model, str(path))
    assert (imported.skipped, imported.unused) == ([], [])
    assert len(imported.loaded) == len(weights_of(model))
    assert model.count_params() == sum(value.size for value in values.values())
    scope = "xception_65/middle_flow/block1/unit_16/xception_module/separable_conv3_pointwise"
    np.testing.assert_array_equal(weights_of(model)[scope][0], values[f"{scope}/weights"])
    assert [model.get_layer(f"aspp{n}_depthwise").dilation_rate[0] for n in (1, 2, 3)] == [6, 12, 18]
    image = random_image(33, 65)
    published.assert_same(model(image), published.logits(values, image))


def test_training_can_start_from_a_model_folder(small, tmp_path):
    source = deeplab_v3_plus(3, alpha=ALPHA, head="bilinear")
    load_weights_from(source, small[0])
    palette = Palette("three", VOC.names[:3], VOC.colors[:3])
    save_model(str(tmp_path), source, ModelCard({"num_classes": 3, "alpha": ALPHA, "head": "bilinear"}, palette))
    same = deeplab_v3_plus(3, alpha=ALPHA, head="subpixel")
    imported = load_weights_from(same, str(tmp_path))
    assert (imported.skipped, imported.unused) == ([], [])
    other = deeplab_v3_plus(11, alpha=ALPHA)
    assert load_weights_from(other, str(tmp_path)).skipped == ["logits/semantic"]
    np.testing.assert_array_equal(weights_of(other)["aspp0"][0], weights_of(source)["aspp0"][0])


def test_a_folder_without_a_model_is_no_start(tmp_path):
    with pytest.raises(InputError, match="neither a model folder"):
        load_weights_from(keras.Sequential(), str(tmp_path))


def test_a_truncated_checkpoint_is_refused_on_reading(small, tmp_path):
    for part in Path(small[0]).parent.iterdir():
        data = part.read_bytes()
        (tmp_path / part.name).write_bytes(data if part.suffix == ".index" else data[: len(data) // 2])
    layer = keras.layers.Conv2D(256, 1, use_bias=False, name="aspp0")
    with pytest.raises(InputError, match="cannot be read as a TensorFlow checkpoint"):
        load_weights_from(keras.Sequential([keras.Input((None, None, 80)), layer]), str(tmp_path / "model.ckpt"))


@needs_real
def test_the_published_voc_weights_find_all_their_layers_and_see_a_cat():
    cv2 = pytest.importorskip("cv2")
    model = deeplab_v3_plus(21, head="bilinear")
    imported = load_weights_from(model, str(REAL))
    assert (imported.skipped, imported.unused) == ([], [])
    image = cv2.imread(str(DATA / "photos/cat_1080p.jpg"))[..., ::-1]
    height, width = image.shape[:2]
    image = cv2.resize(image, (513, round(height * 513 / width)), interpolation=cv2.INTER_AREA)
    ids = predictor(model)(image[None])[0]
    assert (ids == VOC.names.index("cat")).mean() == pytest.approx(0.45, abs=0.02)
    assert set(np.unique(ids)) <= {0, VOC.names.index("cat"), *np.flatnonzero(np.bincount(ids.ravel()) < 500)}


@needs_real
def test_voc_weights_start_a_camvid_model():
    imported = load_weights_from(deeplab_v3_plus(CAMVID.num_classes, decoder=True), str(REAL))
    assert str(imported) == (
        "108 layers loaded (MobilenetV2, image_pooling, aspp0, concat_projection), 11 newly initialised (decoder, "
        "logits/semantic); not used: logits/semantic"
    )


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("aspp0/weights", np.nan, "aspp0/weights holds values that are not numbers"),
        ("logits/semantic/biases", np.inf, "logits/semantic/biases holds values that are not numbers"),
        ("aspp0/BatchNorm/moving_variance", -1, "aspp0/BatchNorm/moving_variance holds variances below 0"),
    ],
)
def test_weights_of_which_no_mask_can_be_made_are_refused_before_any_is_loaded(variable, value, message):
    source = Drawn(random_values(mobilenet_variables(3)), "weights")
    source.values[variable] = np.full_like(source.values[variable], value)
    model = deeplab_v3_plus(3, alpha=ALPHA, head="bilinear")
    before = weights_of(model)
    with pytest.raises(InputError, match=f"weights: {message}, which cannot be used; give other weights"):
        load(model, source)
    for scope, arrays in weights_of(model).items():
        for found, expected in zip(arrays, before[scope], strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("suffix", ["", ".index", ".data-00000-of-00001", ".meta"])
def test_a_checkpoint_is_found_by_any_of_its_files(small, suffix):
    assert Checkpoint(small[0] + suffix).path == small[0]


@pytest.mark.parametrize("name", ["weights.zip", "frozen_inference_graph.pb", "folder"])
def test_files_that_are_not_weights_are_refused_with_the_supported_kinds(tmp_path, name):
    (tmp_path / "folder").mkdir()
    if name != "folder":
        (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(
        InputError, match=r"is not a supported kind of weights; give an archive \(\.tar\.gz, \.tgz\), an HDF5"
    ):
        Checkpoint(str(tmp_path / name))


def test_a_checkpoint_of_a_numbered_step_is_named_where_its_number_is_missing(tmp_path):
    write_checkpoint(tmp_path / "model.ckpt-30000", mobilenet_variables(5))
    with pytest.raises(InputError, match=r"model\.ckpt\.index is missing; give .*/model\.ckpt-30000\.index"):
        Checkpoint(str(tmp_path / "model.ckpt"))
