"""Flags of `deeplab segment` and their bounds, which those of the CRF share with CrfOptions."""

from __future__ import annotations

import math

import pytest

from pipelines.segment.options import Options
from trainer.formats.options import CRF_BOUNDS, CrfOptions
from trainer.options import InputError


def options(**flags: object) -> Options:
    return Options(input="i", model="m", output="o", **flags)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("batch_size", 0, "--batch-size must be 1 or more, got 0"),
        ("max_side", -1, "--max-side must be 0 to 178956970, got -1"),
        ("max_pixels", 0, "--max-pixels must be 1 to 178956970, got 0"),
        ("max_pixels", 178_956_971, "--max-pixels must be 1 to 178956970, got 178956971"),
        ("max_reject_rate", 2.0, "--max-reject-rate must be 0 to 1, got 2.0"),
        ("crf_workers", -1, "--crf-workers must be 0 or more, got -1"),
        ("crf_iterations", 0, "--crf-iterations must be 1 to 1000, got 0"),
        ("crf_sxy", 0.0, "--crf-sxy must be above 0, got 0.0"),
        ("crf_compat", -1.0, "--crf-compat must be 0 or more, got -1.0"),
        ("crf_sxy", 3.0, "--crf-sxy is for --crf on or auto; give one, or omit it"),
        ("crf_engine", "pydensecrf", "--crf-engine is for --crf on or auto; give one, or omit it"),
        ("crf_workers", 3, "--crf-workers is for --crf on or auto; give one, or omit it"),
        ("crf_srgb", math.inf, "--crf-srgb must be a finite number, got inf"),
    ],
)
def test_values_out_of_bounds_are_refused(flag: str, value: float, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        options(**{flag: value})
    assert str(refusal.value) == message


@pytest.mark.parametrize("name", CRF_BOUNDS)
@pytest.mark.parametrize("value", [-1, 0, 1e-9, 1, 1000, 1001, math.nan])
def test_flags_of_the_crf_take_what_its_parameters_take(name: str, value: float) -> None:
    def is_taken(make) -> bool:
        try:
            make()
        except InputError:
            return False
        return True

    assert is_taken(lambda: options(crf="on", **{f"crf_{name}": value})) == is_taken(
        lambda: CrfOptions(**{name: value})
    )


def test_flags_come_before_other_parameters() -> None:
    assert options().crf_options(CrfOptions(sxy=20)) == CrfOptions(sxy=20)
    given = options(crf="on", crf_sxy=0.5, crf_compat_gaussian=0.0).crf_options(CrfOptions(sxy=20, srgb=9))
    assert given == CrfOptions(sxy=0.5, compat_gaussian=0.0, srgb=9)
