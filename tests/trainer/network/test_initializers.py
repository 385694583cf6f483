"""Initial kernels: the same distributions whoever draws them."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.drawn.places import ROOT
from trainer.network import initializers

SHAPE = (3, 3, 64, 96)


@pytest.fixture(params=["tensorflow", "jax"])
def backend(request, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: request.param)
    return request.param


def values(initializer, shape=SHAPE):
    return np.asarray(initializer(shape, "float32"))


@pytest.mark.parametrize(
    ("initializer", "deviation"),
    [(lambda: initializers.truncated_normal(0.33), 0.33 * 0.8796), (initializers.he_normal, (2 / (9 * 64)) ** 0.5)],
    ids=["truncated normal", "he normal"],
)
def test_kernels_have_the_deviation_that_they_should_and_none_is_beyond_the_cut(backend, initializer, deviation):
    kernel = values(initializer())
    assert kernel.dtype == np.float32 and kernel.shape == SHAPE
    assert kernel.std() == pytest.approx(deviation, rel=0.01)
    assert kernel.mean() == pytest.approx(0, abs=0.02 * deviation)
    assert np.abs(kernel).max() == pytest.approx(2 * deviation / 0.8796, rel=0.01)


def test_each_layer_draws_its_own_values_and_a_seed_repeats_all(backend):
    def draw():
        keras.utils.set_random_seed(3)
        return [values(initializers.he_normal()) for _ in range(2)]

    first, again = draw(), draw()
    assert (first[0] != first[1]).mean() > 0.99
    assert np.array_equal(first, again)


@pytest.mark.slow
def test_jax_compiles_no_program_for_the_shape_of_each_kernel():
    pytest.importorskip("jax")
    program = """
import jax
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
from trainer.network.deeplab import deeplab_v3_plus
network = deeplab_v3_plus(3)
print(len([event for event in compiled if "backend_compile" in event]), len(network.layers))
"""
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    text = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    programs, layers = map(int, text.stdout.split())
    assert 0 < programs < 30 < layers
