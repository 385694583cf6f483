"""Batches, the most probable classes, confidence, and the CRF behind a network that is known."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipelines.crf import refine as crf
from pipelines.masks import segmenter as masks
from pipelines.masks.options import Views
from pipelines.runner.steps import watched
from trainer.formats.options import CrfOptions


@pytest.fixture
def item():
    def make(key, height, width):
        image = np.zeros((height, width, 3), np.uint8)
        return masks.Item(key, image, image)

    return make


def test_batches_have_one_size_and_lose_nothing(item):
    items = [item(n, *size) for n, size in enumerate([(4, 5), (5, 4), (4, 5), (4, 5), (5, 4), (9, 9)])]
    groups = [[i.key for i in batch] for batch in masks.batches(items, 2, 10**6)]
    assert groups == [[0, 2], [1, 4], [3], [5]]


def test_large_images_go_alone_and_batches_stay_below_the_bound(item):
    items = [item(n, *size) for n, size in enumerate([(11, 10), (5, 10), (5, 10), (5, 10), (3, 10), (11, 10)])]
    groups = [[i.key for i in batch] for batch in masks.batches(items, 8, 100)]
    assert groups == [[0], [1, 2], [5], [3], [4]]


def test_the_number_of_waiting_images_is_bounded(item, monkeypatch):
    monkeypatch.setattr(masks, "HELD_BYTES", 3 * 100)
    items = [item(n, 5, 5 + n) for n in range(9)]
    waiting = 0
    fed = []

    def feed():
        for one in items:
            fed.append(one.key)
            yield one

    for batch in masks.batches(feed(), 8, 10**6):
        waiting = max(waiting, len(fed) - len(batch))
        fed = fed[len(batch) :]
    assert waiting <= 3


class Halves:
    """Stands in for a network: the left half of an image is class 0, the right half class 1."""

    batch_pixels = 10**6

    def __call__(self, images: np.ndarray, what: str, window: int = 4096) -> Any:
        right = np.zeros(images.shape[:3], np.float32)
        right[:, :, images.shape[2] // 2 :] = 1
        if what == "probabilities":
            return np.stack([1 - right, right], -1) * 0.8 + 0.1
        ids = right.astype(np.uint8)
        return ids, np.full(ids.shape, 0.9, np.float32), np.full(ids.shape, 0.325, np.float32)


OPTIONS = {
    "batch_size": 4,
    "max_side": 0,
    "views": Views(),
    "window": 4096,
    "crf": None,
    "crf_engine": "native",
    "crf_workers": 1,
    "confidence": False,
}


def segmenter(**options) -> masks.Segmenter:
    return masks.Segmenter(Halves(), **OPTIONS | options)


def test_an_image_whose_crf_process_was_killed_is_refined_in_another_one():
    pytest.importorskip("pydensecrf.densecrf")
    refining = segmenter(crf=CrfOptions(), crf_engine="pydensecrf")
    blank = np.zeros((16, 16, 3), np.uint8)
    try:
        list(refining([("a", blank)]))
        for pid in refining._refiner._pool._processes:
            os.kill(pid, signal.SIGKILL)
        for _ in range(3):  # the pool may notice at once, or when the next image is there
            (result,) = refining([("b", blank)])
            assert (result.ids == Halves()(blank[None], "best")[0][0]).all()
    finally:
        refining.close()


def blank(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


def outcomes(results) -> dict:
    return {result.key: getattr(result, "reason", "") for result in results}


def test_of_a_batch_that_fails_only_the_image_that_fails_alone_is_lost(monkeypatch):
    def call(self, images, what, window):
        if (images == 1).any():
            raise RuntimeError("no memory\nfor ones")
        return tuple(np.zeros(images.shape[:3], kind) for kind in (np.uint8, np.float32, np.float32))

    monkeypatch.setattr(Halves, "__call__", call)
    results = outcomes(segmenter()((str(value), blank(value)) for value in range(4)))
    assert results == {"0": "", "1": "RuntimeError: no memory for ones; tried alone", "2": "", "3": ""}


@pytest.mark.parametrize("times", [1, 2])
def test_an_image_that_the_crf_fails_on_is_tried_again_alone(times, monkeypatch):
    left, refine = [times], crf.refine

    def fail(image, *arguments):
        if (image == 1).any() and left[0]:
            left[0] -= 1
            raise MemoryError("for ones")
        return refine(image, *arguments)

    monkeypatch.setattr(crf, "refine", fail)
    results = outcomes(segmenter(crf=CrfOptions())((str(value), blank(value)) for value in range(3)))
    assert results == {"0": "", "1": "MemoryError: for ones; tried alone" if times == 2 else "", "2": ""}


@pytest.mark.parametrize("name", ["shrink", "most_probable"])
def test_an_image_that_cannot_be_shrunk_or_enlarged_is_lost_alone(name, monkeypatch):
    true = getattr(masks, name)

    def fail(array, *arguments):
        if array.shape[0] == 7 or arguments[-1] == 7:
            raise ValueError("seven")
        return true(array, *arguments)

    monkeypatch.setattr(masks, name, fail)
    images = [("a", np.zeros((8, 20, 3), np.uint8)), ("b", np.zeros((7, 7, 3), np.uint8))]
    assert outcomes(segmenter(max_side=6)(images)) == {"a": "", "b": "ValueError: seven; tried alone"}


def test_confidence_is_the_probability_of_the_chosen_class():
    (result,) = segmenter(confidence=True)([("a", np.zeros((6, 6, 3), np.uint8))])
    assert set(result.confidence.ravel().tolist()) == {round(0.9 * 255)}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "best"),
        ({"confidence": True}, "best"),
        ({"confidence": True, "max_side": 4}, "probabilities"),
        ({"crf": CrfOptions()}, "probabilities"),
    ],
)
def test_the_network_is_asked_for_no_more_than_is_needed(options, what, monkeypatch):
    asked, call = [], Halves.__call__
    monkeypatch.setattr(
        Halves, "__call__", lambda self, images, what, window: asked.append(what) or call(self, images, what)
    )
    results = list(segmenter(**options)((str(value), blank(value)) for value in range(3)))
    assert [result.ids[0].tolist() for result in results] == [[0, 0, 0, 1, 1, 1]] * 3
    assert asked == [what]


def test_a_shrunk_image_gets_a_mask_of_its_own_size() -> None:
    image = np.zeros((30, 60, 3), np.uint8)
    (result,) = segmenter(max_side=20)([("a", image)])
    assert result.ids.shape == (30, 60) and result.confidence is None
    np.testing.assert_array_equal(result.ids, np.repeat([[0] * 30 + [1] * 30], 30, axis=0))


def test_time_is_counted_for_the_crf_only_where_there_is_one() -> None:
    for options, steps in ((None, set()), (CrfOptions(), {"CRF"})):
        with watched() as times:
            assert len(list(segmenter(max_side=4, crf=options)([("a", np.zeros((6, 6, 3), np.uint8))]))) == 1
        assert set(times.wall) == steps | {"decode", "network", "classes"}
        assert set(times.processor) == steps | {"all"}
        assert 0 < times.processor.get("CRF", 1e-9) < times.processor["all"]


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(masks, "shared_network", lambda folder, digest, threads: Halves())
    yield
    masks.release()


def test_a_process_has_one_segmenter_until_options_change_or_it_is_released(halves: None) -> None:
    others = OPTIONS | {"confidence": True}
    first = masks.shared_segmenter("m", "d", 0, **OPTIONS)
    assert masks.shared_segmenter("m", "d", 0, **OPTIONS) is first
    other = masks.shared_segmenter("m", "d", 0, **others)
    assert other is not first
    masks.release()
    assert masks.shared_segmenter("m", "d", 0, **others) is not other
