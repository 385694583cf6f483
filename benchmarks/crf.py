"""CRF alone: `crf.refine` against pydensecrf called directly, one thread each, in turns.

    python benchmarks/crf.py                                       # drawn scenes, a blurred truth as probabilities
    python benchmarks/crf.py --model out/voc --data photos         # a model's own softmax of real images
    python benchmarks/crf.py --model out/voc --data photos --temperature 2.5
    python benchmarks/crf.py --model out/voc --data photos --light 1        # the rarest label has a weight of its own

Every image is cut to every size; the most frequent of the model's classes are kept, and made to add up to 1 again. A
temperature above 1 flattens the softmax, until no label is improbable everywhere and each needs a channel of its own.
Prints one row per size and number of labels (median over images of the ratio of medians over rounds; largest
difference of marginals; share of pixels with the same label), then the time and memory that the first image of a
process takes, and what two threads gain, beside a loop of pure arithmetic in two threads.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.crf import refine as crf
from pipelines.demo import scenes
from trainer import storage
from trainer.formats import images
from trainer.formats.options import CrfOptions
from trainer.options import CheckedOptions, InputError, option
from trainer.parser import parse

Pair = tuple[np.ndarray, np.ndarray]
"""An image, uint8 [H, W, 3], and its softmax, float32 [H, W, C]."""


@dataclass(frozen=True)
class Options(CheckedOptions):
    data: str = option("", "folder of images; drawn scenes when empty", metavar="DIR")
    model: str = option("", "model folder whose softmax is refined; needs --data", metavar="DIR")
    images: int = option(4, "how many images", low=1)
    rounds: int = option(3, "times every run is repeated", low=1)
    sizes: tuple[str, ...] = option(("360x480", "512x512", "1024x2048"), "heights and widths", metavar="HxW")
    labels: tuple[int, ...] = option((2, 5, 12, 21), "numbers of labels", low=1)
    light: int = option(0, "how many labels, the rarest of an image, have the class weight 0.25", low=0)
    temperature: float = option(1.0, "softmax of log(p) / temperature instead of p", above=0)


def drawn(count: int, height: int, width: int) -> list[Pair]:
    """Scenes with probabilities as a network gives them: the truth blurred as by a stride of 16, with noise."""
    pairs = []
    for number in range(count):
        rng = np.random.default_rng([0, number])
        image, label = scenes.draw_scene(rng, height, width)
        truth = np.eye(scenes.PALETTE.num_classes, dtype=np.float32)[label]
        coarse = cv2.resize(truth, None, fx=1 / 16, fy=1 / 16, interpolation=cv2.INTER_AREA)
        logits = 6 * coarse + rng.standard_normal(coarse.shape, np.float32)
        smooth = cv2.resize(logits, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        exp = np.exp(smooth - smooth.max(-1, keepdims=True))
        pairs.append((image, exp / exp.sum(-1, keepdims=True)))
    return pairs


def cut(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of the image, scaled to fill [height, width, 3]."""
    scale = max(height / image.shape[0], width / image.shape[1])
    size = (max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale)))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])


def predictions(options: Options) -> Callable[[int, int], list[Pair]]:
    if not options.model:
        return lambda height, width: drawn(options.images, height, width)
    from trainer.network.folder import load_model
    from trainer.network.inference import predictor

    predict = predictor(load_model(options.model)[0], "probabilities")
    files = storage.files(options.data)[: options.images]
    decoded = [images.decode_image(storage.read(file.path)) for file in files]

    def predicted(height: int, width: int) -> list[Pair]:
        cuts = [cut(image, height, width) for image in decoded]
        return [(image, predict(image[None])[0]) for image in cuts]

    return predicted


def reduced(probabilities: np.ndarray, labels: int, temperature: float) -> np.ndarray:
    """The `labels` most frequent labels of the softmax at that temperature, float32 [H, W, labels]."""
    order = np.sort(np.argsort(-probabilities.mean((0, 1)))[:labels])
    kept = np.power(probabilities[..., order], 1 / temperature)
    return np.ascontiguousarray(kept / kept.sum(-1, keepdims=True), np.float32)


def pydensecrf(image: np.ndarray, probabilities: np.ndarray, options: CrfOptions) -> np.ndarray:
    """The same energy by the calls of pydensecrf's README."""
    from pydensecrf import densecrf
    from pydensecrf.utils import unary_from_softmax

    height, width, classes = probabilities.shape
    field = densecrf.DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(unary_from_softmax(np.ascontiguousarray(probabilities.transpose(2, 0, 1))))
    pairs = 1.0
    if options.class_weights:
        pairs = np.outer(options.class_weights, options.class_weights).astype(np.float32) * (1 - np.eye(classes))
    gaussian, bilateral = (np.float32(compat * pairs) for compat in (options.compat_gaussian, options.compat))
    field.addPairwiseGaussian(sxy=options.sxy_gaussian, compat=gaussian)
    field.addPairwiseBilateral(sxy=options.sxy, srgb=options.srgb, rgbim=np.array(image), compat=bilateral)
    return np.array(field.inference(options.iterations)).reshape(classes, height, width).transpose(1, 2, 0)


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def weighted(probabilities: np.ndarray, light: int) -> CrfOptions:
    """The default parameters with weight 0.25 for the `light` rarest labels."""
    rank = np.argsort(np.argsort(probabilities.mean((0, 1))))
    return CrfOptions(class_weights=tuple(np.where(rank < light, 0.25, 1.0)))


def compare(
    image: np.ndarray, probabilities: np.ndarray, rounds: int, light: int
) -> tuple[float, float, float, float]:
    """Median seconds of crf.refine and of pydensecrf, largest |dQ|, share of pixels with the same label."""
    parameters, seconds = weighted(probabilities, light), ([], [])
    crf.refine(image, probabilities, parameters)
    for _ in range(rounds):
        spent, ours = timed(lambda: crf.refine(image, probabilities, parameters))
        seconds[0].append(spent)
        spent, theirs = timed(lambda: pydensecrf(image, probabilities, parameters))
        seconds[1].append(spent)
    largest, equal = float(np.abs(ours - theirs).max()), float(np.mean(ours.argmax(-1) == theirs.argmax(-1)))
    return statistics.median(seconds[0]), statistics.median(seconds[1]), largest, equal


def grid(options: Options, predicted: Callable[[int, int], list[Pair]]) -> None:
    print("| size | labels | crf.refine | pydensecrf | faster | slowest image | max abs dQ | same label |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = []
    for size in options.sizes:
        pairs = predicted(*map(int, size.split("x")))
        for labels in (count for count in options.labels if count <= pairs[0][1].shape[-1]):
            rows = [
                compare(image, reduced(p, labels, options.temperature), options.rounds, options.light)
                for image, p in pairs
            ]
            of_cell = [theirs / ours for ours, theirs, _, _ in rows]
            ratios += of_cell
            ours, theirs = (statistics.median(row[i] for row in rows) for i in (0, 1))
            print(f"| {size} | {labels} | {ours:.3f} s | {theirs:.3f} s | {statistics.median(of_cell):.1f} | "
                  f"{min(of_cell):.1f} | {max(row[2] for row in rows):.0e} | {min(row[3] for row in rows):.4%} |",
                  flush=True)  # fmt: skip
    print(f"\nmedian {statistics.median(ratios):.1f}, least {min(ratios):.1f}, most {max(ratios):.1f} times "
          f"pydensecrf; {len(ratios)} images, temperature {options.temperature:g}")  # fmt: skip


CHILD = """
import json, sys, time
import numpy as np
sys.path[:0] = [{benchmarks!r}]
import crf as bench
from pipelines.crf import refine as crf
from trainer.formats.options import CrfOptions
if {engine!r} == "pydensecrf":
    from pydensecrf import densecrf, utils
content = np.load({file!r})
image, probabilities = content["image"], content["probabilities"]
refine = crf.refine if {engine!r} == "crf.refine" else bench.pydensecrf
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
before, seconds = peak(), []
for _ in range(3):
    start = time.perf_counter()
    refine(image, probabilities, CrfOptions())
    seconds.append(time.perf_counter() - start)
print(json.dumps([seconds[0], min(seconds[1:]), peak() - before]))
"""


def processes(name: str, image: np.ndarray, probabilities: np.ndarray) -> None:
    """How long a fresh process takes for its first image, and how much its peak memory grows (Linux)."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "pair.npz")
        np.savez(file, image=image, probabilities=probabilities)
        for engine in ("crf.refine", "pydensecrf"):
            script = CHILD.format(benchmarks=os.path.dirname(os.path.abspath(__file__)), engine=engine, file=file)
            result = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
            first, warm, memory = json.loads(result.stdout)
            print(f"| {name} | {engine} | {first:.3f} s | {warm:.3f} s | {memory / 1024:.0f} MiB |", flush=True)


def threads(image: np.ndarray, probabilities: np.ndarray, rounds: int) -> None:
    """How much more two threads do in the time of one, and how much a loop of pure arithmetic does on this machine."""
    block = bytes(1 << 26)
    work = {
        "crf.refine": lambda _: crf.refine(image, probabilities, CrfOptions()),
        "arithmetic (SHA-256)": lambda _: hashlib.sha256(block).digest(),
    }

    def median(run: Callable[[], object]) -> float:
        return statistics.median(timed(run)[0] for _ in range(2 * rounds + 1))

    with ThreadPoolExecutor(2) as pool:
        for name, run in work.items():
            one = median(lambda run=run: [run(0), run(1)])
            two = median(lambda run=run: list(pool.map(run, range(2))))
            print(f"two threads, {name}: {one / two:.2f} times one")


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="crf.py", text="CRF alone against pydensecrf.")
    if bool(options.model) != bool(options.data):
        raise InputError("--model and --data go together")
    predicted = predictions(options)
    grid(options, predicted)
    height, width = map(int, options.sizes[0].split("x"))
    image, probabilities = predicted(height, width)[0]
    print("\n| size, labels | engine | first image | warm | memory |\n|---|---|---|---|---|")
    for size in options.sizes:
        height, width = map(int, size.split("x"))
        for labels in sorted({min(options.labels), max(options.labels)}):
            large, full = predicted(height, width)[0]
            processes(f"{size}, {labels}", large, reduced(full, labels, options.temperature))
    print()
    threads(image, reduced(probabilities, max(options.labels), options.temperature), options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
