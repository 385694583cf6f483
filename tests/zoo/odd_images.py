"""Image files that are broken or odd, and the functions that make them from sound ones."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.drawn import encoded
from tests.drawn.encoded import chunk, png_head, saved
from tests.zoo.worlds import HEIGHT, WIDTH, image
from trainer.formats import images


class Odd(NamedTuple):
    """A file: a description of its oddity, its suffix and bytes, and words of its reject; "" if it is read."""

    name: str
    suffix: str
    data: bytes
    says: str = ""


RGB, SIZE = image(), (HEIGHT, WIDTH)
JPEG = images.encode_jpeg(RGB, 90)
BIG = saved(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), "JPEG", quality=95)
BMP, TIFF = saved(RGB, "BMP"), saved(RGB, "TIFF")
SCAN = JPEG.index(b"\xff\xda")


def without(data: bytes, kind: bytes) -> bytes:
    """A PNG without its chunks of that kind."""
    parts, at = [data[:8]], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        parts += [data[at : at + 12 + length]] if data[at + 4 : at + 8] != kind else []
        at += 12 + length
    return b"".join(parts)


def within(data: bytes, kind: bytes, content: bytes = b"") -> bytes:
    """A PNG with another chunk after its header."""
    return data[:33] + chunk(kind, content) + data[33:]


def stream(rows: bytes, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """An RGB PNG with these rows, compressed."""
    return png_head(width, height) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")


def webp_frames() -> bytes:
    parts = [Image.fromarray(encoded.noise(*SIZE, seed=n)) for n in range(2)]
    return saved(parts[0], "WEBP", save_all=True, append_images=parts[1:])


def tiff_pages() -> bytes:
    parts = [Image.fromarray(RGB)] * 2
    return saved(parts[0], "TIFF", save_all=True, append_images=parts[1:])


def claiming_tiff() -> bytes:
    """A TIFF with a tag of two thousand million numbers."""
    tags = [(256, 3, 1, WIDTH), (257, 3, 1, HEIGHT), (700, 4, 2**31 - 1, 8)]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + bytes(4)


def apng() -> bytes:
    parts = [Image.fromarray(encoded.noise(*SIZE, seed=n)) for n in range(2)]
    return saved(parts[0], "PNG", save_all=True, append_images=parts[1:])


def claiming(width: int, height: int) -> bytes:
    """A small PNG that claims to be large."""
    return png_head(width, height) + chunk(b"IDAT", zlib.compress(b"\0" * 4096)) + chunk(b"IEND")


def jpeg_of_depth(depth: int) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 4
    return JPEG[:at] + bytes([depth]) + JPEG[at + 1 :]


def jpeg_of_size(height: int, width: int) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


def png_of(depth: int, colors: int, content: bytes, width: int = 9, height: int = 9) -> bytes:
    return png_head(width, height, depth, colors) + chunk(b"IDAT", content) + chunk(b"IEND")


def bmp_of_height(height: int) -> bytes:
    return BMP[:22] + struct.pack("<i", height) + BMP[26:]


def flipped(data: bytes, *places: int) -> bytes:
    for place in places:
        data = encoded.flip_bit_of(data, place % len(data))
    return data


def named(odds: tuple[Odd, ...], prefix: str) -> dict[str, Odd]:
    """File name without its folder -> file; the names reveal nothing of the oddity."""
    return {f"{prefix}{number:02d}{odd.suffix}": odd for number, odd in enumerate(odds)}
