"""A training step of ours against keras-hub's DeepLabV3+ and the well-known Keras port, see `networks.py`.

    python benchmarks/train_step.py                                        # MobileNetV2, crops of 320 pixels
    python benchmarks/train_step.py --backbone resnet_v1_50_beta --crop 512 --batch-size 8
    KERAS_BACKEND=jax python benchmarks/train_step.py

Every network gets the same batch, from memory, in Keras' own loop, and learns with Adam from weighted pixels: ours as
`deeplab train` compiles it, the others as a few lines of Keras do, with XLA where ours has it (on a CPU, Keras' own
choice, it takes several times as long). With an accelerator ours runs in bfloat16 as well. Memory is the peak of a
process of its own; the share is what the passes of a step ask for, three times those of inference, of what products of
square matrices reach in the same arithmetic.

keras-hub is of the extra `benchmarks`: pip install '.[benchmarks]'.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timing import table, take_turns

from pipelines.demo.scenes import PALETTE
from trainer.options import CheckedOptions, option, parse
from trainer.startup import start_tensorflow

BACKBONES = ("mobilenet_v2", "resnet_v1_50_beta")
BFLOAT16 = ", bfloat16"


@dataclass(frozen=True)
class Options(CheckedOptions):
    backbone: str = option("mobilenet_v2", "of all networks", choices=BACKBONES)
    crop: int = option(320, "side of the square crops, in pixels; a multiple of 32", low=32)
    batch_size: int = option(4, "images per step", low=2)
    steps: int = option(3, "steps per run", low=1)
    rounds: int = option(5, "times every run is repeated", low=1)
    bfloat16: bool = option(False, "ours in bfloat16 without an accelerator, too")
    cpu_time: bool = option(False, "count seconds of the processor, on a machine that others share")
    memory: bool = option(True, "measure the peak memory as well, in a process of its own for each")
    only: str = option("", "print the peak memory of this run alone, in GiB", metavar="RUN")


def run_of(name: str, options: Options) -> Callable[[], object]:
    """What takes the steps of one run."""
    import keras
    import numpy as np
    import tensorflow as tf
    from networks import networks

    from trainer.train import model as models
    from trainer.train.options import Options as TrainOptions

    precision = "mixed_bfloat16" if name.endswith(BFLOAT16) else "float32"
    with models.precision(precision):
        build = networks(options.backbone, PALETTE.num_classes, options.crop, options.crop)
        network = build[name.removesuffix(BFLOAT16)]()
    flags = TrainOptions(
        records="-",
        output="-",
        batch_size=options.batch_size,
        crop=options.crop,
        precision=precision,
        schedule="constant",
    )
    models.compile_model(network, flags, PALETTE, total_steps=1)
    if not name.startswith("deeplab"):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=PALETTE.ignore_id)
        network.compile(keras.optimizers.Adam(), loss, jit_compile=network.jit_compile)
    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.crop, options.crop)
    labels = rng.integers(0, PALETTE.num_classes, shape).astype("uint8")
    batch = (rng.integers(0, 256, (*shape, 3)).astype("uint8"), labels, rng.uniform(0.3, 3, shape).astype("float32"))
    stream = tf.data.Dataset.from_tensors(batch).cache().repeat(options.steps)
    return lambda: network.fit(stream, shuffle=False, verbose=0)


def available(backbone: str, height: int, width: int, bfloat16: bool) -> tuple[list[str], dict[str, Any]]:
    """The names of the runs, and what builds their networks; says what is left out."""
    from ceiling import accelerator
    from networks import networks

    built = networks(backbone, PALETTE.num_classes, height, width)
    if importlib.util.find_spec("keras_hub") is None:
        del built["keras-hub"]
        print("keras-hub is not installed and is left out: pip install '.[benchmarks]'")
    names = list(built)
    if bfloat16 or accelerator():
        names.insert(1, names[0] + BFLOAT16)
    return names, built


def ceilings(clock: Callable[[], float]) -> dict[str, float]:
    """Operations per second of matrix products, in float32 and in bfloat16; prints them."""
    from ceiling import accelerator, matrix_products

    side = 8192 if accelerator() else 2048
    rates = {dtype: matrix_products(dtype, side, clock) for dtype in ("float32", "bfloat16")}
    print(", ".join(f"{dtype} products {rate / 1e12:.3g} Tflop/s" for dtype, rate in rates.items()))
    return rates


def share(
    built: dict[str, Any], shape: tuple[int, ...], rates: dict[str, float], passes: int
) -> Callable[[str, float], str]:
    """Gives the cells of a column of `timing.table`.

    Args:
      built: from `available`.
      shape: of one image, [1, H, W, 3].
      rates: from `ceilings`.
      passes: over one image in a run; the way back counts for two.
    """
    from ceiling import operations

    asked = {name: operations(build(), shape) for name, build in built.items()}

    def cell(name: str, seconds: float) -> str:
        rate = rates["bfloat16" if name.endswith(BFLOAT16) else "float32"]
        return f"{asked[name.removesuffix(BFLOAT16)] * passes / seconds / rate:.0%}"

    return cell


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="train_step.py", text="A training step against those of other DeepLabs.")
    start_tensorflow()
    import keras
    from ceiling import accelerator, memory_alone, peak_memory

    if options.only:
        run_of(options.only, options)()
        print(peak_memory())
        return 0
    names, built = available(options.backbone, options.crop, options.crop, options.bfloat16)
    runs = {name: run_of(name, options) for name in names}
    for run in runs.values():
        run()
    print(f"{options.backbone}, {options.batch_size} crops of {options.crop} pixels, {keras.backend.backend()}, "
          f"{accelerator() or 'CPU'}")  # fmt: skip
    clock = time.process_time if options.cpu_time else time.perf_counter
    seconds = take_turns(runs, options.rounds, clock)
    images = options.batch_size * options.steps
    memory = {name: memory_alone(argv, name) if options.memory else "" for name in names}
    shape = (1, options.crop, options.crop, 3)
    columns = {
        "peak memory": lambda name, _: memory[name],
        "share of matrix products": share(built, shape, ceilings(clock), 3 * images),
    }
    print("\n" + table(seconds, images, "images", names[0], columns))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
