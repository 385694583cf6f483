"""Images that are too large, for the memory or for an engine's numbers, are errors and not the end of the process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pipelines.crf import refine as crf
from trainer.formats.options import CrfOptions

PROGRAM = """
import resource
import numpy as np
from trainer.formats.options import CrfOptions
from pipelines.crf.refine import refine

rng = np.random.default_rng(0)
small = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), np.full((16, 16, 40), 1 / 40, np.float32)
before = refine(*small, CrfOptions())
# Every pixel has a colour of its own, so that vertices take many times the softmax.
large = rng.integers(0, 256, (400, 400, 3), dtype=np.uint8), np.full((400, 400, 40), 1 / 40, np.float32)
with open("/proc/self/statm") as file:
    taken = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (100 << 20),) * 2)
for _ in range(3):
    try:
        refine(*large, CrfOptions())
    except MemoryError:
        print("MemoryError", (refine(*small, CrfOptions()) == before).all())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_too_little_memory_is_an_error_and_the_engine_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["MemoryError", "True"] * 3


def test_pydensecrf_is_not_given_more_values_than_it_can_count(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pydensecrf.densecrf")
    monkeypatch.setattr(crf, "COUNTED", 6 * 5 * 4 - 1)
    image, softmax = np.zeros((6, 5, 3), np.uint8), np.full((6, 5, 4), 0.25, np.float32)
    with pytest.raises(ValueError, match="5x6 pixels of 4 classes are more"):
        crf.refine(image, softmax, CrfOptions(), "pydensecrf")
    assert crf.refine(image, softmax, CrfOptions()).shape == softmax.shape
