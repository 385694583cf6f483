"""Images to segment, runs of `deeplab segment`, and what they wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines import cli
from pipelines.inputs.collection import Images, Listing, SourceImage
from pipelines.segment import plan as planning
from pipelines.segment.options import Options
from trainer.formats.labels import Palette

PALETTE = Palette("three", ("left", "right", "rest"), ((200, 0, 0), (0, 200, 0), (0, 0, 200)))
SIZES = {"a": (40, 56), "b": (40, 56), "deep/c": (33, 47), "deep/er/d": (1, 1), "e": (70, 30), "f": (40, 56)}
"""Name -> height and width of the images in the folder of the fixture `photos`; image n is `draw(*size, n)`."""


def draw(height: int, width: int, seed: int) -> np.ndarray:
    """uint8 [height, width, 3]: smooth colour blobs, different for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, image: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def segment(*argv: object) -> int:
    return cli.run(["segment", *map(str, argv)])


def read_mask(path: Path) -> np.ndarray:
    """uint8 [H, W] class ids of a palette PNG with the colours of PALETTE."""
    with Image.open(path) as image:
        assert image.mode == "P" and image.format == "PNG"
        assert image.getpalette()[:9] == [200, 0, 0, 0, 200, 0, 0, 0, 200]
        return np.asarray(image)


def report_of(folder: Path) -> dict:
    return json.loads((folder / "segment.json").read_text())


def rejects_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


def outcomes_of(folder: Path) -> tuple[int, int, int]:
    """Images written, skipped and rejected."""
    report = report_of(folder)
    return report["written"], report["skipped"], report["rejected"]


def listing(count: int) -> Listing:
    """Images that are named and nothing else."""
    return Listing(Images(SourceImage(f"in/{n:04d}.jpg", f"{n:04d}") for n in range(count)))


def written(folder: Path, whole: planning.Plan) -> list[list[planning.Entry]]:
    """The chunks of a plan, as workers read them."""
    planning.write(str(folder), whole)
    return [planning.read_chunk(str(folder), whole.file, chunk) for chunk in whole.chunks]


def options(output: Path, **flags: object) -> Options:
    """Options of a plan."""
    return Options(input="in", model="m", output=str(output), **flags)
