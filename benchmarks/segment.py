"""`deeplab segment`, with and without the CRF, against the loop one would write by hand.

    python benchmarks/segment.py                                             # drawn scenes, an untrained network
    python benchmarks/segment.py --model out/model --data data/camvid/images/val --images 20

The loop calls `model.predict` on one image at a time, then pydensecrf, and saves the mask. Both load the model first
and both have had one image before the clock starts.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from crf import pydensecrf
from timing import table, take_turns

from pipelines import cli
from pipelines.demo import scenes
from trainer import storage
from trainer.formats import images
from trainer.formats.options import CrfOptions
from trainer.options import CheckedOptions, option
from trainer.parser import parse
from trainer.startup import start_tensorflow


@dataclass(frozen=True)
class Options(CheckedOptions):
    data: str = option("", "folder of images; drawn scenes of 360 x 480 pixels when empty", metavar="DIR")
    model: str = option(
        "", "model folder; an untrained MobileNetV2 network for drawn scenes when empty", metavar="DIR"
    )
    images: int = option(16, "most images to segment", low=1)
    rounds: int = option(3, "times every run is repeated", low=1)


def untrained(folder: str) -> str:
    """A model folder with random weights: speed does not depend on what a network knows."""
    from trainer.formats.cards import ModelCard
    from trainer.network.deeplab import deeplab_v3_plus
    from trainer.network.folder import save_model

    architecture = {"num_classes": scenes.PALETTE.num_classes, "subpixel": "kernels", "decoder": True}
    card = ModelCard(
        architecture=architecture, palette=scenes.PALETTE, max_side=0, training={}, data_fingerprint="", scores={}
    )
    save_model(folder, deeplab_v3_plus(**architecture), card)
    return folder


def one_at_a_time(model: str, data: str, output: str, crf: bool) -> None:
    from trainer.network.folder import load_model

    network, card = load_model(model)
    for file in storage.files(data):
        image = images.decode_image(storage.read(file.path))
        logits = network.predict(image[None], verbose=0)[0]
        exp = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities = exp / exp.sum(-1, keepdims=True)
        if crf:
            probabilities = pydensecrf(image, probabilities, CrfOptions())
        mask = card.palette.encode_mask(probabilities.argmax(-1).astype(np.uint8))
        storage.write(os.path.join(output, os.path.splitext(file.relative)[0] + ".png"), mask)


def segment(model: str, data: str, output: str, crf: bool) -> None:
    shutil.rmtree(output, ignore_errors=True)
    arguments = ["segment", "--input", data, "--model", model, "--output", output] + ["--crf"] * crf
    output_text = io.StringIO()
    with contextlib.redirect_stdout(output_text), contextlib.redirect_stderr(output_text):
        status = cli.main(arguments)
    if status:
        sys.exit(f"segment ended with status {status}\n{output_text.getvalue()}")


def collect(options: Options, folder: str) -> None:
    """Fills `folder` with the images to segment."""
    if options.data:
        for file in storage.files(options.data)[: options.images]:
            storage.write(os.path.join(folder, file.relative), storage.read(file.path))
        return
    for number in range(options.images):
        image, _ = scenes.draw_scene(np.random.default_rng([0, number]), 360, 480)
        storage.write(os.path.join(folder, f"scene-{number:03d}.jpg"), images.encode_jpeg(image))


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="segment.py", text="segment against a loop over model.predict.")
    start_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        data, first = os.path.join(folder, "images"), os.path.join(folder, "first")
        collect(options, data)
        file = storage.files(data)[0]
        storage.write(os.path.join(first, file.relative), storage.read(file.path))
        model = options.model or untrained(os.path.join(folder, "model"))
        masks, loop = os.path.join(folder, "masks"), os.path.join(folder, "loop")
        for crf in (False, True):
            runs: dict[str, Callable[[str], None]] = {
                "segment" + " --crf" * crf: lambda source, crf=crf: segment(model, source, masks, crf),
                "one at a time": lambda source, crf=crf: one_at_a_time(model, source, loop, crf),
            }
            for run in runs.values():
                run(first)
            seconds = take_turns({name: lambda run=run: run(data) for name, run in runs.items()}, options.rounds)
            print("\n" + table(seconds, len(storage.files(data)), "images", "one at a time") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
