"""Options that determine the contents of a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.inputs.options import label_coding
from trainer.formats.options import MAX_PIXELS
from trainer.options import CheckedOptions, InputError, option


def _augmentation(default: Any, help: str, low: float = 0, high: float = 1) -> Any:
    return option(default, help, low=low, high=high, group="augmentation")


# The names of these fields, and those of RecordOptions, are part of the fingerprints of shards.
@dataclass(frozen=True)
class AugmentOptions(CheckedOptions):
    """How augmented copies differ from their images; ranges are (lowest, highest)."""

    flip_horizontal: float = _augmentation(0.5, "probability of a left-right flip")
    flip_vertical: float = _augmentation(0.0, "probability of an upside-down flip")
    rotate: float = _augmentation(5.0, "largest rotation in degrees, either way", high=180)
    zoom: float = _augmentation(0.0, "largest zoom about the centre: 0.2 zooms by 1/1.2 to 1.2", high=9)
    scale: tuple[float, float] = _augmentation(
        (0.75, 1.5),
        "range of the random scale; the result is cut or padded to the original size",
        low=0.1,
        high=10,
    )
    crop: int = _augmentation(0, "side of the square random crop in pixels; 0 keeps the image's size", high=32766)
    pad: int = _augmentation(
        0, "pad right and bottom to at least this many pixels; padding is ignored in the label", high=32766
    )
    blur: float = _augmentation(0.2, "probability of a Gaussian blur")
    blur_sigma: tuple[float, float] = _augmentation(
        (0.5, 1.5), "range of the blur's standard deviation in pixels", low=0.05, high=50
    )
    gamma: tuple[float, float] = _augmentation(
        (0.8, 1.25), "range of the brightness exponent; below 1 is brighter", low=0.1, high=10
    )
    contrast: tuple[float, float] = _augmentation(
        (0.8, 1.25), "range of the contrast factor about middle grey", low=0.1, high=10
    )
    color: float = _augmentation(0.05, "largest relative change of the red, green and blue gains", high=0.9)
    clahe: float = _augmentation(0.1, "probability of adaptive histogram equalisation of the luma (CLAHE)")
    clahe_clip: float = _augmentation(2.0, "CLAHE's contrast limit", low=0.1, high=100)


@dataclass(frozen=True)
class RecordOptions(AugmentOptions):
    """Everything that determines the contents of a record, apart from the source files and the palette."""

    seed: int = option(0, "seed of the shuffling and of every augmentation", low=0, group="records")
    max_side: int = option(
        0,
        "shrink images whose longest side is over this many pixels; 0 keeps every size",
        low=0,
        high=MAX_PIXELS,
        group="records",
    )
    image_format: str = option(
        "jpeg",
        "format of images that have to be encoded again: copies, and shrunk or rotated images",
        choices=("jpeg", "png"),
        group="records",
    )
    jpeg_quality: int = option(95, "quality of the JPEGs that are encoded", low=1, high=100, group="records")
    label_coding: str = label_coding()
    max_pixels: int = option(
        MAX_PIXELS, "reject images with more pixels than this", low=1, high=MAX_PIXELS, group="input"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("crop", "pad"):
            side = getattr(self, name)
            if side**2 > self.max_pixels:
                larger = ", or a larger --max-pixels if memory allows" * (side**2 <= MAX_PIXELS)
                raise InputError(
                    f"--{name} {side} makes copies of {side**2:,} pixels, over the limit of {self.max_pixels:,}; "
                    f"give a smaller --{name}{larger}"
                )
