"""The options of an invented command, with a field of every kind."""

from __future__ import annotations

import dataclasses

from trainer.options import CheckedOptions, option


@dataclasses.dataclass(frozen=True)
class DrawOptions(CheckedOptions):
    output: str = option(help="folder to write to", metavar="DIR")
    copies: int = option(2, "augmented copies, 50 % of them flipped", low=0)
    scale: tuple[float, float] = option(
        (0.5, 2.0), "smallest and largest scale", above=0, high=10, group="augmentation"
    )
    masks: tuple[str, ...] = option((), "folders", metavar="DIR")
    crf: bool = option(False, "refine")
    limit: int | None = option(None, "at most so many", low=1)
    head: str = option("subpixel", "upsampling", choices=("bilinear", "subpixel"))
    shade: str = option("off", "shadows", choices=("off", "on", "auto"), bare="on")
    momentum: float = option(0.9, "share that is kept", low=0, below=1)
