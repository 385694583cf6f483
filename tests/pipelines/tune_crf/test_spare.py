"""Classes that lose by the CRF are given less weight, and what is chosen does least harm: on made-up counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines.tune_crf import search
from tests.pipelines.tune_crf.test_search import ABOUT, FOLD, KEYS, explored
from trainer.formats.options import CrfOptions

NAMES = ("road", "pole", "sign")
BEST = CrfOptions(sxy=65, srgb=4.5, compat=4.5)


def counts_of(*right: float | np.ndarray) -> np.ndarray:
    """int64 [60, 3, 3]: images with 1000 pixels of each of three classes, of which `right` are right."""
    hits = np.stack(np.broadcast_arrays(*right, np.zeros(len(KEYS)))[:-1], -1).round().astype(np.int64)
    return np.stack([hits, np.full_like(hits, 1000), np.full_like(hits, 1000)], 1)


BEFORE = counts_of(800, 500, 600)


def weights(point: CrfOptions) -> tuple[float, ...]:
    return point.class_weights or (1.0,) * len(NAMES)


def at_best(counts_at: Callable[..., np.ndarray]) -> Callable[[CrfOptions], np.ndarray]:
    """Counts that depend on the weights of road, pole and sign at BEST; every other point gains nothing."""

    def counts(point: CrfOptions) -> np.ndarray:
        kernel = (point.compat, point.sxy, point.srgb) == (BEST.compat, BEST.sxy, BEST.srgb)
        return counts_at(*weights(point)) if kernel else BEFORE

    return counts


def tune(counts_at: Callable[[CrfOptions], np.ndarray]):
    counts = explored(BEFORE, counts_at)
    return search.tune(BEFORE, counts, KEYS, NAMES, **ABOUT), counts


def test_a_class_that_loses_gets_less_weight_until_it_does_not():
    # The pole loses 110 pixels at weight 1, 10 at 0.5 and none at 0.25; the road gives a little for it.
    tuning, counts = tune(
        at_best(lambda road, pole, sign: counts_of(900 + 8 * pole, 540 - max(pole - 0.25, 0) * 200, 700))
    )
    assert weights(tuning.options) == (1, 0.25, 1)
    assert {weights(point) for point in counts} == {(1, 1, 1), (1, 0.5, 1), (1, 0.25, 1)}
    assert tuning.losers == {} and tuning.per_class["pole"].gain.low >= 0
    assert {point["class_weights"]["pole"] for point in tuning.grid if "class_weights" in point} == {0.5, 0.25}


def test_remaining_losers_are_reported():
    tuning, counts = tune(at_best(lambda road, pole, sign: counts_of(900, 400 + 50 * (1 - pole), 700)))
    assert weights(tuning.options) == (1, 0, 1) and tuning.options is not None
    assert list(tuning.losers) == ["pole"] and tuning.losers["pole"].high < 0
    assert tuning.own_losses == {"pole": tuning.losers["pole"].value}, "every fold chose the same"
    assert len({weights(point) for point in counts}) == 4


def test_classes_are_given_less_one_by_one_as_they_lose():
    # Sparing the pole harms the sign, which is spared next.
    def counts_at(road: float, pole: float, sign: float) -> np.ndarray:
        return counts_of(950, 550 if pole < 1 else 450, 700 if pole == 1 or sign < 1 else 550)

    tuning, _ = tune(at_best(counts_at))
    assert weights(tuning.options) == (1, 0.5, 0.5) and tuning.losers == {}


def test_weights_that_cost_too_much_of_the_gain_are_not_taken():
    # Without weights mIoU gains much and the pole loses a little; with them hardly anything gains.
    tuning, _ = tune(
        at_best(lambda road, pole, sign: counts_of(950, 490, 800) if pole == 1 else counts_of(810, 510, 610))
    )
    assert weights(tuning.options) == (1, 1, 1) and list(tuning.losers) == ["pole"]


def test_a_class_whose_loss_is_not_certain_keeps_its_weight():
    noise = np.random.default_rng(0).normal(-1, 60, len(KEYS))
    tuning, counts = tune(at_best(lambda road, pole, sign: counts_of(900, 500 + noise, 700)))
    assert tuning.per_class["pole"].gain.low < 0 < tuning.per_class["pole"].gain.high
    assert weights(tuning.options) == (1, 1, 1) and all(weights(point) == (1, 1, 1) for point in counts)


def test_weights_are_chosen_inside_the_cross_fitting():
    """The pole loses on the images of one fold alone, and there so much that it clearly loses on all images."""
    loses = np.where(FOLD == 2, 400.0, 2.0)
    tuning, counts = tune(at_best(lambda road, pole, sign: counts_of(950, 501 - loses * pole + 1 * (FOLD != 2), 700)))
    assert weights(search.search(BEFORE, counts, FOLD >= 0)) != (1, 1, 1)
    assert weights(search.search(BEFORE, counts, FOLD != 2)) == (1, 1, 1)
    after = search.cross_fit(BEFORE, counts, FOLD)
    # So its gain is measured on that fold with what the others chose, which knew nothing of it.
    np.testing.assert_array_equal(after[FOLD == 2, 0, 1], 101)
    assert list(tuning.losers) == ["pole"] and tuning.own_losses == {}, "the parameters of the file spare it"


def test_without_losing_classes_no_class_weights_are_tried():
    _, counts = tune(at_best(lambda *_: counts_of(900, 550, 700)))
    assert all(not point.class_weights for point in counts)
