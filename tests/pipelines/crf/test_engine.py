"""The CRF's own engine, every build that this processor runs, against exact arithmetic and pydensecrf."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.crf import refine as crf
from tests.drawn import crf_reference
from tests.drawn.crf_inputs import (
    BLACK,
    BUILDS,
    DEFAULT,
    GREEN,
    NARROWEST,
    WHITE,
    Case,
    assert_as_pydensecrf,
    assert_equal,
    assert_exact,
    draw_image,
    draw_softmax,
    pydensecrf,
    running,
)
from trainer.formats.options import CrfOptions

CASES = {
    # Every number of channels that has code of its own, for vectors of 4, 8 and 16.
    **{f"{n} labels": ("scene", 61, 67, n, {}) for n in (2, 3, 5, 9, 12, 16, 21, 30, 34, 45, 60, 150)},
    # Widths around the strip of 64 in which pixels are visited; 1 to 3 pixels that fill up a group of four.
    **{
        f"{kind} {h}x{w}, {n} labels": (kind, h, w, n, {})
        for kind in ("noise", "dark")
        for h, w in (
            (1, 1),
            (1, 2),
            (2, 1),
            (1, 97),
            (97, 1),
            (3, 3),
            (1, 64),
            (65, 64),
            (64, 65),
            (7, 63),
            (5, 129),
            (5, 7),
        )
        for n in (2, 5, 21)
    },
    **{f"flat {c}, {n} labels": (c, 61, 67, n, {}) for c in (BLACK, WHITE, GREEN) for n in (2, 21)},
    **{f"noise, {n} labels": ("noise", 61, 67, n, {}) for n in (2, 5, 21)},
    **{
        f"{kind}, {name} {value:g}": (kind, 41, 53, 5, {name: value})
        for kind in ("scene", "noise", WHITE)
        for name in ("sxy_gaussian", "sxy", "srgb")
        for value in (0.05, 0.3, 1.0, 1e4)
    },
    **{f"{k}, all widths tiny": (k, 41, 53, 3, NARROWEST) for k in ("scene", WHITE)},
    **{
        f"{kind}, {name} {value}, {n} labels": (kind, 41, 53, n, {name: value})
        for kind in ("scene", "noise", WHITE)
        for name in ("compat", "compat_gaussian")
        for value in (14, 20, 100, 1000)
        for n in (2, 5, 21)
    },
    **{
        f"{kind}, {change}, {n} labels": (kind, 61, 67, n, change)
        for kind in ("scene", "noise")
        for change in ({"iterations": 1}, {"iterations": 10}, {"compat": 0}, {"compat_gaussian": 0})
        for n in (2, 5, 21)
    },
}


def case(name: str) -> Case:
    *drawn, changed = CASES[name]
    return Case(*drawn, replace(DEFAULT, **changed))


@pytest.mark.parametrize("name", CASES)
def test_every_build_equals_exact_arithmetic(name):
    assert_exact(case(name))


@pytest.mark.parametrize("name", CASES)
def test_every_build_equals_pydensecrf(name):
    assert_as_pydensecrf(case(name))


@pytest.mark.parametrize("labels", [2, 5, 21])
@pytest.mark.parametrize("iterations", [5, 10])
def test_probabilities_of_exactly_0_and_1_are_refined(build, labels, iterations):
    """Probabilities of exactly 0 and 1 are those of MIN_PROBABILITY and 1."""
    image, probabilities = (
        draw_image("scene", 61, 67),
        np.eye(labels, dtype=np.float32)[draw_softmax(61, 67, labels).argmax(-1)],
    )
    options = replace(DEFAULT, iterations=iterations)
    refined = crf.refine(image, probabilities, options)
    assert_equal(refined, crf_reference.marginals(image, probabilities, options))
    assert_equal(refined, pydensecrf(image, probabilities, options))


@pytest.mark.parametrize("labels", [2, 5, 21, 150])
def test_pixels_without_any_probability_leave_all_labels_alike(build, labels):
    """No softmax, but no reason to call labels improbable that elsewhere are 0 and here as good as any."""
    image, probabilities = draw_image("scene", 40, 40), draw_softmax(40, 40, labels).copy()
    probabilities[:, :, 3:] = 0
    probabilities[10:20] = 0
    assert_equal(crf.refine(image, probabilities, DEFAULT), crf_reference.marginals(image, probabilities, DEFAULT))
    np.testing.assert_allclose(crf.refine(image, 0 * probabilities, DEFAULT), 1 / labels, atol=1e-6)


OPTIONS = st.builds(
    CrfOptions,
    iterations=st.integers(1, 7),
    sxy_gaussian=st.floats(0.3, 20),
    compat_gaussian=st.floats(0, 6),
    sxy=st.floats(0.5, 120),
    srgb=st.floats(0.3, 60),
    compat=st.floats(0, 8),
)


@example("scene", 1, 4, 40, CrfOptions(1, 1, 0, 1, 1, 4), 51218)  # many labels, equally improbable, four lone pixels
@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(["scene", "noise", "gradient", WHITE, GREEN]),
    st.integers(1, 40),
    st.integers(1, 80),
    st.integers(2, 40),
    OPTIONS,
    st.integers(0, 2**32 - 1),
)
def test_any_image_gives_what_pydensecrf_gives(kind, height, width, labels, options, seed):
    image, probabilities = draw_image(kind, height, width, seed), draw_softmax(height, width, labels, seed)
    expected = pydensecrf(image, probabilities, options)
    for build in BUILDS:
        with running(build):
            refined = crf.refine(image, probabilities, options)
        assert np.isfinite(refined).all() and refined.min() >= 0
        np.testing.assert_allclose(refined.sum(-1), 1, atol=1e-5)
        difference = np.abs(refined - expected).max()
        if difference > 1e-4:  # then rounding decides, and pydensecrf moves as far by less
            nudged = pydensecrf(image, np.nextafter(probabilities, np.float32(0.5)), options)
            assert difference < 20 * np.abs(nudged - expected).max()
