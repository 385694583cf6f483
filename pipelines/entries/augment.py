"""Augmentation of images together with their labels, as pure functions.

`augment` first draws all random numbers, in a fixed order that does not depend on the options, so switching one
augmentation on or off does not change the others. Rotation, zoom, scale and crop are a single warp, so that an image
is interpolated once; the tone curves are a single table. Images are uint8 [H, W, 3] RGB, labels uint8 [H, W] class
ids. Labels are never interpolated; outside the image, pixels are PADDING and labels `ignore_id`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.entries.options import AugmentOptions
from trainer.formats import images
from trainer.formats.images import PADDING, shrunk_size

MIDDLE_GREY = 128
"""The grey value that a change of contrast leaves unchanged."""


@dataclass(frozen=True)
class Draws:
    """The random choices for a copy.

    Attributes:
      flip_horizontal: whether to exchange left and right.
      flip_vertical: whether to exchange top and bottom.
      angle: the rotation in degrees, counter-clockwise.
      zoom: the magnification about the centre.
      scale: the magnification before the crop.
      top, left: the position of the crop, from 0 (top, left) to 1 (bottom, right).
      sigma: the standard deviation of the blur in pixels, 0 for none.
      gamma: the exponent of brightness.
      contrast: the factor of contrast.
      gains: the factors on red, green and blue.
      clahe: whether to equalise the histogram, see `equalize`.
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
    """The random generator of a copy of an image, the same in every process and on every runner."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.md5(key.encode()).digest(), "big"), copy])


def augment(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator, options: AugmentOptions, ignore_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Makes an augmented copy of an image and its label.

    Args:
      image: uint8 [H, W, 3] RGB.
      label: class ids, uint8 [H, W].
      rng: the generator from `rng_for`, of which fifteen numbers are drawn.
      options: the augmentations and their ranges.
      ignore_id: the label outside the image.

    Returns:
      The copy, uint8 [H', W', 3], and its label, uint8 [H', W'], where H' x W' is the size of the image, or of the
      crop, padded to `pad`.
    """
    if image.shape[:2] != label.shape:
        raise ValueError(f"expected image and label of one size, got {image.shape[:2]} and {label.shape}")
    draws = draw(rng, options)
    size = _extent(label.shape, options)
    # Tones and blur come first, since padding would distort CLAHE, and would not remain grey.
    if draws.clahe:
        image = equalize(image, options.clahe_clip)
    image = adjust_tones(image, draws.gamma, draws.contrast, draws.gains)
    image = blur(image, draws.sigma)
    image, label = flip(image, label, draws.flip_horizontal, draws.flip_vertical)
    image, label = warp(image, label, draws, size, ignore_id)
    return pad(image, label, options.pad, ignore_id)


def _extent(shape: tuple[int, int], options: AugmentOptions) -> tuple[int, int]:
    """The (height, width) of a copy before it is padded."""
    return (options.crop, options.crop) if options.crop else shape


def copied_size(shape: tuple[int, int], options: AugmentOptions) -> tuple[int, int]:
    """The (height, width) of the copies of an image of this (height, width)."""
    height, width = _extent(shape, options)
    return max(height, options.pad), max(width, options.pad)


def draw(rng: np.random.Generator, options: AugmentOptions) -> Draws:
    """Draws the choices for a copy. Scale, zoom, gamma, contrast and sigma are uniform in their logarithm."""
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
    """Mirrors image and label left-right, upside-down, or both."""
    if not (horizontal or vertical):
        return image, label
    code = -1 if horizontal and vertical else 1 if horizontal else 0
    return cv2.flip(image, code), cv2.flip(label, code)


def warp(
    image: np.ndarray, label: np.ndarray, draws: Draws, size: tuple[int, int], ignore_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rotates and zooms about the centre, scales, and crops to `size` (height, width), in a single interpolation.

    It is bilinear for the image, and nearest for the label. If the scaled image is smaller than `size`, it is placed
    at random and padded. The crop is at whole pixels, so that a crop alone changes no pixel.
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
    # In OpenCV, pixels are centred at whole numbers; in the geometry of rotation and zoom, at halves.
    centre = np.array([width, height]) / 2
    shift = draws.scale * centre - [left, top] - 0.5 - turn @ (centre - 0.5)
    matrix = np.column_stack([turn, shift])
    if factor < 0.5:  # bilinear interpolation reads 2x2 pixels, so a stronger reduction would alias
        image = cv2.GaussianBlur(image, (0, 0), 0.5 * math.sqrt(1 / factor**2 - 1))
    extent = (size[1], size[0])
    # OpenCV 5 interpolates four channels in half the time of three; the values are the same.
    warped = cv2.warpAffine(
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), matrix, extent, flags=cv2.INTER_LINEAR, borderValue=(PADDING,) * 4
    )
    image = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    label = cv2.warpAffine(label, matrix, extent, flags=cv2.INTER_NEAREST, borderValue=ignore_id)
    return image, label


def pad(image: np.ndarray, label: np.ndarray, side: int, ignore_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads right and bottom until both sides have at least `side` pixels."""
    bottom, right = (max(0, side - length) for length in label.shape)
    if not (bottom or right):
        return image, label
    margins = (0, bottom, 0, right, cv2.BORDER_CONSTANT)
    padded = cv2.copyMakeBorder(image, *margins, value=(PADDING, PADDING, PADDING))
    return padded, cv2.copyMakeBorder(label, *margins, value=ignore_id)


def shrink(image: np.ndarray, label: np.ndarray, max_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Shrinks image and label to a longest side of `max_side` pixels, 0 for no limit; smaller ones are unchanged.

    The image is averaged over areas; the label takes the nearest pixel.
    """
    height, width = shrunk_size(*label.shape, max_side)
    if (height, width) == label.shape:
        return image, label
    # INTER_NEAREST takes the upper left pixel of each area, INTER_NEAREST_EXACT the one in its middle.
    small = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return images.shrink(image, max_side), small


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with standard deviation `sigma`, in pixels; 0 for none."""
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0 else image


def adjust_tones(
    image: np.ndarray, gamma: float = 1.0, contrast: float = 1.0, gains: tuple[float, float, float] = (1, 1, 1)
) -> np.ndarray:
    """Changes brightness, contrast and colour by one table per channel, so that values are rounded once.

    v -> gains * (contrast * (255 * (v / 255) ** gamma - 128) + 128), clipped to 0-255.
    """
    if gamma == 1 and contrast == 1 and tuple(gains) == (1, 1, 1):
        return image
    curve = contrast * (255 * (np.arange(256) / 255) ** gamma - MIDDLE_GREY) + MIDDLE_GREY
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
