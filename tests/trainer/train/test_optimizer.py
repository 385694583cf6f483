"""Learning rates: what a step of the optimizer changes, and by how much."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from trainer.network.deeplab import deeplab_v3_plus
from trainer.train.optimizer import build_optimizer, is_backbone
from trainer.train.options import Options


def small_network() -> keras.Model:
    """A backbone, and a head that is trained beside it."""
    x = image = keras.Input([4])
    x = keras.layers.Dense(3, name="MobilenetV2-Conv")(x)
    return keras.Model(image, keras.layers.Dense(2, name="logits-semantic")(x))


def steps(model: keras.Model, **options) -> dict[str, np.ndarray]:
    """By how much one step with gradients of 1 lowers every variable."""
    optimizer = build_optimizer(Options(records="r", output="o", learning_rate=0.5, **options), model, 100)
    optimizer.build(model.trainable_variables)
    before = [v.numpy() for v in model.trainable_variables]
    optimizer.apply([keras.ops.ones_like(v) for v in model.trainable_variables])
    pairs = zip(before, model.trainable_variables, strict=True)
    return {v.path: values - v.numpy() for values, v in pairs}


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_the_backbone_learns_at_its_share_of_the_rate(optimizer, share):
    lowered = steps(small_network(), optimizer=optimizer, backbone_rate=share)
    for path, change in lowered.items():
        np.testing.assert_allclose(change, 0.5 * (share if "Mobilenet" in path else 1), rtol=1e-4, err_msg=path)
    assert len(lowered) == 4


@pytest.mark.parametrize("kind", ["adam", "momentum"])
def test_with_one_rate_for_all_layers_the_optimizer_is_the_one_of_keras(kind):
    expected = {"adam": keras.optimizers.Adam, "momentum": keras.optimizers.SGD}[kind]
    options = Options(records="-", output="-", optimizer=kind)
    assert type(build_optimizer(options, small_network(), total_steps=1)) is expected


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_weight_decay_too_is_at_the_share_of_the_rate(optimizer):
    model = small_network()
    model.set_weights([np.full_like(weight, 2) for weight in model.get_weights()])
    lowered = steps(model, optimizer=optimizer, backbone_rate=0.1, weight_decay=0.25)
    for path, change in lowered.items():
        rate, decayed = 0.05 if "Mobilenet" in path else 0.5, 0 if path.endswith("bias") else 0.25 * 2
        np.testing.assert_allclose(change, rate * (1 + decayed), rtol=1e-4, err_msg=path)
    assert len(lowered) == 4


def test_shares_belong_to_variables_also_where_layers_are_frozen():
    model = small_network()
    model.get_layer("MobilenetV2-Conv").trainable = False
    lowered = steps(model, backbone_rate=0.1)
    assert {path.split("/")[0] for path in lowered} == {"logits-semantic"}
    for change in lowered.values():
        np.testing.assert_allclose(change, 0.5, rtol=1e-4)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "xception_65"])
def test_the_backbone_is_what_leads_to_aspp(backbone):
    model = deeplab_v3_plus(2, backbone=backbone, decoder=True)
    before = keras.Model(model.input, model.get_layer("aspp0").input).layers
    assert {layer.name for layer in model.layers if is_backbone(layer)} == {layer.name for layer in before}
