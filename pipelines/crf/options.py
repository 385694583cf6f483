"""Parameters of the dense CRF, which `pipelines.crf.refine` applies."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral

from trainer.options import InputError

ENGINES = ("native", "pydensecrf")


@dataclass(frozen=True)
class CrfOptions:
    """Parameters of the dense CRF; raises InputError for values it cannot use.

    Attributes:
        iterations: mean-field iterations, 1 to 1000.
        sxy_gaussian: width of the smoothing kernel (pixels), > 0.
        compat_gaussian: Potts weight of the smoothing kernel, >= 0; 0 leaves the kernel out.
        sxy: spatial width of the bilateral kernel (pixels), > 0.
        srgb: colour width of the bilateral kernel (grey levels of 0..255), > 0.
        compat: Potts weight of the bilateral kernel, >= 0; 0 leaves the kernel out.

    The defaults suit softmax maps of DeepLab networks. Wide kernels as in textbooks (sxy 80, srgb 13, compat 10)
    flood thin objects and cost several points of mIoU on road scenes.
    """

    iterations: int = 5
    sxy_gaussian: float = 3.0
    compat_gaussian: float = 3.0
    sxy: float = 49.0
    srgb: float = 5.0
    compat: float = 4.0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value):
                raise InputError(f"CRF {field.name} must be a finite number, got {value}")
        if not isinstance(self.iterations, Integral) or not 1 <= self.iterations <= 1000:
            raise InputError(f"CRF iterations must be a whole number from 1 to 1000, got {self.iterations}")
        for name in ("sxy_gaussian", "sxy", "srgb"):
            if getattr(self, name) <= 0:
                raise InputError(f"CRF {name} is the width of a kernel and must be above 0, got {getattr(self, name)}")
        for name in ("compat_gaussian", "compat"):
            if getattr(self, name) < 0:
                raise InputError(f"CRF {name} is a weight and must not be negative, got {getattr(self, name)}")
