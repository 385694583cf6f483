"""Examine a raw set before spending compute on it: coding, pairs, sizes, copies, classes, and the flags to read it.

examples:
  deeplab doctor data/camvid
  deeplab doctor data/list.csv --palette classes.json --full --output out/doctor
  deeplab doctor data/scans --mend --output out/doctor
  deeplab doctor data/kitti --images '*/image_2' --labels '*/semantic' --palette cityscapes
  deeplab doctor gs://bucket/camvid --output gs://bucket/doctor --runner DataflowRunner --project my-project \\
      --region europe-west1 --temp_location gs://bucket/tmp --sdk_container_image IMAGE

Ends with a verdict, the `deeplab prepare` command that reads the set correctly, and status 0, 1 (prepare would reject
something) or 2 (prepare would accept something that is then learnt wrongly). The set itself is never changed:
replacements for parts of it (a palette, a manifest, mended labels) are written to --output. Flags that are not listed
here are passed on to Apache Beam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipelines.inputs.options import label_coding, layout, palette, val_fraction
from trainer.formats.options import MAX_PIXELS
from trainer.options import CheckedOptions, InputError, option

SAMPLED = 512
"""Pairs that are decoded without --full."""


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Options of `deeplab doctor`."""

    takes_beam_flags: ClassVar[bool] = True

    input: str = option(help="folder of the raw set, or its manifest; local or gs://", positional=True, metavar="DIR")
    output: str = option(
        "out/doctor",
        "folder for doctor.json, doctor.html and the cures: palette.json, manifest.jsonl, labels/",
        metavar="DIR",
        group="output",
    )
    layout: str = layout()
    images: str = option(
        "",
        "folders of the images, or the files, if the layout is not known; a star stands for any characters within a "
        "name. An image and a label are a pair if their stars stand for the same text and the paths below are alike",
        metavar="PATTERN",
        group="input",
    )
    labels: str = option("", "folders of the labels, given in the same way", metavar="PATTERN", group="input")
    palette: str = palette()
    label_coding: str = label_coding()
    val_fraction: float = val_fraction()
    group_by: str = option(
        "",
        "the --group-by that you will give to prepare, to keep the images of one film or tile together",
        metavar="REGEX",
        group="input",
    )
    max_pixels: int = option(
        MAX_PIXELS, "report images with more pixels than this as damaged", low=1, high=MAX_PIXELS, group="input"
    )
    full: bool = option(False, "decode every image and label", group="effort")
    quick: bool = option(
        False, f"decode a sample of {SAMPLED} pairs, and read the headers of all files (the default)", group="effort"
    )
    seed: int = option(0, "seed of the sample", low=0, group="effort")
    mend: bool = option(
        False,
        "write labels that can be mended to labels/ in --output; doubtful pixels are ignored",
        group="output",
    )
    json: bool = option(False, "print doctor.json instead of the findings", group="output")
    overwrite: bool = option(False, "also replace files in --output that this command did not write", group="output")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.full and self.quick:
            raise InputError("give --full or --quick, got both")
        if bool(self.images) != bool(self.labels):
            raise InputError("give both --images and --labels, or neither")
        if self.images and self.layout not in ("auto", "paired"):
            raise InputError(f"--images and --labels take the place of --layout {self.layout}; omit one of them")
