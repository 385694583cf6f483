"""Class ids of whole images by our networks, keras-hub's DeepLabV3+ and the well-known Keras port, see `networks.py`.

    python benchmarks/infer.py                                             # MobileNetV2, images of 352x480 pixels
    python benchmarks/infer.py --backbone resnet_v1_50_beta --height 512 --width 512 --batch-size 8
    KERAS_BACKEND=jax python benchmarks/infer.py

Ours is the function that `deeplab segment` calls; the others are `predict_on_batch` and an arg max over its logits.
All get the same uint8 images from memory and return class ids as NumPy arrays; for memory and shares see
`train_step.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from timing import table, take_turns
from train_step import BACKBONES, BFLOAT16, available, ceilings, share

from pipelines.demo.scenes import PALETTE
from trainer.options import CheckedOptions, option, parse
from trainer.startup import start_tensorflow


@dataclass(frozen=True)
class Options(CheckedOptions):
    backbone: str = option("mobilenet_v2", "of all networks", choices=BACKBONES)
    height: int = option(352, "of the images, in pixels; a multiple of 32", low=32)
    width: int = option(480, "of the images, in pixels; a multiple of 32", low=32)
    batch_size: int = option(1, "images in one pass", low=1)
    passes: int = option(5, "passes per run", low=1)
    rounds: int = option(5, "times every run is repeated", low=1)
    bfloat16: bool = option(False, "ours in bfloat16 without an accelerator, too")
    cpu_time: bool = option(False, "count seconds of the processor, on a machine that others share")
    memory: bool = option(True, "measure the peak memory as well, in a process of its own for each")
    only: str = option("", "print the peak memory of this run alone, in GiB", metavar="RUN")


def run_of(name: str, options: Options) -> Callable[[], object]:
    """What predicts the images of one run."""
    import numpy as np
    from networks import networks

    from trainer.network.folder import predictor
    from trainer.train import model as models

    with models.precision("mixed_bfloat16" if name.endswith(BFLOAT16) else "float32"):
        build = networks(options.backbone, PALETTE.num_classes, options.height, options.width)
        network = build[name.removesuffix(BFLOAT16)]()
    shape = (options.batch_size, options.height, options.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    ours = predictor(network, "ids") if name.startswith("deeplab") else None

    def run() -> None:
        for _ in range(options.passes):
            ids = ours(images) if ours else network.predict_on_batch(images).argmax(-1)
            assert ids.shape == images.shape[:3]

    return run


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="infer.py", text="Class ids of images, against those of other DeepLabs.")
    start_tensorflow()
    import keras
    from ceiling import accelerator, memory_alone, peak_memory

    if options.only:
        run_of(options.only, options)()
        print(peak_memory())
        return 0
    names, built = available(options.backbone, options.height, options.width, options.bfloat16)
    runs = {name: run_of(name, options) for name in names}
    for run in runs.values():
        run()
    print(f"{options.backbone}, {options.batch_size} images of {options.height}x{options.width} pixels per pass, "
          f"{keras.backend.backend()}, {accelerator() or 'CPU'}")  # fmt: skip
    clock = time.process_time if options.cpu_time else time.perf_counter
    seconds = take_turns(runs, options.rounds, clock)
    images = options.batch_size * options.passes
    memory = {name: memory_alone(argv, name) if options.memory else "" for name in names}
    shape = (1, options.height, options.width, 3)
    columns = {
        "peak memory": lambda name, _: memory[name],
        "share of matrix products": share(built, shape, ceilings(clock), images),
    }
    print("\n" + table(seconds, images, "images", names[0], columns))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
