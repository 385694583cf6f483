"""deeplab demo: draw a small set of scenes and run the whole road on it, stage by stage.

    deeplab demo --output out/demo

Every stage runs as the command that is printed before it, and can be run by hand in the same way. Two models, with
bilinear and with subpixel head, are trained from nothing, and their masks are compared with and without the CRF. The
demo run again goes on where it was stopped.
"""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines import cli
from pipelines.demo import scenes
from trainer import storage
from trainer.formats import images
from trainer.options import InputError, option, parse, to_json

DESCRIPTION = """\
Draw a small set of scenes and run all stages on it: prepare, train two heads, segment with
and without CRF, evaluate. Ends with a table of scores and a report; needs no data."""

HEIGHT, WIDTH = 192, 256
COPIES, BATCH = 2, 8
ROWS_SHOWN = 3
# A deep network learns slowly from nothing. The decoder is the short way from pictures to masks, which a few hundred
# steps are enough for; it needs no fine features from the backbone, and a high learning rate does it good. The moving
# statistics of batch norms must follow in as few steps.
TRAIN = ("--alpha", "0.5", "--output-stride", "32", "--decoder", "--learning-rate", "0.01",
         "--max-ratio", "4", "--batch-norm-momentum", "0.9")  # fmt: skip
# Colours of drawn things are plainer than those of photographs, and the pictures small.
CRF = ("--crf", "--crf-sxy", "30", "--crf-srgb", "8", "--crf-compat", "6")


@dataclass(frozen=True)
class DemoOptions:
    """Options of `deeplab demo`."""

    output: str = option("out/demo", "folder to write to")
    pictures: int = option(160, "scenes to draw, a fifth of them for validation")
    epochs: int = option(10, "epochs to train each of the two models")
    crop: int = option(96, "side of the square training crops in pixels")
    seed: int = option(1, "seed of the scenes and of the training")

    def __post_init__(self) -> None:
        if self.pictures < 5 * ROWS_SHOWN:
            raise InputError(f"--pictures must be at least {5 * ROWS_SHOWN}, got {self.pictures}")
        if storage.is_remote(self.output):
            raise InputError(f"--output of the demo must be a local folder, got {self.output}")


def validation_pictures(options: DemoOptions) -> int:
    return options.pictures // 5


def variants(output: str) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """What is compared: masks folder of that name -> title, model folder, flags of `segment`."""
    bilinear, subpixel = os.path.join(output, "model-bilinear"), os.path.join(output, "model-subpixel")
    return {
        "bilinear": ("bilinear", bilinear, ()),
        "subpixel": ("subpixel", subpixel, ()),
        "bilinear-crf": ("bilinear + CRF", bilinear, CRF),
        "subpixel-crf": ("subpixel + CRF", subpixel, CRF),
    }


def stages(options: DemoOptions) -> list[tuple[str, list[str]]]:
    """The road: what each stage does, and its arguments to the command `deeplab`."""
    drawn, records, masks = (os.path.join(options.output, name) for name in ("set", "records", "masks"))
    road = [
        (
            "raw pictures and labels -> augmented TFRecords",
            ["prepare", "--input", drawn, "--output", records, "--copies", str(COPIES), "--shards", "4"],
        ),
        ("check every record", ["records", "verify", records]),
    ]
    # An epoch is every record once, copies too: few validations, which cost more than the steps here.
    steps = (COPIES + 1) * (options.pictures - validation_pictures(options)) // BATCH
    for head in ("bilinear", "subpixel"):
        train = ["train", "--records", records, "--output", os.path.join(options.output, f"model-{head}")]
        train += ["--head", head, *TRAIN, "--crop", str(options.crop)]
        train += ["--batch-size", str(BATCH), "--steps-per-epoch", str(steps)]
        train += ["--epochs", str(options.epochs), "--seed", str(options.seed)]
        road.append((f"train with the {head} head", train))
    for name, (title, model, flags) in variants(options.output).items():
        pictures, folder = os.path.join(drawn, "images", "val"), os.path.join(masks, name)
        segment = ["segment", "--input", pictures, "--model", model, "--output", folder, *flags]
        road.append((f"pictures -> masks, {title}", segment))
    evaluate = ["evaluate", "--masks", *(os.path.join(masks, name) for name in variants(options.output))]
    labels, model = os.path.join(drawn, "labels", "val"), os.path.join(options.output, "model-subpixel")
    evaluate += ["--labels", labels, "--model", model]
    evaluate += ["--output", os.path.join(options.output, "report")]
    road.append(("masks and labels -> scores and a report", evaluate))
    return road


def draw(options: DemoOptions) -> None:
    """Draw the set, unless a demo with the same options has done it."""
    state, wanted = os.path.join(options.output, "demo.json"), to_json(options)
    del wanted["output"]
    if storage.exists(state):
        found = storage.read_json(state)
        if found != wanted:
            raise InputError(
                f"{options.output} holds a demo with other options ({found}, now {wanted}); "
                "give another --output, or delete the folder"
            )
        return
    val = validation_pictures(options)
    scenes.write_set(os.path.join(options.output, "set"), options.pictures - val, val, (HEIGHT, WIDTH), options.seed)
    storage.write_json(state, wanted)


def comparison(output: str) -> str:
    """The scores of all variants as a table."""
    evaluation = storage.read_json(os.path.join(output, "report", "evaluation.json"))
    bands = sorted(next(iter(evaluation["masks"].values()))["trimap"], key=int)
    lines = [f"{'':16}{'mIoU':>8}{'pixels':>8}   mIoU within {', '.join(bands)} pixels of outlines"]
    for name, (title, _, _) in variants(output).items():
        scores = evaluation["masks"][name]
        shown = (scores["miou"], scores["pixel_accuracy"], *(scores["trimap"][band] for band in bands))
        lines.append(f"{title:16}" + "".join(f"{value:8.3f}" for value in shown))
    return "\n".join(lines)


def picture(output: str) -> Image.Image:
    """Image, label and masks of the report's two best scenes and one median: the README's picture."""
    evaluation = storage.read_json(os.path.join(output, "report", "evaluation.json"))
    names = [entry["key"] for entry in evaluation["gallery"]][:ROWS_SHOWN]
    columns = ["bilinear", "subpixel", "subpixel-crf"]
    titles = ["image", "label", *(variants(output)[name][0] for name in columns)]
    gap, head = 6, 26
    size = (len(titles) * (WIDTH + gap) - gap, head + len(names) * (HEIGHT + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for column, title in enumerate(titles):
        pen.text((column * (WIDTH + gap) + WIDTH / 2, head / 2), title, "black", font, anchor="mm")
    for row, name in enumerate(names):
        masks = [os.path.join(output, "masks", column, f"{name}.png") for column in columns]
        ids = [os.path.join(output, "set", "labels", "val", f"{name}.png"), *masks]
        photo = storage.read(os.path.join(output, "set", "images", "val", f"{name}.jpg"))
        tiles = [images.decode_image(photo)]
        tiles += [scenes.PALETTE.colorize(images.decode_label(storage.read(path))) for path in ids]
        for column, tile in enumerate(tiles):
            place = (column * (WIDTH + gap), head + row * (HEIGHT + gap))
            sheet.paste(Image.fromarray(np.ascontiguousarray(tile)), place)
    return sheet


def main(argv: list[str]) -> int:
    """The command `deeplab demo`."""
    options = parse(DemoOptions, argv, prog="deeplab demo", description=DESCRIPTION)
    start, road = time.monotonic(), stages(options)
    draw(options)
    print(f"{options.pictures} scenes of {WIDTH}x{HEIGHT} pixels are drawn in {os.path.join(options.output, 'set')}")
    for number, (title, arguments) in enumerate(road, start=1):
        print(f"\n[{number}/{len(road)}] {title}\n$ deeplab {shlex.join(arguments)}", flush=True)
        status = cli.main(arguments)
        if status:
            return status
    sheet = os.path.join(options.output, "road.png")
    with storage.writer(sheet) as file:
        picture(options.output).quantize(256).save(file, "PNG", optimize=True)
    print(f"\n{comparison(options.output)}\n")
    print(f"the whole road took {time.monotonic() - start:.0f} s")
    print(f"report:  {os.path.join(options.output, 'report', 'report.html')}\npicture: {sheet}")
    return 0
