"""What is counted of two predictions, and which differences are too many."""

from __future__ import annotations

import numpy as np
import pytest

from tests.drawn.records import PALETTE
from trainer.export.samples import Sample
from trainer.export.tally import Comparison, compare
from trainer.options import InputError


def prediction(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Class ids [1, n] and probabilities that are sure of them."""
    row = np.uint8([ids])
    return row, np.eye(3, dtype=np.float32)[row]


def test_pixels_differences_and_mious_are_those_counted_by_hand():
    comparison = Comparison(PALETTE, "none")
    comparison.add(np.uint8([[0, 0, 1, 255]]), prediction([0, 0, 1, 1]), prediction([0, 1, 1, 2]))
    comparison.add(None, prediction([2, 2]), prediction([2, 2]))
    assert (comparison.images, comparison.pixels, comparison.equal, comparison.difference) == (2, 6, 4, 1.0)
    # The ignored pixel counts for neither: model 0: 2/2, 1: 1/1; export 0: 1/2, 1: 1/2.
    assert comparison.mious == (1.0, 0.5)
    report = comparison.to_json()
    assert report["equal"] == 4 / 6 and report["miou"] == {"model": 1.0, "export": 0.5} and report["seconds"] is None


@pytest.mark.parametrize(("quantize", "wrong", "fault"), [
    ("none", 1, ""), ("none", 2, "fewer than 99.9%"), ("float16", 5, ""), ("float16", 6, "fewer than 99.5%"),
])  # fmt: skip
def test_the_share_of_equal_pixels_has_its_bound(quantize, wrong, fault):
    comparison = Comparison(PALETTE, quantize)
    comparison.add(None, prediction([0] * 1000), prediction([1] * wrong + [0] * (1000 - wrong)))
    assert comparison.fault().startswith(fault) and bool(comparison.fault()) == bool(fault)


def test_a_single_pixel_among_millions_is_not_rounded_away():
    comparison = Comparison(PALETTE, "none")
    comparison.add(None, prediction([0] * 3_000_000), prediction([1] + [0] * 2_999_999))
    assert "equal pixels                         >99.9999%" in comparison.table()


@pytest.mark.parametrize(("wrong", "fault"), [(1, ""), (4, "it costs more than 0.01 mIoU")])
def test_int8_may_cost_a_hundredth_of_the_miou_whatever_pixels_differ(wrong, fault):
    label = np.uint8([[0] * 500 + [1] * 500])
    comparison = Comparison(PALETTE, "int8")
    ids = label[0].tolist()
    # Each of the pixels takes one of 500 from the one class' intersection, and adds one to the other's union.
    comparison.add(label, prediction(ids), prediction([1] * wrong * 2 + ids[wrong * 2 :]))
    assert comparison.fault() == fault


def test_labels_without_a_class_leave_int8_unknown_and_nan_is_no_small_difference():
    comparison = Comparison(PALETTE, "int8")
    comparison.add(np.uint8([[255]]), prediction([0]), prediction([0]))
    assert "its mIoU is not known" in comparison.fault()
    comparison = Comparison(PALETTE, "none")
    ids, probabilities = prediction([0])
    comparison.add(None, (ids, probabilities), (ids, probabilities * np.nan))
    assert comparison.fault() == "some of its probabilities are not numbers"


def test_every_sample_is_given_to_both_and_the_first_is_not_timed():
    seen = []

    def predict(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(image.shape)
        return prediction([0])

    sample = Sample(np.zeros((1, 1, 3), np.uint8))
    comparison = compare(iter([sample] * 3), predict, predict, PALETTE, "none")
    assert len(seen) == 6 and comparison.images == 3 and len(comparison.seconds) == 2
    with pytest.raises(InputError, match="none of the images"):
        compare(iter([]), predict, predict, PALETTE, "none")
