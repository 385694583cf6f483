"""Tallies add up to those of the whole, and survive their file; the accounts compare them with the plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate import tally
from pipelines.evaluate.plan import Plan
from pipelines.evaluate.sources import Comparison, Sources
from pipelines.evaluate.tally import EvaluationTally
from pipelines.scores.trimap import BANDS
from trainer.accounts import Reject, UnbalancedError
from trainer.formats.palettes import VOC

REJECTS = tuple(Reject(key, f"labels/{key}.png", "evaluate", "is ‘empty’") for key in ("x", "y"))


def confusion(rng: np.random.Generator) -> np.ndarray:
    """Matrices of two masks folders and three classes."""
    return rng.integers(0, 50, (2, len(BANDS) + 1, 3, 3))


def whole() -> EvaluationTally:
    """The tally of labels 5, 0 and 3, and of two rejects."""
    rng = np.random.default_rng(0)
    parts = [EvaluationTally.of(number, confusion(rng)) for number in (5, 0, 3)]
    return sum(parts, start=EvaluationTally(EvaluationTally.empty(2, 3).confusion, rejects=REJECTS))


def test_tallies_add_up() -> None:
    rng, total = np.random.default_rng(0), whole()
    np.testing.assert_array_equal(total.confusion, sum(confusion(rng) for _ in range(3)))
    assert total.numbers.tolist() == [5, 0, 3] and total.mious.shape == (3, 2)
    assert total.rejects == REJECTS


def test_the_miou_of_a_label_is_that_of_its_whole_image() -> None:
    matrices = np.zeros((1, len(BANDS) + 1, 2, 2), np.int64)
    matrices[0, 0], matrices[0, 5] = [[2, 1], [0, 0]], [[6, 0], [0, 3]]
    (miou,) = EvaluationTally.of(0, matrices).mious[0]
    assert miou == pytest.approx((8 / 9 + 3 / 4) / 2)


def test_the_only_label_has_the_miou_of_the_set_to_the_last_digit(tmp_path: Path) -> None:
    total = EvaluationTally.of(0, confusion(np.random.default_rng(0)))
    tally.write(total, str(tmp_path), "d")
    (mious,) = tally.read(str(tmp_path), "d").mious.tolist()
    assert mious == [tally.summarize(matrices, ("a", "b", "c"))["miou"] for matrices in total.confusion]


def test_a_tally_comes_back_from_its_file_in_the_order_of_the_plan(tmp_path: Path) -> None:
    total = whole()
    tally.write(total, str(tmp_path), "d")
    back = tally.read(str(tmp_path), "d")
    np.testing.assert_array_equal(back.confusion, total.confusion)
    assert back.numbers.tolist() == [0, 3, 5] and back.mious.dtype == np.float64
    np.testing.assert_array_equal(back.mious, total.mious[[1, 2, 0]])
    assert back.rejects == REJECTS


def test_the_tally_of_nothing_comes_back_too(tmp_path: Path) -> None:
    tally.write(EvaluationTally.empty(2, 3), str(tmp_path), "d")
    back = tally.read(str(tmp_path), "d")
    assert back.numbers.shape == (0,) and back.mious.shape == (0, 2) and not back.confusion.any()


def test_accounts_count_the_labels_of_the_plan() -> None:
    comparisons = tuple(Comparison(key, f"{key}.png", ()) for key in "abcxy")
    plan = Plan(Sources("labels", (), VOC), comparisons, (Reject("m", "labels/m.png", "evaluate", "no mask"),))
    accounts = tally.accounts(plan, whole())
    accounts.check()
    assert accounts.line() == "6 labels = 3 evaluated + 3 rejected"
    assert [reject.key for reject in accounts.rejects] == ["m", "x", "y"]
    with pytest.raises(UnbalancedError, match=r"5 labels != 3 evaluated .* 1 too many"):
        tally.accounts(replace(plan, comparisons=comparisons[1:]), whole()).check()


def test_a_summary_cumulates_the_bands_and_leaves_out_what_lies_beyond_them() -> None:
    matrices = np.zeros((len(BANDS) + 1, 2, 2), np.int64)
    matrices[0], matrices[1], matrices[5] = [[0, 1], [0, 1]], [[1, 0], [0, 1]], [[5, 0], [0, 5]]
    summary = tally.summarize(matrices, ("left", "right"))
    assert summary["confusion"] == [[6, 1], [0, 7]]
    assert list(summary["trimap"].values()) == pytest.approx([0.25, *[(1 / 2 + 2 / 3) / 2] * 4])
    assert summary["trimap_scores"]["1"]["per_class"] == {"left": 0, "right": 0.5}
    assert summary["miou"] == pytest.approx((6 / 7 + 7 / 8) / 2)
