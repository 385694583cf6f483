"""A training step of ours against keras-hub's DeepLabV3+ and the well-known Keras port, see `networks.py`.

    python benchmarks/train_step.py                                        # MobileNetV2, crops of 320 pixels
    python benchmarks/train_step.py --backbone resnet_v1_50_beta --crop 512 --batch-size 8
    KERAS_BACKEND=jax python benchmarks/train_step.py

Every network gets the same batch, from memory, in Keras's own loop, and learns with Adam from the cross-entropy of
weighted pixels: ours as `deeplab train` compiles it without the Lovász loss, which the others have none of; those as a
few lines of Keras do, with XLA where ours has it (on a CPU, Keras's own choice, it takes several times as long). With
an accelerator ours runs in bfloat16 as well. Memory is the peak of a process of its own; the share is what the passes
of a step ask for, three times those of inference, of what products of square matrices reach in the same arithmetic.

keras-hub is of the extra `benchmarks`: pip install '.[benchmarks]'.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from comparison import Comparison, Work, build, main, precision

from pipelines.demo.scenes import PALETTE
from trainer.options import option


@dataclass(frozen=True)
class Options(Comparison):
    crop: int = option(320, "side of the square crops, in pixels; a multiple of 32", low=32)
    batch_size: int = option(4, "images per step", low=2)
    steps: int = option(3, "steps per run", low=1)


def run_of(name: str, options: Options) -> Callable[[], object]:
    """What takes the steps of one run."""
    import keras
    import numpy as np
    import tensorflow as tf

    from trainer.train import model as models
    from trainer.train.options import Options as TrainOptions

    network = build(name, options.backbone, options.crop, options.crop)
    flags = TrainOptions(
        records="-",
        output="-",
        batch_size=options.batch_size,
        crop=options.crop,
        precision=precision(name),
        schedule="constant",
    )
    if name.startswith("deeplab"):
        models.compile_model(network, flags, PALETTE, total_steps=1)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=PALETTE.ignore_id)
        network.compile(keras.optimizers.Adam(), loss, jit_compile=models.uses_xla())
    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.crop, options.crop)
    labels = rng.integers(0, PALETTE.num_classes, shape).astype("uint8")
    batch = (rng.integers(0, 256, (*shape, 3)).astype("uint8"), labels, rng.uniform(0.3, 3, shape).astype("float32"))
    stream = tf.data.Dataset.from_tensors(batch).cache().repeat(options.steps)
    return lambda: network.fit(stream, shuffle=False, verbose=0)


def work_of(options: Options) -> Work:
    what = f"{options.batch_size} crops of {options.crop} pixels"
    return Work(what, options.crop, options.crop, options.batch_size * options.steps, options.batch_size, passes=3)


if __name__ == "__main__":
    text = "A training step against those of other DeepLabs."
    sys.exit(main(sys.argv[1:], Options, "train_step.py", text, run_of, work_of))
