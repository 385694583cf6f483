"""CRF alone: `crf.refine` against pydensecrf called directly.

    python benchmarks/crf.py                                       # drawn scenes, a blurred truth as probabilities
    python benchmarks/crf.py --model out/model --data images/val   # a model's own softmax of real pictures

Prints seconds per picture of both and the share of pixels on which their labels agree.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import cv2
import numpy as np
from timing import table, take_turns

from pipelines import crf, scenes
from trainer import images, storage
from trainer.options import option, parse


@dataclass(frozen=True)
class Options:
    data: str = option("", "folder of pictures; drawn scenes when empty")
    model: str = option("", "model folder whose softmax is refined; needs --data")
    pictures: int = option(6, "how many")
    rounds: int = option(3, "times every run is repeated")
    height: int = option(360, "height of drawn scenes (pixels); the width is 4/3 of it")


def drawn(count: int, height: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scenes with probabilities as a network gives them: the truth blurred as by a stride of 16, with noise."""
    pairs = []
    for number in range(count):
        rng = np.random.default_rng([0, number])
        image, label = scenes.draw_scene(rng, height, height * 4 // 3)
        truth = np.eye(scenes.PALETTE.num_classes, dtype=np.float32)[label]
        coarse = cv2.resize(truth, None, fx=1 / 16, fy=1 / 16, interpolation=cv2.INTER_AREA)
        logits = 6 * coarse + rng.standard_normal(coarse.shape, np.float32)
        smooth = cv2.resize(logits, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        exp = np.exp(smooth - smooth.max(-1, keepdims=True))
        pairs.append((image, exp / exp.sum(-1, keepdims=True)))
    return pairs


def predicted(model: str, data: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from trainer.model import load_model, predictor

    predict = predictor(load_model(model)[0], "probabilities")
    pictures = [images.decode_image(storage.read(file.path)) for file in storage.files(data)[:count]]
    return [(image, predict(image[None])[0]) for image in pictures]


def pydensecrf(image: np.ndarray, probabilities: np.ndarray, options: crf.CrfOptions) -> np.ndarray:
    """The same energy by the calls of pydensecrf's README."""
    from pydensecrf import densecrf
    from pydensecrf.utils import unary_from_softmax

    height, width, classes = probabilities.shape
    field = densecrf.DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(unary_from_softmax(np.ascontiguousarray(probabilities.transpose(2, 0, 1))))
    field.addPairwiseGaussian(sxy=options.sxy_gaussian, compat=options.compat_gaussian)
    field.addPairwiseBilateral(sxy=options.sxy, srgb=options.srgb, rgbim=np.array(image), compat=options.compat)
    return np.array(field.inference(options.iterations)).reshape(classes, height, width).transpose(1, 2, 0)


def main(argv: list[str]) -> int:
    options = parse(Options, argv, prog="crf.py", description="CRF alone against pydensecrf.")
    pairs = (
        predicted(options.model, options.data, options.pictures)
        if options.model
        else drawn(options.pictures, options.height)
    )
    parameters, results = crf.CrfOptions(), {}

    def run(name: str, refine) -> None:
        results[name] = [refine(image, probabilities, parameters).argmax(-1) for image, probabilities in pairs]

    seconds = take_turns(
        {
            "crf.refine": lambda: run("crf.refine", crf.refine),
            "pydensecrf": lambda: run("pydensecrf", pydensecrf),
        },
        options.rounds,
    )
    print("\n" + table(seconds, len(pairs), "pictures", "pydensecrf"))
    same = [np.mean(a == b) for a, b in zip(results["crf.refine"], results["pydensecrf"], strict=True)]
    image, probabilities = pairs[0]
    print(f"\nthe same label on {np.mean(same):.4%} of pixels; {len(pairs)} pictures of "
          f"{image.shape[1]} x {image.shape[0]}, {probabilities.shape[-1]} classes, one thread")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
