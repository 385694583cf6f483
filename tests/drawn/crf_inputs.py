"""Images and softmax maps for the tests of the dense CRF, and `refine` by one build of its engine."""

from __future__ import annotations

import contextlib
import functools
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from pipelines.crf import refine as crf
from pipelines.crf.engine import builds
from pipelines.demo import scenes
from tests.drawn import crf_reference
from trainer.formats.options import CrfOptions

BUILDS = {build.__name__.rpartition(".")[2]: build for build in builds.builds()}

DEFAULT = CrfOptions()

WHITE, BLACK, GREEN = (255, 255, 255), (0, 0, 0), (10, 200, 90)

NARROWEST = {"sxy": 0.02, "srgb": 0.05, "sxy_gaussian": 0.02}  # that pydensecrf holds at 41x53


@contextlib.contextmanager
def running(name: str):
    """`crf.refine` by that build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builds, "load", lambda: BUILDS[name])
        crf._positions.cache_clear()
        yield
    crf._positions.cache_clear()


@functools.lru_cache(maxsize=64)
def draw_image(kind: str | tuple[int, int, int], height: int, width: int, seed: int = 0) -> np.ndarray:
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
def draw_softmax(height: int, width: int, labels: int, seed: int = 0) -> np.ndarray:
    """float32 [height, width, labels]: smooth, as the upsampled map of a network, every label likely somewhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((labels, height // 8 + 2, width // 8 + 2), np.float32)
    logits = np.stack([2 * cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC) for plane in coarse], -1)
    proportional = np.exp(logits - logits.max(-1, keepdims=True))
    return proportional / proportional.sum(-1, keepdims=True)


def draw_rare_labels(height: int, width: int, labels: int, seed: int = 0) -> np.ndarray:
    """A softmax whose labels from the fourth on are so rare that they share a channel."""
    rng = np.random.default_rng(seed)
    rare = draw_softmax(height, width, labels - 3, seed)
    rare = rare * 0.9 * crf.IMPROBABLE / rare.max((0, 1)) * rng.dirichlet(np.full(labels - 3, 0.5))
    frequent = draw_softmax(height, width, 3, seed) * (1 - rare.sum(-1, keepdims=True))
    return np.concatenate([frequent, rare], -1).astype(np.float32)


def assert_equal(refined: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4):
    """Within the tolerance and finite; arg max the same on 99.99 % of pixels (a single one may always differ)."""
    assert np.abs(refined - expected).max() <= tolerance
    other = refined.argmax(-1) != expected.argmax(-1)
    assert other.sum() <= max(1, 1e-4 * other.size)


def pydensecrf(image: np.ndarray, probabilities: np.ndarray, options: CrfOptions) -> np.ndarray:
    pytest.importorskip("pydensecrf.densecrf")
    return crf.refine(image, probabilities, options, "pydensecrf")


class Case(NamedTuple):
    """An image and a softmax as `draw_image` and `draw_softmax` draw them, and parameters for them."""

    kind: str | tuple[int, int, int]
    height: int
    width: int
    labels: int
    options: CrfOptions

    def drawn(self) -> tuple[np.ndarray, np.ndarray, CrfOptions]:
        image = draw_image(self.kind, self.height, self.width)
        return image, draw_softmax(self.height, self.width, self.labels), self.options


@functools.cache
def exact(case: Case) -> np.ndarray:
    return crf_reference.marginals(*case.drawn())


@functools.cache
def tolerance(case: Case) -> float:
    """1e-4, and for heavy kernels what float32 cannot tell; pydensecrf is as far from exact arithmetic there."""
    if case.options.compat + case.options.compat_gaussian <= 10:
        return 1e-4
    moved = [crf_reference.marginals(*case.drawn(), error=1e-7, seed=seed) - exact(case) for seed in range(2)]
    return 1e-4 + 20 * np.abs(moved).max()


def assert_every_build(case: Case, expected: np.ndarray, allowed: float) -> None:
    for build in BUILDS:
        with running(build):
            assert_equal(crf.refine(*case.drawn()), expected, allowed)


def assert_exact(case: Case) -> None:
    """Every build gives what exact arithmetic gives."""
    assert_every_build(case, exact(case), tolerance(case))


def assert_as_pydensecrf(case: Case) -> None:
    """Every build gives what pydensecrf gives."""
    expected = pydensecrf(*case.drawn())
    # Of two that are within 1e-4 of exact arithmetic on different sides, neither is wrong.
    allowed = max(1e-4, tolerance(case) - 1e-4 + 2 * np.abs(expected - exact(case)).max())
    assert_every_build(case, expected, allowed)
