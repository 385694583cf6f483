"""The bootstrap against a plain one, on counts whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.scores.bootstrap import bootstrap, bootstrap_classes
from tests.drawn.counts import score, two_classes


def test_the_interval_is_that_of_resampled_images() -> None:
    rng = np.random.default_rng(5)
    before, step = rng.integers(600, 900, 200), rng.integers(-20, 41, 200)
    gain = bootstrap(two_classes(before), two_classes(before + step))
    assert gain == bootstrap(two_classes(before), two_classes(before + step))
    drawn = rng.integers(0, 200, (2000, 200))
    plain = [score((before + step)[pick].mean()) - score(before[pick].mean()) for pick in drawn]
    assert gain.value == pytest.approx(score((before + step).mean()) - score(before.mean()))
    assert (gain.low, gain.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.0006)
    assert gain.high - gain.low > 0.004
    assert (gain.level, gain.resamples) == (0.95, 2000)


def test_the_same_gain_on_every_image_is_certain() -> None:
    before, after = two_classes(np.full(20, 900)), two_classes(np.full(20, 950))
    gain = bootstrap(before, after)
    assert (gain.low, gain.value, gain.high) == pytest.approx((score(950) - score(900),) * 3)


def test_every_class_has_an_interval_of_its_own() -> None:
    rng = np.random.default_rng(5)
    before, step = rng.integers(600, 900, 200), rng.integers(-20, 41, 200)
    first, second = (two_classes(right)[..., :1] for right in (before, before + step))
    flat = two_classes(np.full(200, 700))[..., :1]
    gains = bootstrap_classes(np.concatenate([first, flat], -1), np.concatenate([second, flat], -1))
    assert gains[0] == bootstrap(first, second)
    assert (gains[1].low, gains[1].value, gains[1].high) == (0, 0, 0)


def test_a_class_in_neither_labels_nor_masks_has_no_interval() -> None:
    counts = two_classes(np.full(20, 900))
    absent = np.zeros_like(counts[..., :1])
    gains = bootstrap_classes(np.concatenate([absent, counts], -1), np.concatenate([absent, counts], -1))
    assert gains[0] is None and None not in gains[1:]
    assert bootstrap_classes(absent, absent) == [None]
