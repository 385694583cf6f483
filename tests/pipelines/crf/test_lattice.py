"""The lattice under the CRF's narrowest kernels: long keys, and coordinates that floats cannot tell apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.crf import refine as crf
from tests.drawn import crf_reference
from tests.drawn.crf_inputs import DEFAULT, NARROWEST, assert_equal, draw_image, draw_softmax, pydensecrf
from trainer.formats.options import CrfOptions


def key_bits(height: int, width: int, options: CrfOptions) -> float:
    """Bits that tell the vertices of a bilateral lattice apart, at least: the widest range of every coordinate."""
    high = np.array([(width - 1) / options.sxy, (height - 1) / options.sxy, *[255 / options.srgb] * 3])
    scale = 6 * np.sqrt(2 / 3) / np.sqrt(np.arange(1, 6) * np.arange(2, 7))
    ranges = [(high * scale)[j:].sum() + (j * high[j - 1] * scale[j - 1] if j else 0) for j in range(5)]
    return 3 + sum(np.log2(reach / 6) for reach in ranges)


# With the first widths coordinates fit into pydensecrf's 16 bits. With the last, positions count for nothing and all
# that tells two vertices apart is beyond the first 64 bits.
@pytest.mark.parametrize("widths", [NARROWEST, {"sxy": 4e-4, "srgb": 1e-3}, {"sxy": 1e6, "srgb": 1e-4}])
@pytest.mark.parametrize("labels", [2, 5])
def test_keys_of_more_than_64_bits(build, labels, widths):
    options = replace(DEFAULT, compat=8, **widths)
    height, width = (41, 53) if widths is NARROWEST else (63, 61)
    assert key_bits(height, width, options) > 63 and key_bits(height, width, DEFAULT) < 40
    image, probabilities = draw_image("noise", height, width), draw_softmax(height, width, labels)
    refined = crf.refine(image, probabilities, options)
    assert_equal(refined, crf_reference.marginals(image, probabilities, options))
    if widths is NARROWEST:
        assert_equal(refined, pydensecrf(image, probabilities, options))


@pytest.mark.parametrize("widths", [{"sxy": 1e-6}, {"srgb": 1e-6}, {"sxy_gaussian": 1e-30}, {"sxy": 1e-60}])
def test_a_kernel_too_narrow_for_float32_is_refused(build, widths):
    ((name, value),) = widths.items()
    with pytest.raises(ValueError, match=f"too narrow .*67x61 pixels.*{name} {value:g}"):
        crf.refine(draw_image("noise", 61, 67), draw_softmax(61, 67, 5), replace(DEFAULT, **widths))
