"""Gallery entries of noise, with names that would be markup if they were not escaped."""

from __future__ import annotations

import numpy as np

from pipelines.pages import gallery
from trainer.formats.labels import Palette

EVIL = "<script>alert(1)</script>\"'&"
PALETTE = Palette(name="two", names=("sky", EVIL), colors=((70, 130, 180), (128, 64, 128)))


def entry(
    names: list[str], rng: np.random.Generator, entries: int = 1, shape: tuple[int, int] = (60, 80)
) -> gallery.Entry:
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    label = np.repeat(rng.integers(0, 2, (shape[0], 1), np.uint8), shape[1], axis=1)
    masks = {name: rng.integers(0, 2, shape, np.uint8) for name in names}
    return gallery.entry(f"a/{EVIL}", "worst", dict.fromkeys(names, 0.25), image, label, masks, PALETTE, entries)
