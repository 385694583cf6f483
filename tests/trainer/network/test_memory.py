"""What is said of a network's memory before it is there."""

from __future__ import annotations

import pytest

from trainer.network.options import bytes_per_pixel


@pytest.mark.parametrize(
    ("architecture", "measured"),
    [
        ({}, 345),
        ({"alpha": 0.35}, 150),
        ({"alpha": 2.0}, 579),
        ({"output_stride": 8}, 345),
        ({"backbone": "xception_65"}, 518),
        ({"backbone": "xception_65", "output_stride": 8}, 1089),
    ],
)
def test_the_bound_lies_above_what_was_measured_but_not_far(architecture, measured):
    assert 1.4 * measured <= bytes_per_pixel(architecture) <= 2 * measured


def test_memory_grows_with_branches_but_not_with_classes():
    assert bytes_per_pixel({"num_classes": 150}) == bytes_per_pixel({"num_classes": 2})
    wide = {"backbone": "xception_65", "output_stride": 8}
    assert bytes_per_pixel(wide | {"aspp_rates": [6] * 6}) > 1.3 * bytes_per_pixel(wide)


@pytest.mark.parametrize("nonsense", [{"alpha": "much"}, {"alpha": 1e300}, {"output_stride": 0}, {"aspp_rates": 7}])
def test_what_is_no_architecture_is_left_to_those_who_build_it(nonsense):
    assert bytes_per_pixel(nonsense) == bytes_per_pixel({})
