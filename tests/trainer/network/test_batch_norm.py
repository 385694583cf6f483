"""Batch normalisation in one kernel, and folded into the kernel before it, against Keras's own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.drawn.networks import random_image, randomise
from trainer.network.batch_norm import BatchNormalization, fold_norms, jax_batch_norm
from trainer.network.deeplab import deeplab_v3_plus
from trainer.network.inference import predictor

SHAPES = {"image": (2, 5, 7, 4), "one pixel": (3, 1, 1, 4), "one value": (1, 1, 1, 4)}


def train_step(kind: type, values: np.ndarray, policy: str, trainable: bool = True) -> list[np.ndarray]:
    """Outputs, gradients of inputs, scale and offset, and moving statistics of one step over float32 `values`."""
    rng = np.random.default_rng(1)
    layer = kind(momentum=0.9, epsilon=1e-3, dtype=policy)
    layer.build(values.shape)
    layer.set_weights([rng.uniform(0.5, 1.5, 4).astype("float32") for _ in range(4)])
    layer.trainable = trainable
    inputs, slopes = tf.constant(values), tf.constant(rng.normal(size=values.shape).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
        loss = tf.reduce_sum(tf.cast(outputs, "float32") * slopes)
    gradients = tape.gradient(loss, [inputs, layer.gamma, layer.beta])
    return [np.asarray(tf.cast(value, "float32")) for value in (outputs, *gradients, *layer.weights)]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 0.03)])
def test_a_step_gives_the_values_gradients_and_statistics_of_keras(shape, policy, tolerance):
    values = np.random.default_rng(0).normal(3, 2, shape).astype("float32")
    # One value has no spread, so what is left of its gradient is rounding over the square root of epsilon.
    for ours, expected in zip(
        train_step(BatchNormalization, values, policy),
        train_step(keras.layers.BatchNormalization, values, policy),
        strict=True,
    ):
        np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_under_jax_values_and_gradients_are_those_that_jax_derives_itself(shape, dtype, tolerance):
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(0)
    x = jax.numpy.asarray(rng.normal(3, 2, shape), dtype)
    gamma, beta = (jax.numpy.asarray(rng.uniform(0.5, 1.5, shape[-1]), "float32") for _ in range(2))

    def composed(x, gamma, beta, epsilon):
        x = x.astype("float32")
        mean, variance = jax.numpy.mean(x, (0, 1, 2)), jax.numpy.var(x, (0, 1, 2))
        return ((x - mean) / jax.numpy.sqrt(variance + epsilon) * gamma + beta).astype(dtype), mean, variance

    def values_and_gradients(normalise):
        values, differentiate, statistics = jax.vjp(
            lambda *inputs: (lambda y, *rest: (y, rest))(*normalise(*inputs, 1e-3)), x, gamma, beta, has_aux=True
        )
        slopes = np.random.default_rng(1).normal(size=shape)
        return values, *statistics, *differentiate(jax.numpy.asarray(slopes, dtype))

    ours, expected = (jax.jit(lambda f=f: values_and_gradients(f))() for f in (jax_batch_norm, composed))
    for one, other in zip(ours, expected, strict=True):
        assert one.dtype == other.dtype
        one, other = one.astype("float32"), other.astype("float32")
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * max(1, np.abs(other).max()))


def test_frozen_it_keeps_its_statistics():
    values = np.random.default_rng(0).normal(3, 2, SHAPES["image"]).astype("float32")
    ours = train_step(BatchNormalization, values, "float32", trainable=False)
    expected = train_step(keras.layers.BatchNormalization, values, "float32", trainable=False)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_training_step_is_one_kernel():
    layer = BatchNormalization()
    layer.build((None, None, None, 4))
    step = tf.function(lambda x: layer(x, training=True)).get_concrete_function(tf.TensorSpec((None, None, None, 4)))
    operations = [operation.type for operation in step.graph.get_operations()]
    assert operations.count("FusedBatchNormV3") == 1
    assert "Mean" not in operations and "SquaredDifference" not in operations


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenet_v3_small_seg"])
def test_folded_into_the_kernels_before_them_norms_change_no_prediction(backbone):
    model, image = deeplab_v3_plus(3, backbone=backbone, decoder=backbone == "mobilenet_v2"), random_image(40, 56)
    randomise(model)
    expected = predictor(model, "probabilities")(image)
    norms = [layer for layer in model.layers if isinstance(layer, BatchNormalization)]
    assert len(norms) > 30 and np.std(expected) > 0.01
    for _ in range(2):
        fold_norms(model)
        assert all(norm.folded for norm in norms)
        np.testing.assert_allclose(predictor(model, "probabilities")(image), expected, atol=1e-4)
