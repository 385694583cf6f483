"""A large image seen in windows, against the same image seen as a whole: masks, time and memory.

    python benchmarks/windows.py --images CamVid/val --labels CamVid/valannot --model out/model
    python benchmarks/windows.py --images CamVid/val --labels CamVid/valannot --model out/model --rows 12 --columns 12

The image is a mosaic of labelled images of one size; --rows and --columns say how many. Every size of window runs in
a process of its own, after a pass over one of the images. Prints the mIoU, the share of pixels with another class than
in the whole image, all over and within 32 pixels of where two windows meet, the seconds, and how much the peak memory
grows.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer import metrics, storage
from trainer.formats import cards, codings, images
from trainer.network.options import MIN_WINDOW
from trainer.network.windows import spans
from trainer.options import CheckedOptions, option
from trainer.parser import parse
from trainer.processes import peak_memory

HERE = str(Path(__file__).parent)
WHOLE = 1 << 20
NEAR = 32
"""Pixels on either side of a line where two windows meet."""


@dataclass(frozen=True)
class Options(CheckedOptions):
    images: str = option(help="folder of images, all of one size", metavar="DIR")
    labels: str = option(help="folder of their labels", metavar="DIR")
    model: str = option(help="model folder", metavar="DIR")
    rows: int = option(10, "rows of images in the mosaic", low=1)
    columns: int = option(10, "columns of images in the mosaic", low=1)
    sides: tuple[int, ...] = option((4096, 2048, 1024), "windows, in pixels", low=MIN_WINDOW)


def mosaic(folder: str, rows: int, columns: int, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """The first images of a folder side by side; they begin again if there are too few."""
    decoded = [decode(storage.read(file.path)) for file in storage.files(folder)[: rows * columns]]
    line = lambda row: np.concatenate([decoded[(row * columns + n) % len(decoded)] for n in range(columns)], 1)
    return np.concatenate([line(row) for row in range(rows)])


def measure(options: Options, side: int, file: str) -> None:
    """Writes the class ids of the mosaic into a file, and prints its seconds and bytes of memory as JSON."""
    from pipelines.masks.network import Network

    network = Network(options.model)
    image = mosaic(options.images, options.rows, options.columns, images.decode_image)[None]
    network(image[:, : image.shape[1] // options.rows, : image.shape[2] // options.columns], "best", side)
    memory, start = peak_memory(), time.perf_counter()
    ids = network(image, "best", side)[0]
    print(json.dumps([time.perf_counter() - start, peak_memory() - memory]))
    np.save(file, ids[0])


def near_seams(shape: tuple[int, int], side: int) -> np.ndarray:
    """Whether a pixel is near a line where two windows meet, bool [H, W]."""
    near = np.zeros(shape, bool)
    if shape[0] * shape[1] > side**2:
        for axis, length in enumerate(shape):
            for _, kept in spans(length, side)[1:]:
                np.moveaxis(near, axis, 0)[max(0, kept.start - NEAR) : kept.start + NEAR] = True
    return near


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="windows.py", text="A large image seen in windows, against the whole.")
    palette = cards.load_card(options.model).palette
    label = mosaic(
        options.labels, options.rows, options.columns, functools.partial(codings.decode_ids, palette=palette)
    )
    print(f"{label.shape[1]}x{label.shape[0]} pixels")
    print("| window | mIoU | other class: all over | near seams | seconds | memory, GiB |\n|---|---|---|---|---|---|")
    whole = None
    for side in (WHOLE, *options.sides):
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder, "ids.npy"))
            arguments = f"windows.Options(**{asdict(options)!r}), {side}, {file!r}"
            call = f"import sys; sys.path.insert(0, {HERE!r}); import windows; windows.measure({arguments})"
            ran = subprocess.run([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True, check=True)
            ids = np.load(file)
        seconds, memory = json.loads(ran.stdout.splitlines()[-1])
        whole = ids if whole is None else whole
        other, near = ids != whole, near_seams(ids.shape, side)
        confusion = metrics.confusion(label, ids, palette.num_classes, palette.ignore_id)
        print(
            f"| {'whole' if side == WHOLE else side} | {metrics.scores(confusion, palette.names)['miou']:.4f} "
            f"| {other.mean():.2%} | {f'{other[near].mean():.2%}' if near.any() else ''} | {seconds:.1f} "
            f"| {memory / (1 << 30):.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
