"""Classes with weights of their own: every build of the engine against exact arithmetic and pydensecrf."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.crf import refine as crf
from tests.drawn import crf_reference
from tests.drawn.crf_inputs import (
    BUILDS,
    DEFAULT,
    GREEN,
    WHITE,
    Case,
    assert_as_pydensecrf,
    assert_equal,
    assert_exact,
    draw_image,
    draw_rare_labels,
    draw_softmax,
    pydensecrf,
    running,
)
from trainer.formats.options import CrfOptions
from trainer.options import InputError

KINDS = {
    "the first spared": lambda labels: (0.0, *(1.0,) * (labels - 1)),
    "the last spared": lambda labels: (*(1.0,) * (labels - 1), 0.0),
    "half of them lighter": lambda labels: tuple(1 - label % 2 / 2 for label in range(labels)),
    "all different": lambda labels: tuple(np.linspace(0.1, 0.9, labels).round(3)),
    "none joins": lambda labels: (0.0,) * labels,
}
CASES = {
    # Every number of channels that has code of its own, for vectors of 4, 8 and 16.
    **{f"{n} labels, {kind}": ("scene", 61, 67, n, kind, {}) for n in (2, 3, 5, 9, 12, 16, 21, 34, 45, 70)
       for kind in KINDS},
    **{f"{image} {h}x{w}, {n} labels": (image, h, w, n, "half of them lighter", {})
       for image in ("noise", GREEN) for h, w in ((1, 1), (2, 1), (1, 97), (7, 63), (65, 64)) for n in (2, 5, 21)},
    **{f"{image}, {change}, {n} labels": (image, 41, 53, n, kind, change)
       for image in ("scene", WHITE) for n in (2, 5, 21) for kind in ("the first spared", "all different")
       for change in ({"iterations": 1}, {"compat": 0}, {"compat_gaussian": 0}, {"compat": 14}, {"compat": 100})},
}  # fmt: skip


def case(name: str) -> Case:
    image, height, width, labels, kind, changed = CASES[name]
    return Case(image, height, width, labels, replace(DEFAULT, **changed, class_weights=KINDS[kind](labels)))


@pytest.mark.parametrize("name", CASES)
def test_every_build_equals_exact_arithmetic(name):
    assert_exact(case(name))


@pytest.mark.parametrize("name", CASES)
def test_every_build_equals_pydensecrf(name):
    assert_as_pydensecrf(case(name))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["scene", "noise", "gradient", WHITE]),
    st.tuples(st.integers(1, 40), st.integers(1, 80)),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), min_size=2, max_size=40),
    st.builds(
        CrfOptions,
        iterations=st.integers(1, 7),
        sxy_gaussian=st.floats(0.3, 20),
        compat_gaussian=st.floats(0, 6),
        sxy=st.floats(0.5, 120),
        srgb=st.floats(0.3, 60),
        compat=st.floats(0, 8),
    ),
    st.integers(0, 2**32 - 1),
)
def test_any_weights_give_what_pydensecrf_gives(kind, size, class_weights, options, seed):
    image, probabilities = draw_image(kind, *size, seed), draw_softmax(*size, len(class_weights), seed)
    options = replace(options, class_weights=tuple(class_weights))
    expected = pydensecrf(image, probabilities, options)
    for build in BUILDS:
        with running(build):
            refined = crf.refine(image, probabilities, options)
        np.testing.assert_allclose(refined.sum(-1), 1, atol=1e-5)
        difference = np.abs(refined - expected).max()
        if difference > 1e-4:  # then rounding decides, and pydensecrf moves as far by less
            nudged = pydensecrf(image, np.nextafter(probabilities, np.float32(0.5)), options)
            assert difference < 20 * np.abs(nudged - expected).max()


@pytest.mark.parametrize("spared", [0, 2, 3, 5])
@pytest.mark.parametrize("labels", [6, 21])
def test_improbable_labels_share_a_channel_unless_they_have_a_weight(build, labels, spared, monkeypatch):
    image, probabilities = draw_image("scene", 61, 67), draw_rare_labels(61, 67, labels)
    weights = [1.0] * labels
    weights[spared] = 0.25
    options = replace(DEFAULT, class_weights=tuple(weights))
    shared = crf.refine(image, probabilities, options)
    monkeypatch.setattr(crf, "IMPROBABLE", 0.0)
    apart = crf.refine(image, probabilities, options)
    assert 0 < np.abs(shared - apart).max() < 3e-5
    assert_equal(apart, crf_reference.marginals(image, probabilities, options))


@pytest.mark.parametrize("labels", [2, 5, 21])
def test_weights_that_are_all_alike_are_those_of_the_kernels(build, labels):
    image, probabilities = draw_image("scene", 61, 67), draw_softmax(61, 67, labels)
    halves = crf.refine(image, probabilities, replace(DEFAULT, class_weights=(0.5,) * labels))
    light = replace(DEFAULT, compat=DEFAULT.compat / 4, compat_gaussian=DEFAULT.compat_gaussian / 4)
    assert_equal(halves, crf.refine(image, probabilities, light), 1e-5)
    nothing = crf.refine(image, probabilities, replace(DEFAULT, class_weights=(0.0,) * labels))
    raised = np.maximum(probabilities, crf.MIN_PROBABILITY)
    assert_equal(nothing, raised / raised.sum(-1, keepdims=True), 1e-5)


def test_weights_of_1_change_no_bit(build):
    assert replace(DEFAULT, class_weights=(1, 1.0, 1)) == DEFAULT
    assert hash(replace(DEFAULT, class_weights=(1, 1.0, 1))) == hash(DEFAULT)


def test_a_thin_thing_of_a_class_that_does_not_join_stays(build):
    """A dark pole three pixels wide before a bright wall, of which the network is only just sure."""
    image = np.full((48, 64, 3), 200, np.uint8)
    image[:, 30:33] = 150
    pole = np.full((48, 64), 0.05, np.float32)
    pole[:, 29:34] = 0.55
    probabilities = np.stack([1 - pole, pole], -1)
    smoothed = crf.refine(image, probabilities, DEFAULT).argmax(-1)
    spared = crf.refine(image, probabilities, replace(DEFAULT, class_weights=(1, 0))).argmax(-1)
    assert smoothed[:, 29:34].mean() < 0.9 and spared[:, 29:34].all() and not spared[:, :29].any()


@pytest.mark.parametrize("weights", [(-0.1, 1), (1.1, 1), (float("nan"), 1), (float("inf"), 1)])
def test_weights_out_of_range_are_refused(weights):
    with pytest.raises(InputError, match="class_weights must be from 0 to 1"):
        CrfOptions(class_weights=weights)


def test_weights_of_other_classes_are_refused():
    image, probabilities = draw_image("scene", 8, 8), draw_softmax(8, 8, 5)
    for engine in ("native", "pydensecrf"):
        with pytest.raises(ValueError, match="4 class weights for 5 classes"):
            crf.refine(image, probabilities, CrfOptions(class_weights=(1, 0, 1, 1)), engine)
