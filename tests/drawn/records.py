"""Tiny sets of records whose right answer is known, written without `deeplab prepare`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.formats import images
from trainer.formats.dataset import Dataset, Shard, save_dataset, shard_name
from trainer.formats.examples import Record, encode
from trainer.formats.frames import frame
from trainer.formats.labels import Palette

PALETTE = Palette("drawn", ("ground", "disc", "bar"), ((40, 160, 60), (200, 40, 40), (40, 60, 220)), ignore_id=255)


def draw_image(index: int, height: int = 96, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A disc and a bar on ground, each in its class's colour with noise, and two void pixels all around.

    Returns image [height, width, 3] uint8 and label [height, width] uint8.
    """
    rng = np.random.default_rng([7, index])
    y, x = np.mgrid[:height, :width]
    label = np.zeros([height, width], np.uint8)
    cy, cx, radius = rng.integers(25, height - 25), rng.integers(25, width - 25), rng.integers(12, 22)
    label[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = 1
    left = rng.integers(5, width - 20)
    label[:, left : left + 12] = 2
    colors = np.array(PALETTE.colors, np.float32)
    image = colors[label] + rng.normal(0, 12, [height, width, 3])
    label[:2] = label[-2:] = label[:, :2] = label[:, -2:] = PALETTE.ignore_id
    return np.clip(image, 0, 255).astype(np.uint8), label


def record(index: int, size: tuple[int, int] = (96, 96), image_format: str = "jpeg") -> Record:
    image, label = draw_image(index, *size)
    data = images.encode_jpeg(image) if image_format == "jpeg" else images.encode_png(image)
    return Record(
        key=f"{index:03d}",
        filename=f"{index:03d}.{image_format}",
        image=data,
        image_format=image_format,
        height=size[0],
        width=size[1],
        channels=3,
        label=images.encode_png(label),
    )


def write_records(
    folder: Path,
    splits: dict[str, list[list[Record]]],
    palette: Palette = PALETTE,
    copies: int = 0,
) -> Dataset:
    """Write shards (a list of records each) and a dataset.json that counts `copies` copies of every source image."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for split, parts in splits.items():
        for index, part in enumerate(parts):
            name = shard_name(split, index, len(parts))
            data = b"".join(frame(encode(one)) for one in part)
            (folder / name).write_bytes(data)
            sizes = [(one.height, one.width) for one in part]
            shards.append(
                Shard(
                    name=name,
                    split=split,
                    records=len(part),
                    images=len(part) // (1 + copies),
                    bytes=len(data),
                    crc32c=0,
                    fingerprint="",
                    class_pixels=(0,) * palette.num_classes,
                    ignored_pixels=0,
                    min_size=tuple(np.min(sizes, axis=0).tolist()),
                    max_size=tuple(np.max(sizes, axis=0).tolist()),
                )
            )
    dataset = Dataset(palette=palette, shards=tuple(shards), options={}, fingerprint=f"drawn-{len(shards)}")
    save_dataset(str(folder), dataset)
    return dataset
