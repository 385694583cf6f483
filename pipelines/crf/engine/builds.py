"""The builds of the CRF's engine, each for one kind of processor; `pipelines.crf.refine` is the way to call them.

    engine = load()
    spatial = engine.spatial(height, width, sxy=3.0)
    valid = engine.refine(image=image, probabilities=probabilities, marginals=marginals, spatial=spatial, ...)

One source, `module.cpp`, is built as the modules `baseline` and, for x86-64, `avx2` and `avx512` beside this one.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType


def _import(name: str) -> ModuleType:
    return importlib.import_module(f"pipelines.crf.engine.{name}")


def builds() -> list[ModuleType]:
    """The builds that are installed and that this processor can run, the fastest first.

    Raises ImportError when there are none: the package was installed without a C++ compiler.
    """
    baseline = _import("baseline")
    faster = []
    for name in baseline.supported():
        try:
            faster.append(_import(name))
        except ImportError:
            continue  # the compiler did not know this kind of processor
    return [*faster, baseline]


@functools.cache
def load() -> ModuleType:
    """The fastest of `builds()`."""
    return builds()[0]
