"""Drawn scenes with exact masks, for the demo, the tests and the benchmarks.

A scene is a small landscape under one sun: sky with clouds, ground in perspective, balls, boxes, trees, and a
power line two to four pixels wide. Every class has typical hues, but a tenth of the objects have any hue, and
all share the same patterns: colour helps, but does not suffice. Stencils are drawn at four times the size and
shrunk by area: the share of a pixel an object covers is how much of its colour the pixel gets, and the class with
the largest share is the pixel's label. So images are anti-aliased and masks are correct to half a pixel.
"""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from trainer import storage
from trainer.formats import images, label_images
from trainer.formats.labels import Palette

SKY, GROUND, BALL, BOX, TREE, POLE = range(6)
PALETTE = Palette(
    name="scenes",
    names=("sky", "ground", "ball", "box", "tree", "pole"),
    colors=((126, 180, 226), (150, 121, 84), (222, 68, 74), (240, 173, 48), (52, 140, 76), (92, 66, 160)),
)
SUPERSAMPLING = 4
HUES = {GROUND: (0.06, 0.17), BALL: (0.9, 1.03), BOX: (0.55, 0.75), TREE: (0.22, 0.4)}
UNUSUAL = 0.1  # share of the objects with any hue
WIRE_WIDTH = 2.0  # pixels; poles are 2 to 4 pixels wide

Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Pixel centres x [1, w] and y [h, 1] (pixels) to colour [h, w, 3], 0..1."""


class _Place(NamedTuple):
    """Where an object stands: x, base (its foot) and size in pixels; distance from 0 (near) to 1 (at the horizon)."""

    x: float
    base: float
    size: float
    distance: float


@dataclass
class _Canvas:
    """The painting so far, and the sun that lights all objects.

    Attributes:
      image: float32 [H, W, 3] RGB, 0..1.
      shares: float32 [C, H, W], how much of a pixel each class covers.
    """

    height: int
    width: int
    horizon: float
    sun: np.ndarray  # unit vector towards the light: right, down, out of the image
    haze: np.ndarray  # the colour that distant objects fade into, [3]
    image: np.ndarray = field(init=False)
    shares: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.image = np.zeros((self.height, self.width, 3), np.float32)
        self.shares = np.zeros((PALETTE.num_classes, self.height, self.width), np.float32)
        self.shares[SKY] = 1

    def paint(self, class_id: int, stencil: np.ndarray, surface: Surface, distance: float = 0.0) -> None:
        """Blends in an object of that class, where `stencil` (uint8 [4H, 4W], 255 inside) covers the image."""
        x0, y0, width, height = cv2.boundingRect(stencil)
        if not width:
            return
        x1, y1 = -(-(x0 + width) // SUPERSAMPLING), -(-(y0 + height) // SUPERSAMPLING)
        x0, y0 = x0 // SUPERSAMPLING, y0 // SUPERSAMPLING
        fine = np.s_[y0 * SUPERSAMPLING : y1 * SUPERSAMPLING, x0 * SUPERSAMPLING : x1 * SUPERSAMPLING]
        x = np.arange(x0, x1, dtype=np.float32)[None] + 0.5
        y = np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5
        colour = surface(x, y)
        colour = colour + (self.haze - colour) * np.float32(0.45 * distance)
        cover = cv2.resize(stencil[fine], (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA) / np.float32(255)
        behind = self.image[y0:y1, x0:x1]
        behind += cover[..., None] * (colour - behind)
        self.shares[:, y0:y1, x0:x1] *= 1 - cover
        self.shares[class_id, y0:y1, x0:x1] += cover

    def blank(self) -> np.ndarray:
        return np.zeros((self.height * SUPERSAMPLING, self.width * SUPERSAMPLING), np.uint8)

    def polygon(self, points: list[tuple[float, float]], stencil: np.ndarray | None = None) -> np.ndarray:
        stencil = self.blank() if stencil is None else stencil
        return cv2.fillPoly(stencil, [_fine(points)], 255)

    def ellipse(self, centre: tuple, axes: tuple, angle: float = 0, stencil: np.ndarray | None = None) -> np.ndarray:
        stencil = self.blank() if stencil is None else stencil
        (centre, axes) = _fine([centre, axes]).tolist()
        return cv2.ellipse(stencil, centre, axes, angle, 0, 360, 255, -1)

    def shadow(self, centre: tuple[float, float], axes: tuple[float, float]) -> None:
        """Darkens the ground softly where an object's shadow falls; the mask does not change."""
        middle, down = centre[0] - 0.7 * axes[0] * float(self.sun[0]), max(axes[1], 1.0)
        x0, x1 = (int(np.clip(middle + side * 1.5 * axes[0], 0, self.width)) for side in (-1, 1))
        y0, y1 = (int(np.clip(centre[1] + side * 1.5 * down, self.horizon, self.height)) for side in (-1, 1))
        x = (np.arange(x0, x1, dtype=np.float32)[None] + 0.5 - np.float32(middle)) / np.float32(axes[0])
        y = (np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5 - np.float32(centre[1])) / np.float32(down)
        self.image[y0:y1, x0:x1] *= (1 - 0.55 * np.clip(1.3 - 0.8 * (x**2 + y**2), 0, 1))[..., None]


def _fine(points: list[tuple[float, float]]) -> np.ndarray:
    return np.round(np.asarray(points, np.float64) * SUPERSAMPLING).astype(np.int32)


def _noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise, about -1..1, with features `cell` pixels wide. float32 [height, width]."""
    grid = rng.standard_normal((int(height / cell) + 3, int(width / cell) + 3), np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(0.6)


def _colours(rng: np.random.Generator, class_id: int, vivid: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Two matching colours, for a surface and the pattern on it: float32 [3], 0..1."""
    hue = rng.uniform(0, 1) if rng.random() < UNUSUAL else rng.uniform(*HUES[class_id])
    saturation, value = rng.uniform(0.3, 0.75) * vivid, rng.uniform(0.5, 0.95)
    first = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    near = (hue + rng.choice([0.0, 0.04, 0.08])) % 1
    second = colorsys.hsv_to_rgb(near, saturation * rng.uniform(0.2, 0.9), value * 0.7)
    return np.array(first, np.float32), np.array(second, np.float32)


def _patterned(rng: np.random.Generator, class_id: int, period: float, vivid: float = 1.0) -> Surface:
    """A colour for every (u, v): stripes, checks, dots or plain, `period` long, turned by a random angle."""
    first, second = _colours(rng, class_id, vivid)
    kind = rng.choice(["stripes", "checks", "dots", "plain"], p=[0.35, 0.2, 0.2, 0.25])
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    wave = np.float32(2 * np.pi / period)

    def surface(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        a, b = np.sin(wave * (u * cos + v * sin)), np.sin(wave * (v * cos - u * sin))
        mark = {"stripes": a, "checks": a * b * 2, "dots": a + b - 0.9, "plain": 0.2 * a + 0.1 * b}[kind]
        mark = np.clip(0.5 + 1.3 * mark, 0, 1)  # soft transitions: the pattern must not alias
        return first + (second - first) * mark[..., None]

    return surface


def _paint_sky(canvas: _Canvas, rng: np.random.Generator) -> None:
    top = np.array(
        colorsys.hsv_to_rgb(rng.uniform(0.53, 0.68), rng.uniform(0.2, 0.7), rng.uniform(0.6, 0.95)),
        np.float32,
    )
    clouds = sum(_noise(rng, canvas.height, canvas.width, canvas.height / n) / k for k, n in ((1, 3), (2, 8), (4, 20)))
    clouds = np.clip((clouds - rng.uniform(0.0, 0.8)) * 0.8, 0, 0.85)[..., None]
    height = np.linspace(0, canvas.height / canvas.horizon, canvas.height, dtype=np.float32)[:, None, None]
    sky = top + (canvas.haze - top) * np.minimum(height, 1)
    canvas.image[:] = sky + (np.float32(0.97) - sky) * clouds


def _paint_ground(canvas: _Canvas, rng: np.random.Generator) -> None:
    """A field seen in perspective: its pattern shrinks and fades towards a horizon of gentle hills."""
    height, width, horizon = canvas.height, canvas.width, canvas.horizon
    ridge = horizon + _noise(rng, 1, width + 1, width / 3)[0] * height * 0.03
    stencil = canvas.polygon([(0, height), *enumerate(ridge.tolist()), (width, height)])
    field_colour, vanishing = _patterned(rng, GROUND, 1.0, vivid=0.6), rng.uniform(0.2, 0.8) * width
    grain = _noise(rng, height, width, 2.0) * 0.06 + _noise(rng, height, width, 9.0) * 0.08

    def surface(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        below = np.maximum(y - horizon, 0) + height * 0.05
        near = np.clip(below / (height * 0.55), 0, 1)[..., None]
        u, v = (x - vanishing) / below * 1.6, height * 0.8 / below + 0 * x
        plain = field_colour(u * 0, v * 0)
        colour = plain + (field_colour(u, v) - plain) * np.minimum(near * 1.3, 1)
        colour = colour * (1 + grain[int(y[0, 0]) :, int(x[0, 0]) :, None])
        return colour + (canvas.haze - colour) * (0.5 * (1 - near) ** 2)

    canvas.paint(GROUND, stencil, surface)


def _paint_ball(canvas: _Canvas, rng: np.random.Generator, at: _Place) -> None:
    x, base, size, distance = at
    radius = np.float32(size * rng.uniform(0.16, 0.3))
    centre = (x, base - float(radius))
    pattern, tilt = _patterned(rng, BALL, rng.uniform(0.35, 0.8)), rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))

    def surface(px: np.ndarray, py: np.ndarray) -> np.ndarray:
        right, down = (px - np.float32(centre[0])) / radius, (py - np.float32(centre[1])) / radius
        out = np.sqrt(np.maximum(1 - right**2 - down**2, 0))
        light = right * canvas.sun[0] + down * canvas.sun[1] + out * canvas.sun[2]
        u, v = right * cos + down * sin, down * cos - right * sin
        colour = pattern(np.arctan2(u, out + 0.05), np.arcsin(np.clip(v, -1, 1)))
        shaded = colour * (0.4 + 0.75 * np.maximum(light, 0) + 0.12 * np.maximum(down, 0))[..., None]
        return shaded + 0.5 * np.maximum(light, 0)[..., None] ** 24

    canvas.shadow((x, base - 0.1 * radius), (radius * 1.1, radius * 0.3))
    canvas.paint(BALL, canvas.ellipse(centre, (radius, radius)), surface, distance)


def _paint_box(canvas: _Canvas, rng: np.random.Generator, at: _Place) -> None:
    """A cuboid seen from a corner: front, top, and the side towards the image's middle."""
    x, base, size, distance = at
    w, h = size * rng.uniform(0.3, 0.6), size * rng.uniform(0.25, 0.6)
    side = 1 if x < canvas.width / 2 else -1
    dx, dy = side * w * rng.uniform(0.25, 0.45), -size * rng.uniform(0.08, 0.16)
    near, far = x - side * w / 2, x + side * w / 2
    front = [(near, base), (far, base), (far, base - h), (near, base - h)]
    top = [(near, base - h), (far, base - h), (far + dx, base - h + dy), (near + dx, base - h + dy)]
    silhouette = [front[0], front[1], (far + dx, base + dy), top[2], top[3], front[3]]
    pattern, grain = (
        _patterned(rng, BOX, rng.uniform(0.12, 0.3) * size),
        _noise(rng, canvas.height, canvas.width, 3) * 0.05,
    )

    def face(normal: tuple[float, float, float], shear: float) -> Surface:
        light = np.float32(0.55 + 0.5 * max(0.0, float(np.dot(normal, canvas.sun))))

        def surface(px: np.ndarray, py: np.ndarray) -> np.ndarray:
            colour = pattern(px - np.float32(near), py - np.float32(base) - shear * (px - np.float32(far)))
            return colour * light * (1 + grain[int(py[0, 0]) :, int(px[0, 0]) :][: len(py), : px.size, None])

        return surface

    canvas.shadow((x + dx / 2, base + dy / 3), (w * 0.75, -dy))
    # Each face also covers what lies behind it, so that the background does not show through the seams.
    canvas.paint(BOX, canvas.polygon(silhouette), face((side, 0, 0), dy / dx), distance)
    canvas.paint(BOX, canvas.polygon([*front[:3], *top[2:], front[3]]), face((0, -1, 0), 0.0), distance)
    canvas.paint(BOX, canvas.polygon(front), face((0, 0, 1), 0.0), distance)


def _paint_tree(canvas: _Canvas, rng: np.random.Generator, at: _Place) -> None:
    """A trunk and a crown of leaf-shaped tufts, one class."""
    x, base, size, distance = at
    size = size * rng.uniform(0.6, 1.1)
    trunk, crown = max(1.5, size * 0.045), size * rng.uniform(0.26, 0.36)
    middle = base - size * rng.uniform(0.62, 0.75)
    bark = np.array(
        colorsys.hsv_to_rgb(rng.uniform(0.04, 0.1), rng.uniform(0.2, 0.6), rng.uniform(0.25, 0.6)), np.float32
    )
    leaf, _ = _colours(rng, TREE)
    shade = leaf * 0.45
    tufts = _noise(rng, canvas.height, canvas.width, 1.6) * 0.28 + _noise(rng, canvas.height, canvas.width, 5) * 0.3

    def foliage(px: np.ndarray, py: np.ndarray) -> np.ndarray:
        lit = ((px - np.float32(x)) * canvas.sun[0] + (py - np.float32(middle)) * canvas.sun[1]) / np.float32(crown)
        mix = 0.55 + 0.4 * lit + tufts[int(py[0, 0]) :, int(px[0, 0]) :][: len(py), : px.size]
        return shade + (leaf - shade) * np.clip(mix, 0, 1.15)[..., None]

    def wood(px: np.ndarray, py: np.ndarray) -> np.ndarray:
        round_light = 0.8 + 0.4 * (px - np.float32(x)) / np.float32(trunk) * canvas.sun[0]
        return bark * (round_light + 0 * py)[..., None]

    canvas.shadow((x, base), (crown, crown * 0.25))
    stem = [(x - trunk, base), (x + trunk, base), (x + trunk * 0.6, middle), (x - trunk * 0.6, middle)]
    canvas.paint(TREE, canvas.polygon(stem), wood, distance)
    stencil = canvas.ellipse((x, middle), (crown * 0.8, crown * 0.75))
    for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False) + rng.uniform(-0.2, 0.2, 16):
        reach = crown * rng.uniform(0.6, 0.85)
        tip = (x + reach * np.cos(angle), middle + 0.9 * reach * np.sin(angle))
        axes = (crown * rng.uniform(0.22, 0.4), crown * rng.uniform(0.1, 0.22))
        canvas.ellipse(tip, axes, float(np.degrees(angle)) + rng.uniform(-50, 50), stencil)
    canvas.paint(TREE, stencil, foliage, distance)


def _paint_power_line(canvas: _Canvas, rng: np.random.Generator, at: _Place) -> None:
    """A row of poles that runs towards the horizon, with arms, and wires that sag between them."""
    x, base, size, distance = at
    tone = np.float32(rng.choice([0.15, 0.3, 0.8])) * np.array([1, 0.93, 0.85], np.float32)
    stride, shrink = size * rng.uniform(0.8, 1.3) * rng.choice([-1, 1]), rng.uniform(0.72, 1.0)
    tall, first = size * rng.uniform(0.9, 1.25), x - stride * rng.integers(1, 3)
    stencil, tips = canvas.blank(), []
    for n in range(6):
        scale = shrink**n
        foot = canvas.horizon + (base - canvas.horizon) * scale
        px = first + stride * (1 - scale) / (1 - shrink) if shrink < 1 else first + stride * n
        peak, arm, half = foot - tall * scale, 0.1 * tall * scale, (1 + 1.0 * scale) * rng.uniform(0.98, 1.0)
        canvas.polygon([(px - half, foot), (px + half, foot), (px + half, peak), (px - half, peak)], stencil)
        canvas.polygon(
            [(px - arm, peak + 2), (px + arm, peak + 2), (px + arm, peak + 4), (px - arm, peak + 4)], stencil
        )
        tips.append([(px - arm, peak + 3), (px + arm, peak + 3)])
    t = np.linspace(0, 1, 24)[:, None]
    for here, there in itertools.pairwise(tips):
        for start, end in zip(here, there, strict=True):
            curve = (1 - t) * start + t * np.array(end) + [[0, 1]] * (4 * t * (1 - t)) * 0.09 * abs(stride)
            cv2.polylines(stencil, [_fine(curve)], False, 255, round(WIRE_WIDTH * SUPERSAMPLING))
    canvas.paint(POLE, stencil, lambda px, py: tone * (0.85 + 0.3 * (px + py) / canvas.width)[..., None], distance / 2)


def draw_scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image uint8 [height, width, 3] RGB and label uint8 [height, width] ids of `PALETTE`.

    The same generator state gives the same scene; the smallest sensible size is about 64 x 64 pixels.
    """
    sun = np.array([rng.choice([-1, 1]) * rng.uniform(0.3, 0.8), -0.7, rng.uniform(0.4, 0.8)], np.float32)
    haze = np.array(colorsys.hsv_to_rgb(rng.uniform(0.02, 0.15), rng.uniform(0.05, 0.35), 0.95), np.float32)
    canvas = _Canvas(height, width, height * rng.uniform(0.35, 0.55), sun / np.linalg.norm(sun), haze)
    _paint_sky(canvas, rng)
    _paint_ground(canvas, rng)
    kinds = [
        (_paint_ball, rng.integers(1, 4)),
        (_paint_box, rng.integers(1, 3)),
        (_paint_tree, rng.integers(1, 4)),
    ]
    things = [paint for paint, count in kinds for _ in range(count)]
    if rng.random() < 0.8:
        things.append(_paint_power_line)
    nearness = rng.uniform(0.05, 0.95, len(things))
    places = (rng.permutation(len(things)) + rng.uniform(0.1, 0.9, len(things))) / len(things)
    for i in np.argsort(nearness):  # the far ones first, the near ones over them
        base = canvas.horizon + (height - canvas.horizon) * float(nearness[i])
        size = height * (0.4 + 0.5 * float(nearness[i]))
        things[i](canvas, rng, _Place(width * float(places[i]), base, size, 1 - float(nearness[i])))
    gradient = np.linspace(-1, 1, width, dtype=np.float32)[:, None] * sun[0] * np.float32(0.1)
    lit = canvas.image * (1 + gradient) * 255
    lit += rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(1.5, 5))
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8), canvas.shares.argmax(0).astype(np.uint8)


def write_set(folder: str, train: int, val: int, size: tuple[int, int], seed: int) -> None:
    """Writes a set in CamVid's layout: images/{train,val}/*.jpg, labels/{train,val}/*.png and palette.json.

    Labels hold class ids. `size` is (height, width) in pixels. Every image depends on seed, split and its
    number alone, so a larger set begins with the images of a smaller one.
    """
    for split, (name, count) in enumerate((("train", train), ("val", val))):
        for number in range(count):
            image, label = draw_scene(np.random.default_rng([seed, split, number]), *size)
            stem = f"scene-{number:04d}"
            storage.write(storage.join(folder, "images", name, stem + ".jpg"), images.encode_jpeg(image))
            storage.write(storage.join(folder, "labels", name, stem + ".png"), label_images.encode_label(label))
    storage.write_json(storage.join(folder, "palette.json"), PALETTE.to_json())
