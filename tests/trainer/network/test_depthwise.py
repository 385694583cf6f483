"""Depthwise convolution as JAX computes it on a CPU, against JAX's own."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.network.depthwise import _same, depthwise_conv

jax = pytest.importorskip("jax")

CASES = {
    "plain": ((2, 7, 9, 5), 3, (1, 1), (1, 1), "float32"),
    "stride 2, odd size": ((2, 9, 11, 5), 3, (2, 2), (1, 1), "float32"),
    "stride 2, even size": ((2, 10, 8, 5), 3, (2, 2), (1, 1), "float32"),
    "rates of each axis": ((1, 12, 9, 5), 3, (1, 1), (4, 2), "float32"),
    "window of 5": ((2, 11, 12, 5), 5, (2, 2), (1, 1), "float32"),
    "half precision": ((2, 9, 11, 5), 3, (2, 2), (1, 1), "bfloat16"),
    "one window": ((1, 3, 3, 5), 3, (2, 2), (1, 1), "float32"),
}


@pytest.mark.parametrize(("shape", "side", "strides", "rates", "dtype"), CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_a_convolution(shape, side, strides, rates, dtype):
    rng = np.random.default_rng(0)
    x, kernel = (jax.numpy.asarray(rng.normal(size=size), dtype) for size in (shape, (side, side, shape[-1])))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel[:, :, None],
            strides,
            "VALID",
            rhs_dilation=rates,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=shape[-1],
        )

    def values_and_gradients(function):
        values, differentiate = jax.vjp(function, x, kernel)
        slopes = np.random.default_rng(1).normal(size=values.shape)
        return values, *differentiate(jax.numpy.asarray(slopes, dtype))

    ours = jax.jit(lambda: values_and_gradients(lambda *inputs: depthwise_conv(*inputs, strides, rates)))()
    theirs = jax.jit(lambda: values_and_gradients(convolve))()
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        one, other = one.astype("float32"), other.astype("float32")
        tolerance = 1e-5 if dtype == "float32" else 0.02
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 9), (2, 1)])
def test_a_map_is_padded_as_xla_pads_it(height, width, stride):
    x = np.random.default_rng(0).normal(size=(1, height, width, 2)).astype("float32")
    kernel = np.random.default_rng(1).normal(size=(3, 3, 2)).astype("float32")
    zeros = [_same(size, 3, stride, 1) for size in (height, width)]
    ours = depthwise_conv(np.pad(x, ((0, 0), *zeros, (0, 0))), kernel, (stride, stride), (1, 1))
    theirs = jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=2,
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
