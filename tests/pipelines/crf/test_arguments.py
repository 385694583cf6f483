"""Whatever the CRF is given, it refines or refuses; it never crashes."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.crf import refine as crf
from tests.drawn.crf_inputs import BUILDS, DEFAULT, draw_image, draw_softmax, running
from trainer.formats.options import CrfOptions
from trainer.options import InputError

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 70), st.integers(1, 40))


@st.composite
def _laid_out(draw, array: np.ndarray) -> np.ndarray:
    """The same values, somehow in memory, perhaps read-only."""
    kind = draw(st.sampled_from(["as is", "turned", "Fortran", "every other", "broadcast", "unaligned"]))
    if kind == "turned":
        array = array[::-1, ::-1].copy()[::-1, ::-1]
    elif kind == "Fortran":
        array = np.asfortranarray(array)
    elif kind == "every other":
        array = np.repeat(array, 2, axis=1)[:, ::2]
    elif kind == "broadcast":
        array = np.broadcast_to(array[:1], array.shape)
    elif kind == "unaligned":
        room = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        room[...] = array
        array = room
    if array.flags.writeable and draw(st.booleans()):
        array.flags.writeable = False
    return array


@settings(max_examples=80, deadline=None)
@given(SIZES, st.sampled_from(["f2", "f4", ">f4", "f8", "g"]), st.data())
def test_layout_in_memory_does_not_matter(size, dtype, data):
    height, width, labels = size
    image = data.draw(_laid_out(draw_image("noise", height, width).copy()))
    probabilities = data.draw(_laid_out(draw_softmax(height, width, labels).astype(dtype)))
    before = image.copy(), probabilities.copy()
    for build in BUILDS:
        with running(build):
            refined = crf.refine(image, probabilities, DEFAULT)
            plain = crf.refine(before[0].copy("C"), before[1].astype(np.float32, "C"), DEFAULT)
        np.testing.assert_array_equal(refined, plain)
        np.testing.assert_array_equal(image, before[0])
        np.testing.assert_array_equal(probabilities, before[1])


WIDTH = st.sampled_from([1e-300, 1e-50, 1e-30, 1e-6, 1e-4, 1e-3, 0.1, 3.0, 50.0, 1e5, 1e30, 1e300])

WEIGHT = st.sampled_from([0.0, 1e-300, 1e-30, 1.0, 4.0, 14.9, 15.1, 1e4, 1e30, 1e38, 1e300])


@settings(max_examples=150, deadline=None)
@given(
    SIZES,
    st.builds(CrfOptions, st.sampled_from([1, 2, 5, 30]), WIDTH, WEIGHT, WIDTH, WIDTH, WEIGHT),
    st.sampled_from([0, 1e-38, 0.5, 1]),
)
@example((9, 70, 5), CrfOptions(5, 3.0, 1e300, 50.0, 5.0, 1e300), 1)
@example((9, 70, 5), CrfOptions(5, 3.0, 1e300, 50.0, 5.0, 1e300), 0.5)
@example((9, 70, 2), CrfOptions(5, 3.0, 1e38, 50.0, 5.0, 1e38), 0)
@example((9, 70, 2), CrfOptions(5, 1e-4, 4.0, 1e-3, 1e-3, 4.0), 1)
def test_absurd_options_give_marginals_or_an_error(size, options, weight_of_last):
    height, width, labels = size
    options = replace(options, class_weights=(*(1,) * (labels - 1), weight_of_last))
    for build in BUILDS:
        with running(build):
            try:
                refined = crf.refine(draw_image("noise", height, width), draw_softmax(*size), options)
            except ValueError as error:
                assert "too narrow" in str(error)
                continue
        assert np.isfinite(refined).all()
        np.testing.assert_allclose(refined.sum(-1), 1, atol=1e-4)


@pytest.mark.parametrize("iterations", [-1, 0, 2**40, 2.5])
def test_iterations_are_a_modest_whole_number(iterations):
    with pytest.raises(InputError, match=r"iterations must be (1 to 1000|a whole number), got"):
        CrfOptions(iterations=iterations)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    st.lists(st.integers(-1, 9), max_size=4),
    st.sampled_from(["f2", "f4", "f8", "i1", "i8", "u1", "?", "c8", "O", "U4", "M8[s]", "V3"]),
    st.sampled_from(["u1", "i1", "f4", "u2", "?", "O"]),
    st.sampled_from([np.nan, np.inf, -np.inf, -0.1, 1e4, 2.0, 1.0005, -1e-30, 0.0]),
)
def test_arrays_of_any_kind_are_refined_or_refused(size, change, dtype, image_dtype, value):
    """Arrays of the right shape with one odd value, and then any other shape and dtype."""
    tenths = np.full(size, 0.1)
    probabilities = tenths.copy()
    probabilities.reshape(-1)[size[0] :: 7] = value
    image = np.zeros((*size[:2], 3), np.uint8)
    shape = [n if n >= 0 else size[i % 3] for i, n in enumerate(change)]
    for build in BUILDS:
        for pair, fit in (
            ((image, probabilities), 0 not in size and 0 <= probabilities.min() <= probabilities.max() <= 1.001),
            ((image, np.zeros(size, dtype)), 0 not in size and dtype[0] == "f"),
            ((image.astype(image_dtype), tenths), 0 not in size and image_dtype == "u1"),
            ((image, np.zeros(shape)), 0 not in shape and len(shape) == 3 and tuple(shape[:2]) == size[:2]),
            ((np.zeros(shape, np.uint8), tenths), 0 not in size and shape == [*size[:2], 3]),
        ):
            with running(build), contextlib.nullcontext() if fit else pytest.raises(ValueError):
                refined = crf.refine(*pair, DEFAULT)
                np.testing.assert_allclose(refined.sum(-1), 1, atol=1e-5)


def test_the_engine_itself_refuses_what_would_crash(build):
    engine, marginals = BUILDS[build], np.empty((6, 5, 4), np.float32)
    read_only = marginals.copy()
    read_only.flags.writeable = False
    right = {
        "image": draw_image("noise", 6, 5),
        "probabilities": draw_softmax(6, 5, 4),
        "marginals": marginals,
        "shape": (6, 5, 4),
        "spatial": engine.spatial(6, 5, sxy=3.0),
        "iterations": 5,
        "sxy_gaussian": 3.0,
        "compat_gaussian": 3.0,
        "sxy": 49.0,
        "srgb": 5.0,
        "compat": 4.0,
        "class_weights": np.ones(0, np.float32),
        "min_probability": 1e-5,
        "max_shared_sum": 1e-3,
        "max_shared_error": 1e-5,
    }
    assert engine.refine(**right)
    for wrong in (
        {"image": right["image"][:5]},
        {"probabilities": right["probabilities"][:5]},
        {"marginals": marginals[:5]},
        {"marginals": read_only},
        {"marginals": marginals.transpose(1, 0, 2)},
        {"shape": (6, 5, 5)},
        {"shape": (-6, -5, 4)},
        {"shape": (2**62, 5, 4)},
        {"spatial": engine.spatial(6, 6, sxy=3.0)},
        {"spatial": None},
        {"iterations": 0},
        {"class_weights": np.ones(3, np.float32)},
        {"class_weights": np.ones(8, np.float32)[::2]},
    ):
        with pytest.raises((ValueError, BufferError)):
            engine.refine(**right | wrong)
    for name in right:
        with pytest.raises(TypeError, match=name):
            engine.refine(**{other: value for other, value in right.items() if other != name})
    with pytest.raises(TypeError, match="positional"):
        engine.refine(*right.values())
    for size in ((0, 5), (-6, 5), (2**40, 2**40), (2**20, 2**20)):
        with pytest.raises(ValueError, match="no image"):
            engine.spatial(*size, sxy=3.0)
