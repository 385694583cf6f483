"""The stages of the demo, as arguments of the command `deeplab`, and the models and masks that they compare."""

from __future__ import annotations

import os
from typing import NamedTuple

from pipelines.demo.options import Options

HEIGHT, WIDTH = 192, 256
COPIES, BATCH = 2, 8
# A deep network learns slowly from scratch. The decoder is a short path from images to masks, for which a few hundred
# steps are enough; it needs no fine features from the backbone, and benefits from a high learning rate. The moving
# statistics of batch norms must adapt in as few steps.
TRAIN = ("--alpha", "0.5", "--output-stride", "32", "--decoder", "--learning-rate", "0.01",
         "--max-ratio", "4", "--batch-norm-momentum", "0.9")  # fmt: skip
# The colours of drawn objects are plainer than those of real ones, and the images are small.
CRF = ("--crf", "--crf-sxy", "30", "--crf-srgb", "8", "--crf-compat", "6")


class Variant(NamedTuple):
    """A folder of masks: its title, the model folder it is made with, and the flags of `segment`."""

    title: str
    model: str
    flags: tuple[str, ...]


class Stage(NamedTuple):
    """A stage: what it does, and its arguments to the command `deeplab`."""

    title: str
    arguments: list[str]


def variants(output: str) -> dict[str, Variant]:
    """The variants to compare: name of the masks folder -> how its masks are made."""
    bilinear, subpixel = os.path.join(output, "model-bilinear"), os.path.join(output, "model-subpixel")
    return {
        "bilinear": Variant("bilinear", bilinear, ()),
        "subpixel": Variant("subpixel", subpixel, ()),
        "bilinear-crf": Variant("bilinear + CRF", bilinear, CRF),
        "subpixel-crf": Variant("subpixel + CRF", subpixel, CRF),
    }


def stages(options: Options) -> list[Stage]:
    """All stages, in order."""
    drawn, records, masks = (os.path.join(options.output, name) for name in ("set", "records", "masks"))
    road = [
        Stage(
            "raw images and labels -> augmented TFRecords",
            ["prepare", "--input", drawn, "--output", records, "--copies", str(COPIES), "--shards", "4"],
        ),
        Stage("check every record", ["records", "verify", records]),
    ]
    # An epoch takes every record once, copies included: few validations, since these cost more than the steps here.
    steps = (COPIES + 1) * (options.images - options.validation) // BATCH
    for head in ("bilinear", "subpixel"):
        train = ["train", "--records", records, "--output", os.path.join(options.output, f"model-{head}")]
        train += ["--head", head, *TRAIN, "--crop", str(options.crop)]
        train += ["--batch-size", str(BATCH), "--steps-per-epoch", str(steps)]
        train += ["--epochs", str(options.epochs), "--seed", str(options.seed)]
        road.append(Stage(f"train with the {head} head", train))
    images, labels = (os.path.join(drawn, kind, "val") for kind in ("images", "labels"))
    for name, variant in variants(options.output).items():
        segment = ["segment", "--input", images, "--model", variant.model, "--output", os.path.join(masks, name)]
        road.append(Stage(f"images -> masks, {variant.title}", [*segment, *variant.flags]))
    evaluate = ["evaluate", "--masks", *(os.path.join(masks, name) for name in variants(options.output))]
    evaluate += ["--labels", labels, "--model", os.path.join(options.output, "model-subpixel")]
    evaluate += ["--output", os.path.join(options.output, "report")]
    road.append(Stage("masks and labels -> scores and a report", evaluate))
    return road
