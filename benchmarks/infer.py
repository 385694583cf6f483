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
from collections.abc import Callable
from dataclasses import dataclass

from comparison import Comparison, Work, build, main

from trainer.options import option


@dataclass(frozen=True)
class Options(Comparison):
    height: int = option(352, "of the images, in pixels; a multiple of 32", low=32)
    width: int = option(480, "of the images, in pixels; a multiple of 32", low=32)
    batch_size: int = option(1, "images in one pass", low=1)
    passes: int = option(5, "passes per run", low=1)


def run_of(name: str, options: Options) -> Callable[[], object]:
    """What predicts the images of one run."""
    import numpy as np

    from trainer.network.batch_norm import fold_norms
    from trainer.network.inference import predictor

    network = build(name, options.backbone, options.height, options.width)
    shape = (options.batch_size, options.height, options.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    ours = None
    if name.startswith("deeplab"):
        fold_norms(network)
        ours = predictor(network, "ids")

    def run() -> None:
        for _ in range(options.passes):
            ids = ours(images) if ours else network.predict_on_batch(images).argmax(-1)
            assert ids.shape == images.shape[:3]

    return run


def work_of(options: Options) -> Work:
    what = f"{options.batch_size} images of {options.height}x{options.width} pixels per pass"
    return Work(what, options.height, options.width, options.batch_size * options.passes, options.batch_size)


if __name__ == "__main__":
    text = "Class ids of images, against those of other DeepLabs."
    sys.exit(main(sys.argv[1:], Options, "infer.py", text, run_of, work_of))
