"""Compares an export with the model it was made from, and decides whether they agree closely enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from trainer import metrics
from trainer.accounts import percent
from trainer.export.samples import Sample
from trainer.formats.images import shrink
from trainer.formats.labels import Palette
from trainer.options import InputError

EQUAL = {"none": 0.999, "float16": 0.995}
"""Quantisation -> minimum share of pixels that must have the model's class."""
LOSS = 0.01
"""Maximum loss of mIoU by int8."""

Prediction = tuple[np.ndarray, np.ndarray]
"""Class ids uint8 [H, W], and probabilities float32 [H, W, C]."""


def reference(predict: Callable[[np.ndarray], np.ndarray], max_side: int, image: np.ndarray) -> Prediction:
    """The model's prediction for an image, uint8 [H, W, 3], shrunk and enlarged as in `deeplab segment`.

    Args:
      predict: `trainer.network.inference.predictor` of "probabilities".
      max_side: the longest side to which the model shrinks images, in pixels; 0 if it does not shrink them.
    """
    height, width = image.shape[:2]
    probabilities = predict(shrink(image, max_side)[None])[0]
    if probabilities.shape[:2] != (height, width):
        planes = [
            cv2.resize(np.ascontiguousarray(plane), (width, height), interpolation=cv2.INTER_LINEAR)
            for plane in np.moveaxis(probabilities, -1, 0)
        ]
        probabilities = np.stack(planes, -1)
    return probabilities.argmax(-1).astype(np.uint8), probabilities


@dataclass
class Comparison:
    """The comparison of an export with its model, image by image.

    Attributes:
      palette: the palette of the model.
      quantize: the quantisation of the export: "none", "float16" or "int8".
      images: the number of images compared.
      pixels: the number of pixels compared.
      equal: the number of pixels with the same class.
      difference: the largest difference of a probability.
      confusions: the confusion matrices of model and export, if there are labels; see `trainer.metrics.confusion`.
      seconds: the time of model and export in seconds, for every image but the first, which includes warm-up.
    """

    palette: Palette
    quantize: str
    images: int = 0
    pixels: int = 0
    equal: int = 0
    difference: float = 0.0
    confusions: list[np.ndarray] = field(default_factory=list)
    seconds: list[tuple[float, float]] = field(default_factory=list)

    def add(self, label: np.ndarray | None, model: Prediction, export: Prediction) -> None:
        """Adds an image to the counts.

        Args:
          label: uint8 [H, W] class ids; None without a label.
        """
        self.images += 1
        self.pixels += model[0].size
        self.equal += int(np.count_nonzero(model[0] == export[0]))
        # A NaN counts as a difference, although it compares as greater than nothing.
        difference = float(np.abs(model[1] - export[1]).max())
        self.difference = difference if np.isnan(difference) else max(self.difference, difference)
        if label is not None:
            numbers = (self.palette.num_classes, self.palette.ignore_id)
            counts = np.stack([metrics.confusion(label, ids, *numbers) for ids in (model[0], export[0])])
            self.confusions = [self.confusions[0] + counts] if self.confusions else [counts]

    @property
    def mious(self) -> tuple[float, float] | None:
        """The mIoU of model and export; None without labels."""
        if not self.confusions or not self.confusions[0].any():
            return None
        model, export = metrics.mean_iou(metrics.class_counts(self.confusions[0])).tolist()
        return model, export

    @property
    def share(self) -> float:
        """The share of pixels that have the same class."""
        return self.equal / self.pixels

    def fault(self) -> str:
        """The reason why the export is not good enough; "" if it is."""
        if np.isnan(self.difference):
            return "some of its probabilities are not numbers"
        if self.quantize in EQUAL:
            least = EQUAL[self.quantize]
            return f"fewer than {least:.1%} of the pixels have the same class" if self.share < least else ""
        if self.mious is None:
            return "no pixel of the labels has a class, so its mIoU is not known"
        return f"it costs more than {LOSS} mIoU" if self.mious[1] < self.mious[0] - LOSS else ""

    def to_json(self) -> dict[str, Any]:
        """The figures for the report."""
        values = {"images": self.images, "pixels": self.pixels, "equal": self.share, "difference": self.difference}
        for name, pair in {"miou": self.mious, "seconds": self._median()}.items():
            values[name] = dict(zip(("model", "export"), pair, strict=True)) if pair is not None else None
        return {**values, "fault": self.fault()}

    def table(self) -> str:
        """The figures as a table in text."""
        rows = {
            "images": f"{self.images}",
            "equal pixels": f"{percent(self.share, 4)}%",
            "largest difference of a probability": f"{self.difference:.2g}",
        }
        if self.mious is not None:
            rows["mIoU of model and export"] = " ".join(f"{miou:.4f}" for miou in self.mious)
        if seconds := self._median():
            rows["seconds per image (median)"] = " ".join(f"{second:.3f}" for second in seconds)
        width = max(map(len, rows))
        return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items())

    def _median(self) -> list[float] | None:
        return np.median(self.seconds, axis=0).tolist() if self.seconds else None


def compare(
    samples: Iterable[Sample],
    model: Callable[[np.ndarray], Prediction],
    export: Callable[[np.ndarray], Prediction],
    palette: Palette,
    quantize: str,
) -> Comparison:
    """Runs model and export on every sample, in turn. Raises InputError if there are no samples."""
    comparison = Comparison(palette, quantize)
    for sample in samples:
        began = time.perf_counter()
        expected = model(sample.image)
        between = time.perf_counter()
        output = export(sample.image)
        ended = time.perf_counter()
        if comparison.images:
            comparison.seconds.append((between - began, ended - between))
        comparison.add(sample.label, expected, output)
    if not comparison.images:
        raise InputError("none of the images to check the export on can be read; give others")
    return comparison
