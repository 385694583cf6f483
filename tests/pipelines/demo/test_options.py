"""What `deeplab demo` takes, and what it refuses before anything is drawn."""

import pytest

from pipelines.demo.options import Options
from trainer.options import InputError


def test_a_fifth_of_the_images_is_for_validation():
    assert Options().validation == 32 and Options(images=19).validation == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 14}, "--images must be 15 to 100000, got 14"),
        ({"epochs": 0}, "--epochs must be 1 or more, got 0"),
        ({"crop": 31}, "--crop must be 32 or more, got 31"),
        ({"seed": -1}, "--seed must be 0 to 4294967295, got -1"),
        ({"output": "gs://bucket/demo"}, "--output of the demo must be a local folder, got gs://bucket/demo"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(InputError) as refusal:
        Options(**changes)
    assert str(refusal.value) == message
