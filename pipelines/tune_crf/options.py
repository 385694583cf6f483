"""Search for the CRF parameters that suit a model, and find out whether the CRF is worth using at all.

examples:
  deeplab tune-crf --model out/model --records out/records
  deeplab segment --input photos --model out/model --output out/masks --crf auto
  deeplab tune-crf --model gs://bucket/model --records gs://bucket/records --runner DataflowRunner \\
      --project my-project --region europe-west1 --temp_location gs://bucket/tmp \\
      --sdk_container_image IMAGE

Writes crf.json, which `deeplab segment --crf auto` obeys, into the model folder, and a page beside it. The weight and
the widths of the bilateral kernel are searched coarse to fine, on labelled images that the model was not trained on;
the weight of the smoothing kernel is lowered if that helps, and classes that the CRF harms are given less weight. The
gain, overall and per class, is measured on images that had no part in choosing the parameters. Pixel counts are kept
in crf.tuning/: an interrupted run resumes from them, and a run with another metric reuses them; the folder may be
deleted. Flags that are not listed here are passed on to Apache Beam, such as --direct_num_workers 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipelines.masks.options import ViewOptions
from pipelines.scores.options import BANDS
from trainer.accounts import max_reject_rate
from trainer.options import InputError, option

WIDTH = 4
"""The default of --trimap-width, in pixels."""
MIN_IMAGES = 10
"""Minimum number of images. With fewer, a fold is a single image and an interval means nothing."""


@dataclass(frozen=True)
class Options(ViewOptions):
    """Options of `deeplab tune-crf`."""

    takes_beam_flags: ClassVar[bool] = True

    model: str = option(
        help="model folder, from `deeplab train` or `deeplab import-weights`; local or gs://", metavar="DIR"
    )
    records: str = option(
        help="folder of records with images that the model was not trained on; local or gs://", metavar="DIR"
    )
    split: str = option("val", "split of the records to tune on", metavar="NAME", group="input")
    images: int = option(
        100, f"maximum number of images to tune on: {MIN_IMAGES} or more, or 0 for the whole split", group="input"
    )
    output: str | None = option(
        None,
        "JSON file to write, with a page beside it (default: crf.json in the model folder)",
        metavar="FILE",
        group="output",
    )
    metric: str = option(
        "miou",
        "score to maximise: mIoU of the whole images (miou), or of the pixels near boundaries (trimap)",
        choices=("miou", "trimap"),
        group="score",
    )
    trimap_width: int = option(
        WIDTH, "for trimap: largest distance from a boundary of the label, in pixels", choices=BANDS, group="score"
    )
    max_reject_rate: float = max_reject_rate("images")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None and not self.output.endswith(".json"):
            raise InputError(f"--output must name a .json file, got {self.output}")
        if self.images != 0 and self.images < MIN_IMAGES:
            raise InputError(f"--images must be 0 for all, or {MIN_IMAGES} or more, got {self.images}")
        if self.metric != "trimap" and self.trimap_width != WIDTH:
            raise InputError("--trimap-width is for --metric trimap; give it, or omit the width")
