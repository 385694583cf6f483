"""The search for CRF parameters, on counts whose right answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipelines.tune_crf import search
from pipelines.tune_crf.search import coarse_points, fine_points
from tests.drawn.counts import score, two_classes
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import Tuning
from trainer.options import InputError

KEYS = [f"video/{number:03d}" for number in range(60)]
FOLD = search.folds(KEYS)
ABOUT = {
    "metric": "miou",
    "trimap_width": None,
    "split": "val",
    "images": len(KEYS),
    "rejects": (),
    "model_digest": "d",
    "records_fingerprint": "f",
}


def explored(before: np.ndarray, counts_at: Callable[[CrfOptions], np.ndarray]) -> dict[CrfOptions, np.ndarray]:
    """The counts of all points that the search asks for, as the command gives them to it."""
    counts = {}
    while (lacking := search.unscored(before, counts, FOLD)) is not None:
        assert not set(lacking.points) & set(counts), "nothing is asked for twice"
        counts |= {point: counts_at(point) for point in lacking.points}
    return counts


def best_of(tuning: Tuning) -> dict[str, float]:
    return max(tuning.grid, key=lambda point: point["score"])


def planted(rights: dict[CrfOptions, np.ndarray | int], otherwise: int) -> Callable[[CrfOptions], np.ndarray]:
    """Counts of points: of `rights`, and `otherwise` right pixels for the others."""
    return lambda point: two_classes(np.zeros(len(KEYS), int) + rights.get(point, otherwise))


def test_the_coarse_grid_is_the_recipe_and_the_default():
    points = coarse_points()
    assert len(points) == 28 == len(set(points)) and points[-1] == CrfOptions()
    assert {point.sxy for point in points[:-1]} == {30, 65, 100}
    assert {point.srgb for point in points[:-1]} == {point.compat for point in points[:-1]} == {3, 4.5, 6}
    assert {(point.sxy_gaussian, point.compat_gaussian) for point in points} == {(3, 3)}


def test_fine_points_are_half_a_step_away_and_stay_in_range():
    corner = next(p for p in coarse_points() if (p.compat, p.sxy, p.srgb) == (6, 30, 4.5))
    points = {(p.compat, p.sxy, p.srgb) for p in fine_points(corner)}
    assert points == {(c, x, g) for c in (5.25, 6) for x in (30, 47.5) for g in (3.75, 4.5, 5.25)}
    assert corner in fine_points(corner)
    assert len(fine_points(CrfOptions(sxy=65, srgb=4.5, compat=4.5))) == 27


def test_points_beyond_the_grid_are_a_step_away_on_the_axes_at_whose_ends_the_centre_is():
    def beyond(**centre: float) -> set[tuple[float, ...]]:
        return {(p.compat, p.sxy, p.srgb) for p in search.points_beyond(CrfOptions(**centre))}

    assert beyond(compat=4.5, sxy=65, srgb=4.5) == {(4.5, 65, 4.5)}
    assert beyond(compat=4.5, sxy=100, srgb=4.5) == {(4.5, 100, 4.5), (4.5, 140, 4.5)}
    assert beyond(compat=3, sxy=30, srgb=6) == {(3, 30, 6), (2, 30, 6), (3, 20, 6), (3, 30, 8)}
    assert beyond(compat=8, sxy=140, srgb=2) == {(8, 140, 2), (12, 140, 2), (8, 200, 2), (8, 140, 1.5)}
    assert beyond(compat=16, sxy=400, srgb=1) == {(16, 400, 1)}, "the search is bounded"
    assert beyond(compat=1, sxy=10, srgb=16) == {(1, 10, 16)}


def test_the_gaussian_kernel_is_given_less_and_less_weight_down_to_none():
    for weight, weights in {3.0: {3, 1}, 1.0: {1, 0.3}, 0.3: {0.3, 0}, 0.0: {0}}.items():
        points = search.points_beyond(CrfOptions(compat=4.5, sxy=65, srgb=4.5, compat_gaussian=weight))
        assert {point.compat_gaussian for point in points} == weights
    before = two_classes(np.full(60, 900))
    best_weight = lambda point: two_classes(np.full(60, 950 - round(20 * abs(point.compat_gaussian - 0.3))))
    counts = explored(before, best_weight)
    assert search.tune(before, counts, KEYS, ("sky", "pole"), **ABOUT).options.compat_gaussian == 0.3


def test_folds_are_balanced_and_belong_to_the_key():
    assert np.bincount(FOLD).tolist() == [12] * 5
    assert np.bincount(search.folds(KEYS[:13])).tolist() == [3, 3, 3, 2, 2]
    order = np.random.default_rng(0).permutation(len(KEYS))
    np.testing.assert_array_equal(search.folds([KEYS[index] for index in order]), FOLD[order])
    # Consecutive video frames usually land in unrelated folds, and folds do not go round in their order.
    assert len({tuple(FOLD[start : start + 5]) for start in range(0, 60, 5)}) > 8


def test_the_planted_point_is_found_coarse_to_fine_with_its_gain_and_interval():
    coarse = CrfOptions(sxy=65, srgb=3, compat=6)
    fine = replace(coarse, sxy=82.5, srgb=3.75)
    before = two_classes(np.full(60, 900))
    counts = explored(before, planted({coarse: 910, fine: 950}, otherwise=850))
    tuning = search.tune(before, counts, KEYS, ("sky", "road"), **ABOUT)
    assert tuning.options == fine
    assert tuning.before == pytest.approx(score(900)) and tuning.after == pytest.approx(score(950))
    # All images gain the same, and so does every resample.
    expected = score(950) - score(900)
    assert (tuning.gain.value, tuning.gain.low, tuning.gain.high) == pytest.approx((expected,) * 3)
    for change in tuning.per_class.values():
        assert (change.before, change.after) == pytest.approx((score(900), score(950)))
        assert (change.gain.value, change.gain.low, change.gain.high) == pytest.approx((expected,) * 3)
    assert best_of(tuning) == {"sxy": 82.5, "srgb": 3.75, "compat": 6, "compat_gaussian": 3, "score": tuning.after}


def test_only_the_fine_points_of_chosen_coarse_points_are_asked_for():
    coarse = CrfOptions(sxy=65, srgb=4.5, compat=4.5)
    counts = explored(two_classes(np.full(60, 900)), planted({coarse: 910}, 850))
    assert set(counts) == {*coarse_points(), *fine_points(coarse), replace(coarse, compat_gaussian=1)}


def test_the_search_goes_past_the_ends_of_the_grid_until_the_gain_turns():
    """The gain grows to sxy 200 and srgb 2, and falls beyond."""
    before = two_classes(np.full(60, 900))
    peak = {"sxy": 200.0, "srgb": 2.0, "compat": 4.5}

    def counts_at(point: CrfOptions) -> np.ndarray:
        away = sum(abs(np.log(getattr(point, name) / value)) for name, value in peak.items())
        return two_classes(np.full(60, 950 - int(20 * away)))

    counts = explored(before, counts_at)
    tuning = search.tune(before, counts, KEYS, ("sky", "road"), **ABOUT)
    assert {name: getattr(tuning.options, name) for name in peak} == peak
    assert {point.sxy for point in counts} >= {140, 200, 280} and {point.srgb for point in counts} >= {2, 1.5}
    assert 1 not in {point.srgb for point in counts}, "one step past the turn"
    assert len(counts) == 28 + 11 + 4 * 3, "a step on each of two axes and of less smoothing, four times"


def test_cross_fitting_scores_a_fold_with_what_the_others_choose():
    everywhere, flattered = CrfOptions(sxy=30, srgb=3, compat=3), CrfOptions(sxy=100, srgb=6, compat=6)
    # One point is excellent on fold 2 and best on all images together, but not on the other folds.
    before = two_classes(np.full(60, 900))
    rights = {everywhere: 930, flattered: np.where(FOLD == 2, 1000, 920)}
    counts = explored(before, planted(rights, otherwise=800))
    assert search.search(before, counts, FOLD >= 0) == flattered
    assert search.search(before, counts, FOLD != 2) == everywhere
    after = search.cross_fit(before, counts, FOLD)
    np.testing.assert_array_equal(after[:, 0, 0], np.where(FOLD == 2, 930, 920))
    tuning = search.tune(before, counts, KEYS, ("a", "b"), **ABOUT)
    assert tuning.options == flattered
    assert tuning.after == pytest.approx(score((48 * 920 + 12 * 930) / 60))
    assert tuning.after < best_of(tuning)["score"] == pytest.approx(score(936))


def test_parameters_that_fit_noise_are_not_a_gain():
    verdicts, lows, highs, flattered = [], [], [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        before = rng.integers(600, 900, 60)
        common = before + rng.integers(-40, 41, 60)  # parameters differ less from each other than from no CRF
        counts = explored(two_classes(before), lambda _: two_classes(common + rng.integers(-20, 21, 60)))  # noqa: B023
        tuning = search.tune(two_classes(before), counts, KEYS, ("a", "b"), **ABOUT)
        flattered.append(best_of(tuning)["score"] > tuning.before)
        verdicts.append(tuning.options)
        lows.append(tuning.gain.low)
        highs.append(tuning.gain.high)
    assert sum(flattered) >= 6, "the best of a hundred noisy points looks like a gain"
    assert sum(verdict is None for verdict in verdicts) >= 9
    assert np.mean((np.array(lows) <= 0) & (np.array(highs) >= 0)) >= 0.85


def test_a_crf_that_harms_is_left_off():
    before = two_classes(np.full(60, 900))
    counts = explored(before, planted({}, 880))
    tuning = search.tune(before, counts, KEYS, ("a", "b"), **ABOUT)
    assert tuning.options is None and tuning.gain.high < 0
    assert tuning.to_json()["verdict"] == "off" and tuning.to_json()["options"] is None


def test_images_without_a_labelled_pixel_cannot_be_tuned_on():
    nothing = np.zeros((60, 3, 2), np.int64)
    counts = explored(nothing, lambda _: nothing)
    with pytest.raises(InputError, match="none of the 60 images has a labelled pixel"):
        search.tune(nothing, counts, KEYS, ("a", "b"), **ABOUT)
