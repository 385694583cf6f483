"""What is killed: commands over small drawn sets, and what of their output is finished for good."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.drawn.outputs import finished_shards
from tests.drawn.rawset import write_rawset
from tests.drawn.records import PALETTE, draw_image, record, write_records
from tests.drawn.segmenting import save
from trainer.formats import images

OVERLAYS = ("overlays", ".jpg"), ("confidence", ".png")
"""Folder and suffix of what is written beside every mask."""


@dataclass(frozen=True)
class Work:
    """A command and what it is to work on.

    Attributes:
      draw: makes that in an empty folder.
      flags: of the command, with paths below that folder.
      finished: from the folder to files that no later run may write again.
    """

    draw: Callable[[Path], object]
    flags: str
    finished: Callable[[Path], Iterable[Path]]


def _write_model(folder: Path) -> None:
    from tests.drawn.networks import write_model  # with TensorFlow

    write_model(folder, PALETTE)


def damage(path: Path) -> None:
    """Cuts a file off."""
    path.write_bytes(path.read_bytes()[:100])


def _draw_raw(folder: Path) -> None:
    write_rawset(folder / "raw", {"train": 40, "val": 8}, 128)
    damage(folder / "raw/images/train/a3.jpg")


def _draw_images(folder: Path) -> None:
    _write_model(folder / "model")
    for number in range(30):
        save(folder / f"images/{number % 3}/{number:02d}.jpg", draw_image(number, 64, 72)[0])
    damage(folder / "images/1/04.jpg")


def _finished_masks(folder: Path) -> Iterable[Path]:
    output = folder / "out"
    for mask in output.glob("[0-9]/*.png"):
        name = mask.relative_to(output).with_suffix("")
        files = [mask, *(output / below / f"{name}{suffix}" for below, suffix in OVERLAYS)]
        yield from files if all(path.exists() for path in files) else ()


def _draw_masks(folder: Path) -> None:
    (folder / "palette.json").write_text(json.dumps(PALETTE.to_json()))
    rng = np.random.default_rng(0)
    for number in range(60):
        label = draw_image(number, 64, 72)[1]
        mask = np.where(rng.random(label.shape) < 0.1, 0, label)
        for kind, ids in (("labels", label), ("masks", mask)):
            path = folder / f"{kind}/{number % 3}/{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images.encode_png(ids.astype(np.uint8)))
    damage(folder / "masks/1/04.png")


def _draw_records(folder: Path) -> None:
    _write_model(folder / "model")
    parts = [[record(number, (56, 64)) for number in range(start, 12, 2)] for start in (0, 1)]
    write_records(folder / "records", {"val": parts})


def _draw_training(folder: Path) -> None:
    parts = {"train": [[record(number) for number in range(start, 16, 2)] for start in (0, 1)]}
    write_records(folder / "records", parts | {"val": [[record(number) for number in range(30, 34)]]})


WORK = {
    "prepare": Work(
        _draw_raw,
        "--input raw --output out --copies 15 --tile 64 --shards 12 --max-reject-rate 0.1",
        lambda folder: finished_shards(folder / "out"),
    ),
    "segment": Work(
        _draw_images,
        "--input images --model model --output out --crf --overlays --confidence --batch-size 2 --max-reject-rate 0.1",
        _finished_masks,
    ),
    "evaluate": Work(
        _draw_masks,
        "--masks masks --labels labels --output out --palette palette.json --gallery 3 --max-reject-rate 0.1",
        lambda folder: (),
    ),
    "tune-crf": Work(
        _draw_records,
        "--model model --records records",
        lambda folder: (folder / "model/crf.tuning").glob("*.npz"),
    ),
    "train": Work(
        _draw_training,
        "--records records --output out --alpha 0.35 --crop 64 --batch-size 4 --epochs 3 --steps-per-epoch 20 "
        "--seed 1 --checkpoint-minutes 1e-9",
        lambda folder: (),
    ),
}
"""Command -> its work; nothing that `evaluate` and `train` write is finished before all is."""
