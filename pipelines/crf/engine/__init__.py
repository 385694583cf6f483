"""The engine of the dense CRF, compiled for several kinds of processor; `crf.refine` is the way to call it.

    engine = load()
    positions = engine.spatial(height, width, sxy)
    engine.refine(image, probabilities, marginals, (height, width, labels), positions, iterations, ...)

One source, `module.cpp`, is built as `baseline` and, for x86-64, as `avx2` and `avx512` as well.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType


def builds() -> list[ModuleType]:
    """The builds that are installed and that this processor can run, the fastest first.

    Raises ImportError when there is none: the package was installed without a C++ compiler.
    """
    baseline = importlib.import_module(".baseline", __name__)
    found = []
    for name in baseline.supported():
        try:
            found.append(importlib.import_module(f".{name}", __name__))
        except ImportError:
            continue  # its compiler did not know this kind of processor
    return [*found, baseline]


@functools.cache
def load() -> ModuleType:
    """The fastest of `builds()`."""
    return builds()[0]
