"""Tiny raw sets: of drawn images in CamVid's layout, or of empty files where names alone are looked at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.inputs.rawset import RawSet
from tests.drawn.records import PALETTE, draw_image


def write_pair(folder: Path, split: str, name: str, image: np.ndarray, label: np.ndarray) -> None:
    """`name` has the image's suffix; the label is a PNG of class ids."""
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "images" / split / name)
    Image.fromarray(label).save(folder / "labels" / split / f"{Path(name).stem}.png")


def write_rawset(folder: Path, splits: dict[str, int], size: int = 96) -> Path:
    """`splits` says how many square JPEGs of `size` pixels go into each split: train/a0.jpg, train/a1.jpg, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "palette.json").write_text(json.dumps(PALETTE.to_json()))
    for split, count in splits.items():
        for index in range(count):
            write_pair(folder, split, f"a{index}.jpg", *draw_image(index + 100 * len(split), size, size))
    return folder


def touch(root: Path, *names: str) -> None:
    """Empty files: scanning looks at names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def splits_of(raw: RawSet) -> dict[str, str]:
    """Key -> split."""
    return {pair.key: pair.split for pair in raw.pairs}


def labels_of(raw: RawSet, root: Path) -> dict[str, str]:
    """Key -> path of the label below `root`."""
    return {pair.key: Path(pair.label).relative_to(root).as_posix() for pair in raw.pairs}


def reasons_of(raw: RawSet) -> dict[str, str]:
    """Key -> why it was rejected."""
    return {reject.key: reject.reason for reject in raw.rejects}
