"""The model as it is trained: its weights, its precision, its frozen layers."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.drawn.records import PALETTE
from tests.drawn.training import pooled_network
from trainer.formats.cards import ModelCard
from trainer.formats.labels import Palette
from trainer.network.folder import load_model, save_model
from trainer.network.options import BACKBONES
from trainer.options import InputError
from trainer.train.model import (
    architecture,
    build,
    compile_model,
    frozen_at_random,
    load_initial,
    missing_flags,
    precision,
)
from trainer.train.optimizer import freeze
from trainer.train.options import Options
from trainer.weights.checkpoints import load_weights_from
from trainer.weights.matching import class_order

OPTIONS = Options(records="records", output="model", alpha=0.35)


def test_trained_networks_have_a_decoder_and_a_kernel_head_with_every_backbone():
    for backbone in BACKBONES:
        numbers = architecture(Options(records="records", output="model", backbone=backbone), PALETTE)
        assert numbers["decoder"] is True
        assert (numbers["head"], numbers["subpixel"]) == ("subpixel", "kernels")


def test_another_class_count_leaves_only_the_last_layer_out(tmp_path):
    save_model(str(tmp_path), build(OPTIONS, PALETTE), ModelCard(architecture(OPTIONS, PALETTE), PALETTE))
    model = build(OPTIONS, Palette("two", ("ground", "thing"), ((0, 200, 0), (200, 0, 0))))
    assert model.output.shape[-1] == 2
    imported = load_weights_from(model, str(tmp_path))
    assert imported.skipped == ["logits/semantic"] and "logits/semantic" in str(imported)
    source = load_model(str(tmp_path))[0]
    np.testing.assert_array_equal(
        model.get_layer("aspp0").get_weights()[0], source.get_layer("aspp0").get_weights()[0]
    )


@pytest.mark.parametrize("subpixel", ["kernels", pytest.param("logits", marks=pytest.mark.slow)])
def test_classes_in_another_order_take_the_weights_of_their_names(subpixel, tmp_path):
    options = dataclasses.replace(OPTIONS, init_from=str(tmp_path), subpixel=subpixel)
    model = build(options, PALETTE)
    last, rng = model.get_layer("logits-semantic"), np.random.default_rng(0)
    last.set_weights([rng.normal(size=weight.shape) for weight in last.weights])
    save_model(str(tmp_path), model, ModelCard(architecture(options, PALETTE), PALETTE))
    image = rng.integers(0, 256, (1, 33, 40, 3), np.uint8)
    before = keras.ops.convert_to_numpy(model(image))
    assert "class" not in str(load_initial(model, options, PALETTE))
    np.testing.assert_array_equal(model(image), before)
    said = str(load_initial(model, options, dataclasses.replace(PALETTE, names=("bar", "disk", "ground"))))
    np.testing.assert_allclose(model(image), before[..., [2, 1, 0]], rtol=1e-5, atol=1e-5)
    assert said.endswith("classes are in another order, and matched by name; classes of other names: disk from disc")


@pytest.mark.parametrize(
    ("ours", "order"),
    [
        ("abcd", [0, 1, 2, 3]),
        ("dcba", [3, 2, 1, 0]),
        ("bcde", [1, 2, 3, 0]),
        ("xbyd", [0, 1, 2, 3]),
        ("xayc", [1, 0, 3, 2]),
    ],
)
def test_every_class_takes_the_weights_of_one_other(ours, order):
    assert class_order("abcd", ours) == order


def test_initial_weights_depend_only_on_the_seed(monkeypatch):
    """As uploads to Cloud Storage do, in the thread that keeps the lease of a folder."""

    def weights(is_disturbed: bool, seed: int) -> list[np.ndarray]:
        def network(num_classes: int, **_: object) -> keras.Model:
            if is_disturbed:
                random.random()
            return pooled_network(num_classes)

        monkeypatch.setattr("trainer.train.model.deeplab_v3_plus", network)
        keras.utils.set_random_seed(seed)
        return build(dataclasses.replace(OPTIONS, seed=seed), PALETTE).get_weights()

    for found, expected in zip(weights(True, 3), weights(False, 3), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert any((one != other).any() for one, other in zip(weights(False, 3), weights(False, 4), strict=True))


def test_an_unknown_layer_is_refused_with_similar_ones():
    model = keras.Sequential(
        [keras.Input([3]), keras.layers.Dense(2, name="aspp0"), keras.layers.Dense(2, name="end")]
    )
    with pytest.raises(InputError, match="layer 'asp0' not found; similar ones: aspp0"):
        freeze(model, "asp0")
    freeze(model, "aspp0")
    assert [layer.trainable for layer in model.layers] == [False, True]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"backbone": "xception_65", "alpha": 0.5}, "^--alpha must be 1 for xception_65, which"),
        ({"multi_grid": (1, 2, 4)}, "^--multi-grid does not apply to mobilenet_v2; omit it"),
        (
            {"dense_prediction_cell": True, "aspp_rates": (6, 12)},
            "^--dense-prediction-cell cannot be combined with atrous rates, since its own are fixed",
        ),
    ],
)
def test_numbers_that_make_no_network_are_named_by_their_flags(numbers, message):
    with pytest.raises(InputError, match=message):
        build(dataclasses.replace(OPTIONS, **numbers), PALETTE)


def test_the_flags_that_another_model_needs_are_told():
    theirs = {**architecture(OPTIONS, PALETTE), "alpha": 0.5, "aspp_rates": [6, 12], "output_stride": 4}
    assert missing_flags(OPTIONS, theirs) == "--alpha 0.5 --aspp-rates 6 12"
    assert missing_flags(OPTIONS, architecture(OPTIONS, PALETTE)) == ""


def test_weights_of_a_model_of_other_flags_are_refused_with_these(tmp_path):
    other = dataclasses.replace(OPTIONS, alpha=OPTIONS.alpha + 0.15)
    numbers = architecture(other, PALETTE)
    save_model(str(tmp_path / "model"), build(other, PALETTE), ModelCard(numbers, PALETTE))
    options = dataclasses.replace(OPTIONS, init_from=str(tmp_path / "model"))
    with pytest.raises(InputError, match=rf"that model was trained with --alpha {other.alpha:g}$"):
        load_initial(build(options, PALETTE), options, PALETTE)


def test_freezing_every_layer_is_refused():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2, name="end"), keras.layers.ReLU()])
    with pytest.raises(InputError, match="--freeze-until end leaves no layer to train; give an earlier layer"):
        freeze(model, "end")


def test_the_precision_policy_is_set_and_restored():
    before = keras.config.dtype_policy().name
    with precision("mixed_bfloat16"):
        model = build(OPTIONS, PALETTE)
        compile_model(model, OPTIONS, PALETTE, 10)
    assert model.get_layer("aspp0").compute_dtype == "bfloat16" and model.output.dtype == "float32"
    assert keras.config.dtype_policy().name == before


MEMORY = """
import jax, keras
import numpy as np
from keras.src.backend.jax import trainer
from tests.drawn.records import PALETTE
from trainer.train.model import build, compile_model
from trainer.train.options import Options

steps, compiled = [], trainer.jit
trainer.jit = lambda step, **how: steps.append(compiled(step, **how)) or steps[-1]
options = Options(records="-", output="-", alpha=0.35, batch_size=2, crop=96, aspp_rates=(), decoder=False)
model = build(options, PALETTE)
compile_model(model, options, PALETTE, total_steps=1)
labels = np.zeros((2, 96, 96), "uint8")
batch = np.zeros((2, 96, 96, 3), "uint8"), labels, labels.astype("float32")
groups = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables, model.metrics_variables)
state = [[variable.value for variable in group] for group in groups]
for step in (*steps, compiled(model.train_step, donate_argnums=0)):
    print(step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes)
"""


@pytest.mark.slow
def test_a_training_step_under_jax_takes_much_less_memory_than_as_keras_compiles_it():
    pytest.importorskip("jax")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", MEMORY], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, others = map(int, done.stdout.split())
    assert ours < 0.7 * others


def test_new_layers_that_are_frozen_are_told(tmp_path):
    bilinear = dataclasses.replace(OPTIONS, head="bilinear")
    save_model(str(tmp_path), build(bilinear, PALETTE), ModelCard(architecture(bilinear, PALETTE), PALETTE))
    options = dataclasses.replace(OPTIONS, init_from=str(tmp_path), freeze_bn=True)
    model = build(options, PALETTE)
    imported = load_initial(model, options, PALETTE)
    assert frozen_at_random(model, imported) == []
    compile_model(model, options, PALETTE, 10)
    names = frozen_at_random(model, imported)
    assert "logits/guide_pointwise/BatchNorm" in names
    assert all(name.startswith("logits/") and name.endswith("/BatchNorm") for name in names)
