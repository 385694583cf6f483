"""Images of 16 bits are scaled to 8, unless none of their values is over 255, whether they are greys or colours."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.drawn.encoded import CHANNELS, noise, png, tiff
from trainer.formats.images import ImageError, check, decode, header

GREY_ALPHA, RGB, RGBA = 4, 2, 6


def deep_png(colors: int, values: np.ndarray) -> bytes:
    """A PNG of 16 bits of values, uint16 [H, W, channels]; alpha, if any, is full."""
    alpha = [np.full(values.shape[:2], 65535)] * (CHANNELS[colors] - values.shape[2])
    stored = np.dstack([values, *alpha]).astype(">u2")
    return png(16, colors, values.shape[:2], b"".join(b"\0" + row.tobytes() for row in stored))


def values_to(white: int, channels: int) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, white + 1, (9, 14, channels)).astype(np.uint16)
    values[0, 0] = white
    return values


@pytest.mark.parametrize(("white", "shift"), [(255, 0), (4095, 8), (65535, 8)])
@pytest.mark.parametrize("colors", [GREY_ALPHA, RGB, RGBA])
def test_deep_pngs_are_scaled_unless_no_value_is_over_255(colors, white, shift):
    values = values_to(white, 1 if colors == GREY_ALPHA else 3)
    data = deep_png(colors, values)
    found, pixels = decode(data)
    np.testing.assert_array_equal(pixels, np.broadcast_to(values >> shift, pixels.shape))
    assert (found.depth, found.brightest) == (16, white)
    assert check(data) == found
    if shift:
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize(("white", "shift"), [(255, 0), (4095, 8), (65535, 8)])
def test_deep_tiffs_are_scaled_unless_no_value_is_over_255(white, shift, tile, packed, order):
    for samples in (3, 4):
        values = values_to(white, samples)
        values[..., 3:] = 65535
        data = tiff(values, order, packed, tile=tile)
        found, pixels = decode(data)
        np.testing.assert_array_equal(pixels, values[..., :3] >> shift)
        assert (found.depth, found.brightest) == (16, white)
        assert header(data).depth == 16


def test_deep_tiffs_in_planes_are_refused_if_no_value_is_over_255():
    values = noise().astype(np.uint16)
    np.testing.assert_array_equal(decode(tiff(values * 257, packed=True, planes=True))[1], noise())
    with pytest.raises(ImageError, match="3 samples of 16 bits, in separate planes, without a value over 255"):
        decode(tiff(values, packed=True, planes=True))
