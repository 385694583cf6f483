"""The search for CRF parameters, on counts whose right answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.crf.options import CrfOptions
from pipelines.tune_crf import search
from pipelines.tune_crf.search import coarse_points, fine_points
from tests.drawn.counts import score, two_classes
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


def planted(rights: dict[CrfOptions, np.ndarray | int], otherwise: int) -> dict[CrfOptions, np.ndarray]:
    """Counts of every point that may be needed: of `rights`, and `otherwise` right pixels for the others."""
    points = dict.fromkeys(p for coarse in coarse_points() for p in (coarse, *fine_points(coarse)))
    return {point: two_classes(np.zeros(len(KEYS), int) + rights.get(point, otherwise)) for point in points}


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
    counts = planted({coarse: 910, fine: 950}, otherwise=850)
    assert fine in search.fine_points_to_score(counts, FOLD)
    tuning = search.tune(two_classes(np.full(60, 900)), counts, KEYS, ("sky", "road"), **ABOUT)
    assert tuning.options == fine
    assert tuning.before == pytest.approx(score(900)) and tuning.after == pytest.approx(score(950))
    # All images gain the same, and so does every resample.
    expected = score(950) - score(900)
    assert (tuning.gain.value, tuning.gain.low, tuning.gain.high) == pytest.approx((expected,) * 3)
    assert tuning.per_class == {name: pytest.approx((score(900), score(950))) for name in ("sky", "road")}
    assert tuning.best == {"sxy": 82.5, "srgb": 3.75, "compat": 6, "score": pytest.approx(score(950))}


def test_only_the_fine_points_of_chosen_coarse_points_are_needed():
    coarse = CrfOptions(sxy=65, srgb=4.5, compat=4.5)
    counts = {point: planted({coarse: 910}, 850)[point] for point in coarse_points()}
    assert search.fine_points_to_score(counts, FOLD) == fine_points(coarse)


def test_cross_fitting_scores_a_fold_with_what_the_others_choose():
    everywhere, flattered = CrfOptions(sxy=30, srgb=3, compat=3), CrfOptions(sxy=100, srgb=6, compat=6)
    # One point is excellent on fold 2 and best on all images together, but not on the other folds.
    counts = planted({everywhere: 930, flattered: np.where(FOLD == 2, 1000, 920)}, otherwise=800)
    assert search.best(counts, counts, FOLD >= 0) == flattered
    assert search.search(counts, FOLD != 2) == everywhere
    after = search.cross_fit(counts, FOLD)
    np.testing.assert_array_equal(after[:, 0, 0], np.where(FOLD == 2, 930, 920))
    tuning = search.tune(two_classes(np.full(60, 900)), counts, KEYS, ("a", "b"), **ABOUT)
    assert tuning.options == flattered
    assert tuning.after == pytest.approx(score((48 * 920 + 12 * 930) / 60))
    assert tuning.after < tuning.best["score"] == pytest.approx(score(936))


def test_parameters_that_fit_noise_are_not_a_gain():
    verdicts, lows, highs, flattered = [], [], [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        before = rng.integers(600, 900, 60)
        common = before + rng.integers(-40, 41, 60)  # parameters differ less from each other than from no CRF
        counts = {p: two_classes(common + rng.integers(-20, 21, 60)) for p in planted({}, 0)}
        tuning = search.tune(two_classes(before), counts, KEYS, ("a", "b"), **ABOUT)
        flattered.append(tuning.best["score"] > tuning.before)
        verdicts.append(tuning.options)
        lows.append(tuning.gain.low)
        highs.append(tuning.gain.high)
    assert sum(flattered) >= 6, "the best of a hundred noisy points looks like a gain"
    assert sum(verdict is None for verdict in verdicts) >= 9
    assert np.mean((np.array(lows) <= 0) & (np.array(highs) >= 0)) >= 0.85


def test_a_crf_that_harms_is_left_off():
    tuning = search.tune(two_classes(np.full(60, 900)), planted({}, 880), KEYS, ("a", "b"), **ABOUT)
    assert tuning.options is None and tuning.gain.high < 0
    assert tuning.to_json()["verdict"] == "off" and tuning.to_json()["options"] is None


def test_images_without_a_labelled_pixel_cannot_be_tuned_on():
    nothing = {point: np.zeros((60, 3, 2), np.int64) for point in planted({}, 0)}
    with pytest.raises(InputError, match="none of the 60 images has a labelled pixel"):
        search.tune(np.zeros((60, 3, 2), np.int64), nothing, KEYS, ("a", "b"), **ABOUT)
