"""Score masks against labels and write a report.

examples:
  deeplab evaluate --masks out/masks --labels data/labels/val --model out/model --output out/report
  deeplab evaluate --masks out/masks --labels data/labels --records out/records --model out/model --output out/report
  deeplab evaluate --masks out/masks out/masks-crf --labels data/labels/val --palette camvid --output out/report
  deeplab evaluate --masks gs://bucket/masks --labels gs://bucket/labels --palette camvid \\
      --output gs://bucket/report --runner DataflowRunner --project my-project --region europe-west1 \\
      --temp_location gs://bucket/tmp --sdk_container_image IMAGE

A label and its masks have the same path below their folders, apart from the suffix. Several folders of masks are
compared side by side, on the images that have a mask in all of them. --records DIR takes only images that the model
was not trained on: those of the records' split val. Flags that are not listed here are passed on to Apache Beam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipelines.inputs.options import SelectionOptions
from trainer.accounts import max_reject_rate
from trainer.formats.options import CODINGS
from trainer.options import InputError, option


@dataclass(frozen=True)
class Options(SelectionOptions):
    """Options of `deeplab evaluate`."""

    takes_beam_flags: ClassVar[bool] = True

    masks: tuple[str, ...] = option(
        help="folders of masks to compare, local or gs://; the first is the reference", metavar="DIR", group="input"
    )
    labels: str = option(
        help="folder of true labels: class ids, palette PNGs or colours", metavar="DIR", group="input"
    )
    output: str = option(
        help="folder for evaluation.json, report.html and rejects.jsonl", metavar="DIR", group="output"
    )
    model: str | None = option(None, "model folder to take the classes from", metavar="DIR", group="input")
    palette: str | None = option(
        None, "the classes, instead of --model: a palette's name or its JSON file", metavar="NAME|FILE", group="input"
    )
    label_coding: str = option(
        "auto",
        "how to read labels, and masks of other programs, that can be read in two ways. ids: by their numbers; "
        "colors: by their colours; auto: by whichever the palette knows; if both, and they differ, reject them",
        choices=CODINGS,
        group="input",
    )
    images: str | None = option(
        None,
        "folder of the images, for the gallery (default: the folder that the masks were made from)",
        metavar="DIR",
        group="input",
    )
    gallery: int = option(
        6, "images in the report's gallery, a third each of the best, the median and the worst", low=0, group="output"
    )
    overwrite: bool = option(
        False, "also replace files with the report's names that this command did not write", group="output"
    )
    max_reject_rate: float = max_reject_rate("labels")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.model is None) == (self.palette is None):
            raise InputError(
                f"give the classes by either --model DIR or --palette NAME|FILE, got "
                f"{'neither' if self.model is None else 'both'}"
            )
