"""Image files and labels, and the functions that read them, for the fuzzer; see `tests.zoo.targets`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.masks.stamps import Stamp, read_stamp, stamp_jpeg, stamp_png
from tests.drawn import encoded
from tests.drawn.encoded import saved
from tests.drawn.records import PALETTE
from trainer.formats import codings, headers, images, label_images
from trainer.formats.labels import LabelError
from trainer.formats.palettes import CAMVID, VOC

MAX_PIXELS = 1 << 20
"""Maximum pixels of an image: larger ones take longer than the second that a case has."""


def jpegs() -> list[bytes]:
    noise, smooth = encoded.noise(24, 32), Image.linear_gradient("L").resize((40, 24)).convert("RGB")
    found = [saved(smooth, "JPEG", **options) for options in ({}, {"progressive": True}, {"quality": 30})]
    found += [saved(encoded.noise(24, 32, 1), "JPEG"), saved(smooth.convert("CMYK"), "JPEG")]
    found += [encoded.with_exif(found[0], encoded.exif_block(n, order)) for n, order in ((6, "<"), (3, ">"))]
    found += [encoded.two_pictures()[0], saved(noise, "JPEG", restart_marker_blocks=2, subsampling=0)]
    return [*found, stamp_jpeg(images.encode_jpeg(noise), Stamp("f" * 32, "0-1"))]


def pngs() -> list[bytes]:
    kinds = [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 4), (8, 6), (16, 6)]
    found = [encoded.png(depth, colors) for depth, colors in kinds]
    ids = encoded.noise(9, 14, 1) % 11
    found += [encoded.palette_png(ids, CAMVID.colors), encoded.palette_png(ids % 2, [(0, 0, 0), (255, 255, 255)])]
    found += [encoded.palette_png(ids, VOC.colors, alpha=b"\0\xff")]
    found += [encoded.png(before=[(b"eXIf", encoded.exif_block(6))]), saved(ids)]
    return [*found, stamp_png(CAMVID.encode_mask(ids), Stamp("f" * 32, "0-1"))]


def others() -> list[bytes]:
    noise, grey = encoded.noise(24, 32), encoded.noise(24, 32, 1) % 11
    found = [saved(noise, "TIFF", **({"compression": kind} if kind else {})) for kind in ("", "tiff_lzw", "jpeg")]
    found += [saved(grey, "TIFF"), encoded.tiff_of(8), encoded.tiff_of(4, (8, 8, 8)), encoded.tiff_of(8, (16,))]
    found += [saved(noise, "WEBP"), saved(noise, "WEBP", lossless=True), saved(grey, "BMP"), saved(noise, "BMP")]
    found += [saved(Image.fromarray(noise), "WEBP", exif=b"Exif\0\0" + encoded.exif_block(6)), saved(grey, "GIF")]
    frames_ = [Image.fromarray(encoded.noise(8, 8, seed=n)) for n in range(2)]
    return [*found, saved(frames_[0], "WEBP", save_all=True, append_images=frames_[1:])]


def read_image(data: bytes, folder: Path) -> None:
    header, pixels = images.decode(data, MAX_PIXELS)
    assert pixels.dtype == np.uint8 and pixels.shape == (*header.upright_size, 3), (header, pixels.shape)


def read_label(data: bytes, folder: Path) -> None:
    label = label_images.read_label(data, MAX_PIXELS)
    assert label.codes.dtype == np.uint8
    for palette in (CAMVID, PALETTE):
        for coding in ("auto", "ids", "colors"):
            try:
                assert codings.to_ids(label, palette, coding).shape == label.codes.shape[:2]
            except LabelError:
                continue


def read_header(data: bytes, folder: Path) -> None:
    headers.read(data, MAX_PIXELS), read_stamp(data)
