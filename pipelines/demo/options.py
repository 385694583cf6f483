"""Draw a small set of scenes and run every stage on it.

examples:
  deeplab demo
  deeplab demo --output out/large --images 400 --epochs 30

Needs no data. Every stage runs as the command that is printed before it: prepare, train two heads, segment with and
without CRF, evaluate. The demo ends with a table of scores and a report. An interrupted demo, run again, resumes.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.options import CheckedOptions, InputError, option
from trainer.train.options import MAX_SEED

ROWS = 3
"""Scenes on the sheet of results, all of them from validation."""


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Options of `deeplab demo`."""

    output: str = option("out/demo", "local folder to write to", metavar="DIR")
    images: int = option(160, "scenes to draw, a fifth of them for validation", low=5 * ROWS, high=100_000)
    epochs: int = option(20, "epochs to train each of the two models", low=1)
    crop: int = option(96, "side of the square training crops, in pixels", low=32)
    seed: int = option(1, "seed of the scenes and of the training", low=0, high=MAX_SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "://" in self.output:
            raise InputError(f"--output of the demo must be a local folder, got {self.output}")

    @property
    def validation(self) -> int:
        """How many of the images are for validation."""
        return self.images // 5
