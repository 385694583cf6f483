"""Orientations: EXIF in images and labels, and what contradicts it."""

from __future__ import annotations

import numpy as np

from tests.drawn.encoded import chunk, exif_block, with_exif
from tests.zoo.engine import Area, Case
from tests.zoo.odd_images import Odd
from tests.zoo.worlds import LABEL, image, label, model, pair
from trainer.formats import images

JPEG = images.encode_jpeg(image(), 95)
SIDEWAYS = images.encode_png(np.rot90(label()).copy())


def turned(orientation: int, order: str = ">") -> bytes:
    return with_exif(JPEG, exif_block(orientation, order))


def tagged(png: bytes, orientation: int) -> bytes:
    return png[:33] + chunk(b"eXIf", exif_block(orientation)) + png[33:]


PAIRS = {
    **{
        f"orientation {n}, a label drawn on the upright image": (turned(n), SIDEWAYS if n > 4 else LABEL, "")
        for n in range(1, 9)
    },
    "the tag in Intel's order": (turned(6, "<"), SIDEWAYS, ""),
    "the same tag in both": (turned(6), tagged(LABEL, 6), ""),
    "the same tag in both, upside down": (turned(3), tagged(LABEL, 3), ""),
    "a tag in the label alone": (JPEG, tagged(LABEL, 3), "label has EXIF orientation 3, its image 1"),
    "different tags": (turned(2), tagged(LABEL, 3), "label has EXIF orientation 3, its image 2"),
    "a label drawn on the image as stored": (turned(6), LABEL, "give both the same EXIF orientation, or none"),
    "an unknown orientation": (turned(9), LABEL, ""),
    "orientation 0": (turned(0), LABEL, ""),
    "EXIF that is cut off": (with_exif(JPEG, exif_block(6)[:9]), LABEL, ""),
    "EXIF that leads to itself": (with_exif(JPEG, b"MM\0*\0\0\0\x08\0\0\0\0\0\x08"), LABEL, ""),
    "two EXIF blocks, the first of which counts": (with_exif(turned(1), exif_block(6)), SIDEWAYS, ""),
}
FILES = {f"e{number:02d}.jpg": (name, *rest) for number, (name, rest) in enumerate(PAIRS.items())}


def all_of_them(world) -> None:
    for file, (_, data, labelled, _) in FILES.items():
        pair(world, f"train/{file}", data, labelled)


ODD = {file: Odd(name, ".jpg", data, says) for file, (name, data, _, says) in FILES.items()}
AREA = Area(
    "Orientation",
    model,
    (
        Case(
            "images that are turned",
            "prepare --input @/set --output @/out --max-reject-rate 1",
            status=0,
            make=all_of_them,
            rejects={file.replace(".jpg", ".png"): odd.says for file, odd in ODD.items() if odd.says},
            rows={odd.name: f"reject: {odd.says}" if odd.says else "read" for odd in ODD.values()},
        ),
        Case(
            "the same, to be segmented",
            "segment --input @/set/images --model @/model --output @/out",
            status=0,
            make=all_of_them,
            done=tuple(f"out/train/{file.replace('.jpg', '.png')}" for file in FILES),
        ),
        Case(
            "the same, before any work",
            "doctor @/set --output @/out --full",
            status=2,
            stays=False,
            make=all_of_them,
            says=("verdict:",),
        ),
    ),
)
