"""The search for CRF parameters, on counts whose right answer is known."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pipelines.crf.refine import CrfOptions
from pipelines.tune_crf import search as crf_search
from pipelines.tune_crf.search import Gain, Tuning, coarse_points, fine_points
from tests.drawn.places import ROOT
from trainer import metrics
from trainer.options import InputError

KEYS = [f"film/{number:03d}" for number in range(60)]
FOLD = crf_search.folds(KEYS)
ABOUT = {
    "metric": "miou",
    "trimap_width": None,
    "split": "val",
    "pictures": len(KEYS),
    "rejects": (),
    "model_digest": "d",
    "records_fingerprint": "f",
}


def two_classes(right: np.ndarray) -> np.ndarray:
    """int64 [n, 3, 2] of pictures with 1000 pixels of each of two classes, of which `right` [n] are right in each."""
    hits = np.stack([right, right], -1)
    return np.stack([hits, np.full_like(hits, 1000), np.full_like(hits, 1000)], 1).astype(np.int64)


def score(right: float) -> float:
    """The mIoU of `two_classes` where on average `right` of 1000 are."""
    return right / (2000 - right)


def planted(rights: dict[CrfOptions, np.ndarray | int], otherwise: int) -> dict[CrfOptions, np.ndarray]:
    """Counts of every point that could be asked for: of `rights`, and `otherwise` right pixels for the others."""
    points = dict.fromkeys(p for coarse in coarse_points() for p in (coarse, *fine_points(coarse)))
    return {point: two_classes(np.zeros(len(KEYS), int) + rights.get(point, otherwise)) for point in points}


def test_scores_from_counts_are_those_of_the_confusion_matrix():
    rng = np.random.default_rng(0)
    confusions = rng.integers(0, 50, (4, 5, 5))
    confusions[2, 3] = confusions[2, :, 3] = 0
    confusions[3] = 0
    counts = crf_search.class_counts(confusions)
    assert counts.shape == (4, 3, 5)
    for confusion, count in zip(confusions, counts, strict=True):
        np.testing.assert_array_equal(crf_search.iou(count), metrics.intersection_over_union(confusion))
        np.testing.assert_allclose(crf_search.miou(count), metrics.mean_iou(metrics.class_counts(confusion)), rtol=1e-15)
    np.testing.assert_array_equal(crf_search.class_counts(confusions.sum(0)), counts.sum(0))


def test_the_coarse_grid_is_the_recipe_and_the_default():
    points = coarse_points()
    assert len(points) == 28 == len(set(points)) and points[-1] == CrfOptions()
    assert {point.sxy for point in points[:-1]} == {30, 65, 100}
    assert {point.srgb for point in points[:-1]} == {point.compat for point in points[:-1]} == {3, 4.5, 6}
    assert {(point.sxy_gaussian, point.compat_gaussian) for point in points} == {(3, 3)}


def test_fine_points_are_half_a_step_away_and_stay_in_range():
    corner = next(p for p in coarse_points() if (p.compat, p.sxy, p.srgb) == (6, 30, 4.5))
    found = {(p.compat, p.sxy, p.srgb) for p in fine_points(corner)}
    assert found == {(c, x, g) for c in (5.25, 6) for x in (30, 47.5) for g in (3.75, 4.5, 5.25)}
    assert corner in fine_points(corner)
    assert len(fine_points(CrfOptions(sxy=65, srgb=4.5, compat=4.5))) == 27


def test_folds_are_balanced_and_belong_to_the_key():
    assert np.bincount(FOLD).tolist() == [12] * 5
    assert np.bincount(crf_search.folds(KEYS[:13])).tolist() == [3, 3, 3, 2, 2]
    order = np.random.default_rng(0).permutation(len(KEYS))
    np.testing.assert_array_equal(crf_search.folds([KEYS[index] for index in order]), FOLD[order])
    # Neighbours in a film are not in one fold as a rule, nor do folds go round in its order.
    assert len({tuple(FOLD[start : start + 5]) for start in range(0, 60, 5)}) > 8


def test_the_planted_point_is_found_coarse_to_fine_with_its_gain_and_interval():
    coarse = CrfOptions(sxy=65, srgb=3, compat=6)
    fine = replace(coarse, sxy=82.5, srgb=3.75)
    counts = planted({coarse: 910, fine: 950}, otherwise=850)
    assert fine in crf_search.wanted_fine_points(counts, FOLD)
    tuning = crf_search.tune(two_classes(np.full(60, 900)), counts, KEYS, ("sky", "road"), **ABOUT)
    assert tuning.options == fine
    assert tuning.before == pytest.approx(score(900)) and tuning.after == pytest.approx(score(950))
    # All pictures gain the same, and so does every resample.
    expected = score(950) - score(900)
    assert (tuning.gain.value, tuning.gain.low, tuning.gain.high) == pytest.approx((expected,) * 3)
    assert tuning.per_class == {name: pytest.approx((score(900), score(950))) for name in ("sky", "road")}
    assert tuning.best == {"sxy": 82.5, "srgb": 3.75, "compat": 6, "score": pytest.approx(score(950))}


def test_only_the_fine_points_of_chosen_coarse_points_are_asked_for():
    coarse = CrfOptions(sxy=65, srgb=4.5, compat=4.5)
    counts = {point: planted({coarse: 910}, 850)[point] for point in coarse_points()}
    assert crf_search.wanted_fine_points(counts, FOLD) == fine_points(coarse)


def test_cross_fitting_scores_a_fold_with_what_the_others_choose():
    everywhere, flattered = CrfOptions(sxy=30, srgb=3, compat=3), CrfOptions(sxy=100, srgb=6, compat=6)
    # One point is excellent on fold 2 and best on all pictures together, but not on the other folds.
    counts = planted({everywhere: 930, flattered: np.where(FOLD == 2, 1000, 920)}, otherwise=800)
    assert crf_search.best(counts, counts, FOLD >= 0) == flattered
    assert crf_search.search(counts, FOLD != 2) == everywhere
    after = crf_search.cross_fit(counts, FOLD)
    np.testing.assert_array_equal(after[:, 0, 0], np.where(FOLD == 2, 930, 920))
    tuning = crf_search.tune(two_classes(np.full(60, 900)), counts, KEYS, ("a", "b"), **ABOUT)
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
        tuning = crf_search.tune(two_classes(before), counts, KEYS, ("a", "b"), **ABOUT)
        flattered.append(tuning.best["score"] > tuning.before)
        verdicts.append(tuning.options)
        lows.append(tuning.gain.low)
        highs.append(tuning.gain.high)
    assert sum(flattered) >= 6, "the best of a hundred noisy points looks like a gain"
    assert sum(verdict is None for verdict in verdicts) >= 9
    assert np.mean((np.array(lows) <= 0) & (np.array(highs) >= 0)) >= 0.85


def test_a_crf_that_harms_is_left_off():
    tuning = crf_search.tune(two_classes(np.full(60, 900)), planted({}, 880), KEYS, ("a", "b"), **ABOUT)
    assert tuning.options is None and tuning.gain.high < 0
    assert tuning.to_json()["verdict"] == "off" and tuning.to_json()["options"] is None


def test_the_interval_is_that_of_resampled_pictures():
    rng = np.random.default_rng(5)
    before, step = rng.integers(600, 900, 200), rng.integers(-20, 41, 200)
    gain = crf_search.bootstrap(two_classes(before), two_classes(before + step))
    assert gain == crf_search.bootstrap(two_classes(before), two_classes(before + step))
    drawn = rng.integers(0, 200, (2000, 200))
    plain = [score((before + step)[pick].mean()) - score(before[pick].mean()) for pick in drawn]
    assert gain.value == pytest.approx(score((before + step).mean()) - score(before.mean()))
    assert (gain.low, gain.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.0006)
    assert gain.high - gain.low > 0.004
    assert (gain.level, gain.resamples) == (0.95, 2000)


def test_pictures_without_a_labelled_pixel_cannot_be_tuned_on():
    nothing = {point: np.zeros((60, 3, 2), np.int64) for point in planted({}, 0)}
    with pytest.raises(InputError, match="none of the 60 pictures has a labelled pixel"):
        crf_search.tune(np.zeros((60, 3, 2), np.int64), nothing, KEYS, ("a", "b"), **ABOUT)


def some_tuning(**changes) -> Tuning:
    reject = {"key": "k", "path": "p", "stage": "tune-crf", "reason": "damaged", "records": 1}
    tuning = Tuning(
        options=CrfOptions(sxy=40, srgb=4, compat=3.5),
        metric="trimap",
        trimap_width=4,
        before=0.5,
        after=0.6,
        gain=Gain(0.1, 0.08, 0.12),
        per_class={"sky": (0.5, 0.6), "ghost": (None, None)},
        grid=({"compat": 3.5, "sxy": 40.0, "srgb": 4.0, "score": 0.61},),
        split="val",
        pictures=41,
        rejects=(reject,),
        model_digest="d",
        records_fingerprint="f",
    )
    return replace(tuning, **changes)


@pytest.mark.parametrize("tuning", [some_tuning(), some_tuning(options=None, trimap_width=None, metric="miou")])
def test_the_file_holds_all_of_it(tuning, tmp_path):
    (tmp_path / "crf.json").write_text(json.dumps(tuning.to_json()))
    assert crf_search.load(str(tmp_path)) == tuning
    value = tuning.to_json()
    assert (value["format"], value["scored"], value["pictures"]) == (1, 40, 41)
    assert value["verdict"] == ("on" if tuning.options else "off")


def test_without_a_file_there_is_no_tuning(tmp_path):
    assert crf_search.load(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda value: [], "format 1, found 'list'"),
        (lambda value: value | {"format": 2}, "format 1, found 2"),
        (lambda value: value | {"verdict": "off"}, "does not go with the options"),
        (lambda value: value | {"options": {"sxy": -1}}, "above 0, got -1"),
        (lambda value: value | {"options": {"sxy": "wide"}}, "damaged"),
        (lambda value: value | {"options": {"width": 3}}, "damaged"),
        (lambda value: value | {"gain": None}, "damaged"),
        (lambda value: value | {"per_class": {"sky": 1}}, "damaged"),
        (lambda value: {name: value[name] for name in value if name != "grid"}, "damaged"),
    ],
)
def test_a_damaged_file_is_said_with_its_cure(damage, message, tmp_path):
    path = tmp_path / "crf.json"
    path.write_text(json.dumps(damage(some_tuning().to_json())))
    with pytest.raises(InputError, match=message) as caught:
        crf_search.load(str(tmp_path))
    assert str(path) in str(caught.value) and "deeplab tune-crf" in str(caught.value)


def test_reading_the_file_loads_neither_tensorflow_nor_beam():
    code = (
        "import sys, pipelines.tune_crf.search;"
        "sys.exit(bool({'tensorflow', 'keras', 'apache_beam'} & {name.split('.')[0] for name in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
