"""The CRF's own engine, every build this processor runs: exact, the same every time, and never a crash."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.crf import refine as crf
from pipelines.crf.engine import builds
from pipelines.crf.options import CrfOptions
from pipelines.demo import scenes
from tests.drawn import crf_reference
from trainer.options import InputError

BUILDS = {build.__name__.rpartition(".")[2]: build for build in builds.builds()}
DEFAULT = CrfOptions()


@contextlib.contextmanager
def running(name: str):
    """`crf.refine` by that build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builds, "load", lambda: BUILDS[name])
        crf._positions.cache_clear()
        yield
    crf._positions.cache_clear()


@pytest.fixture(params=list(BUILDS))
def build(request):
    with running(request.param):
        yield request.param


@functools.lru_cache(maxsize=64)
def picture(kind: str | tuple[int, int, int], height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]: part of a drawn scene, noise of all colours or dark ones, a gradient, one colour."""
    rng = np.random.default_rng(seed)
    if kind == "scene":
        return np.ascontiguousarray(scenes.draw_scene(rng, max(height, 48), max(width, 48))[0][:height, :width])
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "dark":
        return rng.integers(0, 24, (height, width, 3), np.uint8)
    if kind == "gradient":
        y, x = np.mgrid[:height, :width]
        return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], -1).astype(np.uint8)
    return np.full((height, width, 3), kind, np.uint8)


@functools.lru_cache(maxsize=64)
def softmax(height: int, width: int, labels: int, seed: int = 0) -> np.ndarray:
    """float32 [height, width, labels]: smooth, as the upsampled map of a network, every label likely somewhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((labels, height // 8 + 2, width // 8 + 2), np.float32)
    logits = np.stack([2 * cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC) for plane in coarse], -1)
    proportional = np.exp(logits - logits.max(-1, keepdims=True))
    return proportional / proportional.sum(-1, keepdims=True)


def with_rare_labels(height: int, width: int, labels: int, seed: int = 0) -> np.ndarray:
    """A softmax whose labels from the fourth on are so rare that they share a channel."""
    rng = np.random.default_rng(seed)
    rare = softmax(height, width, labels - 3, seed)
    rare = rare * 0.9 * crf.IMPROBABLE / rare.max((0, 1)) * rng.dirichlet(np.full(labels - 3, 0.5))
    frequent = softmax(height, width, 3, seed) * (1 - rare.sum(-1, keepdims=True))
    return np.concatenate([frequent, rare], -1).astype(np.float32)


def assert_equal(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4):
    """Within the tolerance and finite; arg max the same on 99.99 % of pixels (a single one may always differ)."""
    assert np.abs(found - expected).max() <= tolerance
    other = found.argmax(-1) != expected.argmax(-1)
    assert other.sum() <= max(1, 1e-4 * other.size)


def pydensecrf(image: np.ndarray, probabilities: np.ndarray, options: CrfOptions) -> np.ndarray:
    pytest.importorskip("pydensecrf.densecrf")
    return crf.refine(image, probabilities, options, "pydensecrf")


WHITE, BLACK, GREEN = (255, 255, 255), (0, 0, 0), (10, 200, 90)
NARROWEST = {"sxy": 0.02, "srgb": 0.05, "sxy_gaussian": 0.02}  # that pydensecrf holds at 41x53
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


@functools.cache
def drawn(name: str) -> tuple[np.ndarray, np.ndarray, CrfOptions]:
    kind, height, width, labels, changed = CASES[name]
    return picture(kind, height, width), softmax(height, width, labels), replace(DEFAULT, **changed)


@functools.cache
def reference(name: str) -> np.ndarray:
    return crf_reference.marginals(*drawn(name))


@functools.cache
def tolerance(name: str) -> float:
    """1e-4, and for heavy kernels what float32 cannot tell; pydensecrf is as far from exact arithmetic there."""
    options = drawn(name)[2]
    if options.compat + options.compat_gaussian <= 10:
        return 1e-4
    moved = [crf_reference.marginals(*drawn(name), error=1e-7, seed=seed) - reference(name) for seed in range(2)]
    return 1e-4 + 20 * np.abs(moved).max()


@pytest.mark.parametrize("name", CASES)
def test_every_build_equals_exact_arithmetic(name):
    image, probabilities, options = drawn(name)
    for build in BUILDS:
        with running(build):
            assert_equal(crf.refine(image, probabilities, options), reference(name), tolerance(name))


@pytest.mark.parametrize("name", CASES)
def test_every_build_equals_pydensecrf(name):
    image, probabilities, options = drawn(name)
    expected = pydensecrf(image, probabilities, options)
    # Of two that are within 1e-4 of exact arithmetic on different sides, neither is wrong.
    allowed = max(1e-4, tolerance(name) - 1e-4 + 2 * np.abs(expected - reference(name)).max())
    for build in BUILDS:
        with running(build):
            assert_equal(crf.refine(image, probabilities, options), expected, allowed)


@pytest.mark.parametrize("labels", [2, 5, 21])
@pytest.mark.parametrize("iterations", [5, 10])
def test_certain_networks(build, labels, iterations):
    """Probabilities of exactly 0 and 1 are those of MIN_PROBABILITY and 1."""
    image, probabilities = (
        picture("scene", 61, 67),
        np.eye(labels, dtype=np.float32)[softmax(61, 67, labels).argmax(-1)],
    )
    options = replace(DEFAULT, iterations=iterations)
    refined = crf.refine(image, probabilities, options)
    assert_equal(refined, crf_reference.marginals(image, probabilities, options))
    assert_equal(refined, pydensecrf(image, probabilities, options))


@pytest.mark.parametrize("labels", [2, 5, 21, 150])
def test_pixels_without_any_probability_leave_all_labels_alike(build, labels):
    """No softmax, but no reason to call labels improbable that elsewhere are 0 and here as good as any."""
    image, probabilities = picture("scene", 40, 40), softmax(40, 40, labels).copy()
    probabilities[:, :, 3:] = 0
    probabilities[10:20] = 0
    assert_equal(crf.refine(image, probabilities, DEFAULT), crf_reference.marginals(image, probabilities, DEFAULT))
    np.testing.assert_allclose(crf.refine(image, 0 * probabilities, DEFAULT), 1 / labels, atol=1e-6)


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
    image, probabilities = picture("noise", height, width), softmax(height, width, labels)
    refined = crf.refine(image, probabilities, options)
    assert_equal(refined, crf_reference.marginals(image, probabilities, options))
    if widths is NARROWEST:
        assert_equal(refined, pydensecrf(image, probabilities, options))


@pytest.mark.parametrize("labels", [6, 21, 90])
@pytest.mark.parametrize("kind", ["scene", "noise", WHITE])
def test_labels_that_share_a_channel_lose_nothing(build, kind, labels, monkeypatch):
    image, probabilities = picture(kind, 61, 67), with_rare_labels(61, 67, labels)
    shared = crf.refine(image, probabilities, DEFAULT)
    monkeypatch.setattr(crf, "IMPROBABLE", 0.0)
    apart = crf.refine(image, probabilities, DEFAULT)
    assert 0 < np.abs(shared - apart).max() < 3e-5  # they were shared, and
    np.testing.assert_allclose(shared[..., 3:], apart[..., 3:], rtol=0.02)


@pytest.mark.parametrize("weights", [(3, 4), (0.5, 0.5), (3, 10), (0, 40)])
@pytest.mark.parametrize("rare", [(1, 1), (3, 1), (1, 1, 1), (8, 1, 1, 1, 1), (1,) * 8])
@pytest.mark.parametrize("likely", [(1.0,), (0.6, 0.4), (0.7, 0.1, 0.1, 0.1), range(30, 60)])
@pytest.mark.parametrize("widths", [(3, 49, 5), (0.5, 0.5, 0.5)])
def test_sharing_a_channel_costs_least_where_it_should_cost_most(widths, likely, rare, weights, monkeypatch):
    """Improbable labels at their largest where the others of their channel are not."""
    sides = np.where(np.arange(48) < 24, 60, 200).astype(np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2)
    options = CrfOptions(5, widths[0], weights[0], widths[1], widths[2], weights[1])
    moved = []
    for total in crf.IMPROBABLE * np.geomspace(0.01, 1, 15):
        few = np.zeros((32, 48, len(rare)))
        few[:, :24, 0], few[:, 24:, 1:] = total * rare[0] / sum(rare), total * np.array(rare[1:]) / sum(rare)
        rest = (1 - few.sum(-1, keepdims=True)) * np.array(likely) / sum(likely)
        probabilities = np.concatenate([rest, few], -1).astype(np.float32)
        shared = crf.refine(sides, probabilities, options)
        with monkeypatch.context() as patch:
            patch.setattr(crf, "IMPROBABLE", 0.0)
            moved.append(np.abs(shared - crf.refine(sides, probabilities, options)).max())
    assert 0 < max(moved) < 1e-4


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
def test_any_picture_gives_what_pydensecrf_gives(kind, height, width, labels, options, seed):
    image, probabilities = picture(kind, height, width, seed), softmax(height, width, labels, seed)
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
    image = data.draw(_laid_out(picture("noise", height, width).copy()))
    probabilities = data.draw(_laid_out(softmax(height, width, labels).astype(dtype)))
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
@given(SIZES, st.builds(CrfOptions, st.sampled_from([1, 2, 5, 30]), WIDTH, WEIGHT, WIDTH, WIDTH, WEIGHT))
@example((9, 70, 5), CrfOptions(5, 3.0, 1e300, 50.0, 5.0, 1e300))
@example((9, 70, 2), CrfOptions(5, 1e-4, 4.0, 1e-3, 1e-3, 4.0))
def test_absurd_options_give_marginals_or_an_error(size, options):
    height, width, _ = size
    for build in BUILDS:
        with running(build):
            try:
                refined = crf.refine(picture("noise", height, width), softmax(*size), options)
            except ValueError as error:
                assert "too narrow" in str(error)
                continue
        assert np.isfinite(refined).all()
        np.testing.assert_allclose(refined.sum(-1), 1, atol=1e-4)


@pytest.mark.parametrize("iterations", [-1, 0, 2**40, 2.5])
def test_iterations_are_a_modest_whole_number(iterations):
    with pytest.raises(InputError, match="iterations must be a whole number"):
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


@pytest.mark.parametrize("widths", [{"sxy": 1e-6}, {"srgb": 1e-6}, {"sxy_gaussian": 1e-30}, {"sxy": 1e-60}])
def test_a_kernel_too_narrow_for_float32_is_refused(build, widths):
    ((name, value),) = widths.items()
    with pytest.raises(ValueError, match=f"too narrow .*67x61 pixels.*{name} {value:g}"):
        crf.refine(picture("noise", 61, 67), softmax(61, 67, 5), replace(DEFAULT, **widths))


def test_the_engine_itself_refuses_what_would_crash(build):
    engine, marginals = BUILDS[build], np.empty((6, 5, 4), np.float32)
    read_only = marginals.copy()
    read_only.flags.writeable = False
    right = {
        "image": picture("noise", 6, 5),
        "probabilities": softmax(6, 5, 4),
        "marginals": marginals,
        "shape": (6, 5, 4),
        "spatial": engine.spatial(6, 5, sxy=3.0),
        "iterations": 5,
        "sxy_gaussian": 3.0,
        "compat_gaussian": 3.0,
        "sxy": 49.0,
        "srgb": 5.0,
        "compat": 4.0,
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


def _digest(seed: int) -> str:
    image, probabilities = picture("noise", 50 + seed, 70, seed), softmax(50 + seed, 70, 2 + 3 * seed, seed)
    return hashlib.sha256(crf.refine(image, probabilities, DEFAULT).tobytes()).hexdigest()


def test_the_same_bits_on_every_run_and_in_threads(build):
    expected = [_digest(seed) for seed in range(6)]
    assert [_digest(seed) for seed in range(6)] == expected
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_digest, [*range(6)] * 4)) == expected * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_same_bits_after_fork_while_threads_refine(build):
    expected, stop = _digest(3), threading.Event()

    def keep_busy():
        while not stop.is_set():
            _digest(5)

    busy = [threading.Thread(target=keep_busy) for _ in range(2)]
    for thread in busy:
        thread.start()
    try:
        children = []
        for _ in range(5):
            child = os.fork()
            if not child:
                status = 1
                try:
                    status = 0 if _digest(3) == expected else 2
                finally:
                    os._exit(status)
            children.append(child)
        statuses = [_wait(child) for child in children]
    finally:
        stop.set()
        for thread in busy:
            thread.join()
    assert statuses == [0] * 5
    assert _digest(3) == expected


def _wait(child: int) -> int:
    """Exit status of a child process, which is killed when it takes longer than a minute (it hangs)."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_refiners_threads_give_the_same(build):
    pool = crf.Refiner(2, DEFAULT)
    pictures = [(picture("scene", 40, 60, seed), softmax(40, 60, 5, seed)) for seed in range(8)]
    try:
        futures = [pool.submit(*pair) for pair in pictures]
        for pair, future in zip(pictures, futures, strict=True):
            np.testing.assert_array_equal(future.result(60), crf.refine(*pair, DEFAULT))
        with pytest.raises(ValueError, match="NaN"):
            pool.submit(pictures[0][0], pictures[0][1] * np.nan).result(60)
    finally:
        pool.close()


def test_python_goes_on_while_a_picture_is_refined(build):
    image, probabilities = picture("noise", 240, 320), softmax(240, 320, 21)
    entered, done, steps = threading.Event(), threading.Event(), []

    def count():
        entered.set()
        while not done.is_set():
            steps.append(1)
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    entered.wait()
    before = len(steps)
    crf.refine(image, probabilities, DEFAULT)
    after = len(steps)
    done.set()
    thread.join()
    assert after - before >= 10  # with the lock held there would be time for one step before and one after


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_does_not_grow(build):
    pictures = [
        (picture("noise", 8 + size, 40), softmax(8 + size, 40, labels)) for size in (0, 5, 24) for labels in (2, 5, 21)
    ]
    sizes = [{"sxy_gaussian": 3.0 + i} for i in range(10)]  # more lattices of positions than are kept

    def resident_after(count: int) -> int:
        for i in range(count):
            image, probabilities = pictures[i % len(pictures)]
            crf.refine(image, probabilities, replace(DEFAULT, iterations=1, **sizes[i % len(sizes)]))
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    first = resident_after(200)
    assert resident_after(1800) - first < 2 << 20


def test_builds_are_what_was_compiled_for_this_processor():
    assert list(BUILDS)[-1] == "baseline"
    assert builds.load() is builds.builds()[0]
    assert set(BUILDS) <= {"avx512", "avx2", "baseline"}
    assert all(f"pipelines.crf.engine.{name}" in sys.modules for name in BUILDS)
