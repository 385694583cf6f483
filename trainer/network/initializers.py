"""Initial values of convolution kernels: truncated normal distributions, drawn by Keras or, under JAX, by NumPy.

JAX compiles a program for each shape that it draws. For a network with MobileNetV2 that took 20 s of the processor and
240 MiB, even if loaded values were to replace the drawn ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import initializers, ops

TRUNCATION = 2
"""Where the normal distribution is cut off, in standard deviations."""
_NARROWING = 0.87962566103423978
"""The standard deviation of the standard normal distribution once it is cut off."""


def truncated_normal(deviation: float) -> initializers.Initializer:
    """Draws from a normal distribution of standard deviation `deviation`, cut off at twice that."""
    kind = _TruncatedNormal if keras.backend.backend() == "jax" else initializers.TruncatedNormal
    return kind(stddev=deviation)


def he_normal() -> initializers.Initializer:
    """Draws from a truncated normal distribution of variance 2 / fan-in (He et al. 2015)."""
    return _HeNormal() if keras.backend.backend() == "jax" else initializers.HeNormal()


class _TruncatedNormal(initializers.TruncatedNormal):
    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        return _draw(shape, self.stddev, self.seed, dtype)


class _HeNormal(initializers.HeNormal):
    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        return _draw(shape, math.sqrt(2 / math.prod(shape[:-1])) / _NARROWING, self.seed, dtype)


def _draw(shape: Sequence[int], deviation: float, seed: int, dtype: Any) -> Any:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(tuple(shape), np.float32)
    while (outside := np.abs(values) > TRUNCATION).any():
        values[outside] = rng.standard_normal(np.count_nonzero(outside), np.float32)
    return ops.convert_to_tensor(np.float32(deviation) * values, dtype)
