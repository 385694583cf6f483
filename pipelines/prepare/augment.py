"""Augmentation of pictures together with their labels, as pure functions.

`augment` draws every random number first, in a fixed order that does not depend on the options, and then applies
them: switching one augmentation on or off changes none of the others' draws. Rotation, zoom, scale and crop are
one warp, so that a picture is interpolated once; the tone curves are one table. Pictures are uint8 [H, W, 3] RGB,
labels uint8 [H, W] class ids; labels are never interpolated, and what comes in from outside the picture is grey
in the picture and `ignore_id` in the label.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import cv2
import numpy as np

from trainer.options import InputError, option

GREY = 128  # what pictures are padded with: close to zero once the network has scaled it to [-1, 1]


@dataclass(frozen=True)
class AugmentOptions:
    """How augmented copies differ from their pictures. Probabilities are 0 to 1; ranges are (lowest, highest)."""

    flip_horizontal: float = option(0.5, "probability of a left-right flip")
    flip_vertical: float = option(0.0, "probability of an upside-down flip")
    rotate: float = option(5.0, "largest rotation in degrees, either way")
    zoom: float = option(0.0, "largest zoom about the centre: 0.2 zooms by 1/1.2 to 1.2")
    scale: tuple[float, float] = option((0.75, 1.5), "range of the random scale; cut back to size at a random place")
    crop: int = option(0, "side of the square random crop in pixels; 0 keeps the picture's size")
    pad: int = option(0, "pad right and bottom to at least this many pixels; padding is ignored in the label")
    blur: float = option(0.2, "probability of a Gaussian blur")
    blur_sigma: tuple[float, float] = option((0.5, 1.5), "range of the blur's standard deviation in pixels")
    gamma: tuple[float, float] = option((0.8, 1.25), "range of the brightness exponent; below 1 is brighter")
    contrast: tuple[float, float] = option((0.8, 1.25), "range of the contrast factor about middle grey")
    color: float = option(0.05, "largest relative change of the red, green and blue gains")
    clahe: float = option(0.1, "probability of adaptive histogram equalisation of the luma (CLAHE)")
    clahe_clip: float = option(2.0, "CLAHE's contrast limit")

    def __post_init__(self) -> None:
        for name in ("flip_horizontal", "flip_vertical", "blur", "clahe"):
            _expect(name, getattr(self, name), 0, 1)
        for name, lowest, highest in (
            ("scale", 0.1, 10),
            ("blur_sigma", 0.05, 50),
            ("gamma", 0.1, 10),
            ("contrast", 0.1, 10),
        ):
            low, high = getattr(self, name)
            _expect(name, low, lowest, highest)
            _expect(name, high, low, highest)
        _expect("rotate", self.rotate, 0, 180)
        _expect("zoom", self.zoom, 0, 9)
        _expect("color", self.color, 0, 0.9)
        _expect("clahe_clip", self.clahe_clip, 0.1, 100)
        _expect("crop", self.crop, 0, 32766)
        _expect("pad", self.pad, 0, 32766)


@dataclass(frozen=True)
class Draws:
    """The random choices for one copy.

    Attributes:
      flip_horizontal, flip_vertical: whether to.
      angle: degrees, counter-clockwise.
      zoom, scale: factors.
      top, left: where the crop lies, 0 to 1 of the room there is.
      sigma: of the blur in pixels, 0 for none.
      gamma, contrast: exponent and factor.
      gains: of red, green and blue.
      clahe: whether to.
    """

    flip_horizontal: bool = False
    flip_vertical: bool = False
    angle: float = 0.0
    zoom: float = 1.0
    scale: float = 1.0
    top: float = 0.0
    left: float = 0.0
    sigma: float = 0.0
    gamma: float = 1.0
    contrast: float = 1.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    clahe: bool = False


def rng_for(seed: int, key: str, copy: int) -> np.random.Generator:
    """The generator of one copy of one picture, the same in every process and on every runner."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.md5(key.encode()).digest(), "big"), copy])


def augment(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator, options: AugmentOptions, ignore_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns one augmented copy of a picture and its label.

    Args:
      image: uint8 [H, W, 3] RGB.
      label: uint8 [H, W] class ids.
      rng: from `rng_for`; fifteen numbers are drawn.
      options: which augmentations, how strong.
      ignore_id: label of what lies outside the picture.

    Returns:
      uint8 [H', W', 3] and uint8 [H', W'], where H' x W' is the picture's size, or the crop's, padded to `pad`.
    """
    if image.shape[:2] != label.shape:
        raise ValueError(f"expected image and label of one size, got {image.shape[:2]} and {label.shape}")
    draws = draw(rng, options)
    size = (options.crop, options.crop) if options.crop else label.shape
    # Tones and blur come first: padding would otherwise distort CLAHE, and would not stay grey.
    if draws.clahe:
        image = equalize(image, options.clahe_clip)
    image = adjust_tones(image, draws.gamma, draws.contrast, draws.gains)
    image = blur(image, draws.sigma)
    image, label = flip(image, label, draws.flip_horizontal, draws.flip_vertical)
    image, label = warp(image, label, draws, size, ignore_id)
    return pad(image, label, options.pad, ignore_id)


def draw(rng: np.random.Generator, options: AugmentOptions) -> Draws:
    """Draws the choices for one copy. Scale, zoom, gamma, contrast and sigma are uniform in their logarithm."""
    u = rng.random(15).tolist()
    return Draws(
        flip_horizontal=u[0] < options.flip_horizontal,
        flip_vertical=u[1] < options.flip_vertical,
        angle=(2 * u[2] - 1) * options.rotate,
        zoom=(1 + options.zoom) ** (2 * u[3] - 1),
        scale=_between(options.scale, u[4]),
        top=u[5],
        left=u[6],
        sigma=_between(options.blur_sigma, u[8]) if u[7] < options.blur else 0.0,
        gamma=_between(options.gamma, u[9]),
        contrast=_between(options.contrast, u[10]),
        gains=tuple(1 + (2 * x - 1) * options.color for x in u[11:14]),
        clahe=u[14] < options.clahe,
    )


def flip(image: np.ndarray, label: np.ndarray, horizontal: bool, vertical: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors picture and label: left-right, upside-down, or both."""
    if not (horizontal or vertical):
        return image, label
    code = -1 if horizontal and vertical else 1 if horizontal else 0
    return cv2.flip(image, code), cv2.flip(label, code)


def warp(
    image: np.ndarray, label: np.ndarray, draws: Draws, size: tuple[int, int], ignore_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rotates and zooms about the centre, scales, and cuts out `size` (height, width), in one interpolation.

    The picture is bilinear, the label nearest. Where the scaled picture is smaller than `size` it is placed at
    random and padded. The cut is at whole pixels, so that a crop alone changes no pixel.
    """
    height, width = label.shape
    factor = draws.scale * draws.zoom
    if draws.angle == 0 and factor == 1 and size == (height, width):
        return image, label
    top = round(draws.top * (draws.scale * height - size[0]))
    left = round(draws.left * (draws.scale * width - size[1]))
    cosine = factor * math.cos(math.radians(draws.angle))
    sine = factor * math.sin(math.radians(draws.angle))
    turn = np.array([[cosine, sine], [-sine, cosine]])
    # Centres of pixels are at whole numbers in OpenCV, at halves in the picture's own geometry.
    centre = np.array([width, height]) / 2
    shift = draws.scale * centre - [left, top] - 0.5 - turn @ (centre - 0.5)
    matrix = np.column_stack([turn, shift])
    if factor < 0.5:  # bilinear interpolation looks at 2x2 pixels; a stronger reduction would alias
        image = cv2.GaussianBlur(image, (0, 0), 0.5 * math.sqrt(1 / factor**2 - 1))
    extent = (size[1], size[0])
    image = cv2.warpAffine(image, matrix, extent, flags=cv2.INTER_LINEAR, borderValue=(GREY, GREY, GREY))
    label = cv2.warpAffine(label, matrix, extent, flags=cv2.INTER_NEAREST, borderValue=ignore_id)
    return image, label


def pad(image: np.ndarray, label: np.ndarray, side: int, ignore_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads right and bottom until both sides have at least `side` pixels."""
    bottom, right = (max(0, side - length) for length in label.shape)
    if not (bottom or right):
        return image, label
    border = (0, bottom, 0, right, cv2.BORDER_CONSTANT)
    padded = cv2.copyMakeBorder(image, *border, value=(GREY, GREY, GREY))
    return padded, cv2.copyMakeBorder(label, *border, value=ignore_id)


def resize(image: np.ndarray, label: np.ndarray, max_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Shrinks until the longest side has `max_side` pixels; 0, or a picture that is small enough, changes nothing.

    The picture is averaged over areas, the label nearest.
    """
    height, width = label.shape
    longest = max(height, width)
    if not 0 < max_side < longest:
        return image, label
    extent = (max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest)))
    # INTER_NEAREST takes the upper left pixel of each area, INTER_NEAREST_EXACT the one in its middle.
    return (
        cv2.resize(image, extent, interpolation=cv2.INTER_AREA),
        cv2.resize(label, extent, interpolation=cv2.INTER_NEAREST_EXACT),
    )


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with standard deviation `sigma` (pixels); 0 changes nothing."""
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0 else image


def adjust_tones(
    image: np.ndarray, gamma: float = 1.0, contrast: float = 1.0, gains: tuple[float, float, float] = (1, 1, 1)
) -> np.ndarray:
    """Brightness, contrast and colour in one table per channel, rounded once.

    v -> gains * (contrast * (255 * (v / 255) ** gamma - 128) + 128), clipped to 0-255.
    """
    if gamma == 1 and contrast == 1 and tuple(gains) == (1, 1, 1):
        return image
    curve = contrast * (255 * (np.arange(256) / 255) ** gamma - GREY) + GREY
    table = np.clip(curve[:, None] * np.asarray(gains), 0, 255).round().astype(np.uint8)
    return cv2.LUT(image, table.reshape(1, 256, 3))


def equalize(image: np.ndarray, clip: float) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994) of the luma, on 8x8 tiles."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    luma[..., 0] = cv2.createCLAHE(clip, (8, 8)).apply(luma[..., 0])
    return cv2.cvtColor(luma, cv2.COLOR_YCrCb2RGB)


def _between(bounds: tuple[float, float], u: float) -> float:
    low, high = bounds
    return low * (high / low) ** u


def _expect(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise InputError(f"--{name.replace('_', '-')} must be {lowest} to {highest}, got {value}")
