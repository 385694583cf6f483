"""A batch in parts gives the step of the whole batch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.drawn.records import PALETTE
from tests.drawn.training import pooled_network
from trainer.options import InputError
from trainer.train import model as models
from trainer.train.options import Options

FLAGS = {"records": "records", "output": "model", "batch_size": 8, "optimizer": "momentum", "learning_rate": 0.1}


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Eight images whose labels are ignored the more the later they come, and lack a class each."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, PALETTE.num_classes, (8, 16, 16)).astype("uint8")
    for index, label in enumerate(labels):
        label[: 2 * index] = PALETTE.ignore_id
        label[label == index % 3] = (index + 1) % 3
    return rng.integers(0, 256, (8, 16, 16, 3)).astype("uint8"), labels


def trained(parts: int) -> tuple[list[np.ndarray], float]:
    """Weights after two steps, and the mean of their losses."""
    keras.utils.set_random_seed(1)
    options = Options(**FLAGS, accumulate=parts, freeze_bn=True)
    model = models.build(options, PALETTE)
    before = model.get_weights()
    models.compile_model(model, options, PALETTE, total_steps=4)
    fitted = model.fit(tf.data.Dataset.from_tensors(batch()).repeat(2), verbose=0)
    assert int(model.optimizer.iterations) == 2
    after = model.get_weights()
    assert max(np.abs(one - other).max() for one, other in zip(before, after, strict=True)) > 1e-2
    return after, fitted.history["loss"][0]


@pytest.fixture
def pooled(monkeypatch):
    monkeypatch.setattr(models, "deeplab_v3_plus", pooled_network)


def assert_parts_give_the_step(*parts: int) -> None:
    expected, loss = trained(1)
    for count in parts:
        found, found_loss = trained(count)
        assert found_loss == pytest.approx(loss, rel=1e-5)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_parts_give_the_step_of_the_whole_batch_with_cross_entropy(pooled):
    assert_parts_give_the_step(2, 8)


@pytest.mark.parametrize(
    ("size", "devices", "parts", "message"),
    [
        (8, 1, 3, r"--batch-size 8 is over 3 parts, .*a multiple of 3, such as 6 or 9"),
        (3, 1, 2, r"--batch-size 3 is over 2 parts, .*a multiple of 2, such as 4 or 6"),
        (8, 2, 3, r"over all 2 GPUs together and 3 parts, .*a multiple of 6, such as 12 or 18"),
        (8, 1, 8, r"--batch-size 8 in 8 parts leaves one image per device and part.*--batch-size 16 or more"),
    ],
)
def test_a_batch_that_has_no_such_parts_is_refused(size, devices, parts, message):
    with pytest.raises(InputError, match=message):
        models.check_batch(size, pooled_network(3), devices, parts)


@pytest.mark.parametrize(("size", "devices", "near"), [(3, 4, 4), (9, 4, 8), (1, 2, 2)])
def test_under_jax_a_batch_is_proposed_that_all_devices_share(size, devices, near, monkeypatch):
    monkeypatch.setattr(models.keras.backend, "backend", lambda: "jax")
    with pytest.raises(InputError, match=f"such as {near} or {near + devices}$"):
        models.check_batch(size, pooled_network(3), devices)
    models.check_batch(near, pooled_network(3), devices)
