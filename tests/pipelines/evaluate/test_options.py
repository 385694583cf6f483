"""What `deeplab evaluate` takes and what it refuses, before anything is looked at."""

from __future__ import annotations

import pytest

from pipelines.evaluate.options import Options
from trainer.options import InputError

LEAST = {"masks": ("out/masks",), "labels": "labels", "output": "out/report", "palette": "voc"}


def test_the_required_options_suffice() -> None:
    options = Options(**LEAST)
    assert (options.model, options.images, options.gallery, options.max_reject_rate) == (None, None, 6, 0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "out/model"}, "--palette NAME|FILE, got both"),
        ({"palette": None}, "--palette NAME|FILE, got neither"),
        ({"gallery": -1}, "--gallery must be 0 or more, got -1"),
        ({"max_reject_rate": 2.0}, "--max-reject-rate must be 0 to 1, got 2.0"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        Options(**{**LEAST, **changes})
    assert message in str(refusal.value)
