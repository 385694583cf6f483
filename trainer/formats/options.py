"""What the options of commands use of the formats: names, and the parameters of the dense CRF."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from trainer.options import Bounds, InputError

PALETTES = ("voc", "camvid", "cityscapes", "cityscapes-trainids")
"""The built-in palettes of `trainer.formats.palettes`."""

CODINGS = ("auto", "ids", "colors")
"""How to read labels that have both ids and colours; see `trainer.formats.codings`."""

MAX_PIXELS = 178_956_970
"""Images of more pixels are refused as decompression bombs, as Pillow does: half a gigabyte of RGB.

No flag allows more, since what one command makes of an image the others have to read.
"""

CRF_BOUNDS = {
    "iterations": Bounds(low=1, high=1000),
    "sxy_gaussian": Bounds(above=0),
    "compat_gaussian": Bounds(low=0),
    "sxy": Bounds(above=0),
    "srgb": Bounds(above=0),
    "compat": Bounds(low=0),
}
"""The CRF's parameters that are numbers, in the order of `CrfOptions`, and their bounds; for flags, too."""


@dataclass(frozen=True)
class CrfOptions:
    """Parameters of the dense CRF, which `pipelines.crf.refine` applies; raises InputError for values it cannot use.

    Attributes:
        iterations: mean-field iterations.
        sxy_gaussian: width of the smoothing kernel (pixels).
        compat_gaussian: Potts weight of the smoothing kernel; 0 leaves the kernel out.
        sxy: spatial width of the bilateral kernel (pixels).
        srgb: colour width of the bilateral kernel (grey levels of 0..255).
        compat: Potts weight of the bilateral kernel; 0 leaves the kernel out.
        class_weights: a weight from 0 to 1 for every class, by its id: two classes repel each other by the product of
            their weights, times the kernels' weights. Empty if all are 1, which is Potts' model. See docs/crf.md.

    `CRF_BOUNDS` bounds the numbers. The defaults suit softmax maps of DeepLab networks. Wide kernels as in textbooks
    (sxy 80, srgb 13, compat 10) flood thin objects and cost several points of mIoU on road scenes.
    """

    iterations: int = 5
    sxy_gaussian: float = 3.0
    compat_gaussian: float = 3.0
    sxy: float = 49.0
    srgb: float = 5.0
    compat: float = 4.0
    class_weights: tuple[float, ...] = ()

    def __post_init__(self):
        for weight in self.class_weights:
            if isinstance(weight, bool) or not isinstance(weight, Real):
                raise InputError(f"CRF class_weights must be numbers from 0 to 1, got {weight!r}")
        weights = tuple(map(float, self.class_weights))
        if not all(0 <= weight <= 1 for weight in weights):
            raise InputError(f"CRF class_weights must be from 0 to 1, got {', '.join(f'{w:g}' for w in weights)}")
        # Weights that are all 1 are the same parameters as no weights, and must have the same fingerprint.
        object.__setattr__(self, "class_weights", weights if set(weights) - {1.0} else ())
        for name, bounds in CRF_BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise InputError(f"CRF {name} must be a finite number, got {value!r}")
            if not bounds.hold(value):
                raise InputError(f"CRF {name} must be {bounds}, got {value}")
        if not isinstance(self.iterations, Integral):
            raise InputError(f"CRF iterations must be a whole number, got {self.iterations}")

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """The parameters by name; class weights by the names of the `classes` whose weight is not 1.

        Without class weights, the result is the same as in version 0.1, since fingerprints of masks depend on it.
        """
        values = {name: getattr(self, name) for name in CRF_BOUNDS}
        weights = {name: w for name, w in zip(classes, self.class_weights, strict=False) if w != 1}
        return values | ({"class_weights": weights} if weights else {})

    @classmethod
    def from_json(cls, value: Mapping[str, Any], classes: Sequence[str]) -> CrfOptions:
        """The inverse of `to_json`. Raises InputError for weights of other classes, TypeError for other names."""
        numbers = {name: _typed(name, value[name]) for name in value if name != "class_weights"}
        weights = value.get("class_weights", {})
        if unknown := set(weights) - set(classes):
            raise InputError(f"weights of unknown classes ({', '.join(sorted(unknown))})")
        return cls(**numbers, class_weights=tuple(weights.get(name, 1.0) for name in classes))

    def words(self, classes: Sequence[str]) -> str:
        """All parameters in one line: "iterations 5, ..., compat 4, class weights pole 0.5"."""
        return in_words(self.to_json(classes), CRF_BOUNDS)


def _typed(name: str, value: Any) -> Any:
    """A number of the file in the type of its parameter; what has no equal there as it is, which `CrfOptions` refuses.

    30 and 30.0 are the same number, and must give the same fingerprint.
    """
    kind = type(getattr(CrfOptions, name))
    return kind(value) if type(value) in (int, float) and kind(value) == value else value


def in_words(values: Mapping[str, Any], names: Iterable[str]) -> str:
    """The numbers called `names`, and the class weights, of parameters from `CrfOptions.to_json`."""
    numbers = [f"{name} {values[name]:g}" for name in names]
    weights = [f"{name} {weight:g}" for name, weight in values.get("class_weights", {}).items()]
    return ", ".join([*numbers, *(["class weights " + ", ".join(weights)] if weights else [])])
