"""Labels that are broken, odd, or coded in a way that the palette does not know."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.drawn import encoded
from tests.drawn.encoded import palette_png, saved
from tests.drawn.records import PALETTE
from tests.zoo.areas.raw_images import BROKEN
from tests.zoo.engine import TROUBLE, Area, Case
from tests.zoo.odd_images import Odd, claiming, named, png_of, within
from tests.zoo.worlds import HEIGHT, LABEL, PNG, WIDTH, both, file, label, model, pair, put
from trainer.formats import images
from trainer.formats.labels import Palette

IDS, SIZE = label(), (HEIGHT, WIDTH)
RGB = PALETTE.colorize(IDS)
COLORS = [*PALETTE.colors]
PLAIN = np.where(IDS == 255, 0, IDS).astype(np.uint8)
"""Without what is ignored, which few colour maps have room for."""


def with_ids(**pixels: int) -> np.ndarray:
    """The label with the first pixels of a row changed: x37=4 is id 37 in four pixels."""
    ids = IDS.copy()
    for name, count in pixels.items():
        ids[5, :count] = int(name[1:])
    return ids


def colored(color: tuple[int, int, int], pixels: int = 1) -> bytes:
    rgb = RGB.copy()
    rgb[5, :pixels] = color
    return saved(rgb)


def sixteen(ids: np.ndarray) -> bytes:
    return saved(Image.fromarray(ids.astype(np.uint16)), "PNG")


def rgba(alpha: int) -> bytes:
    return saved(np.dstack([RGB, np.where(IDS == 0, alpha, 255).astype(np.uint8)]))


def scaled() -> bytes:
    return saved(
        Image.fromarray(RGB).resize((WIDTH * 2, HEIGHT * 2), Image.Resampling.BILINEAR).resize((WIDTH, HEIGHT))
    )


BAD = (
    *(odd for odd in BROKEN if odd.suffix == ".png" and not odd.name.startswith(("a GIF", "a PPM", "an ICO"))),
    Odd("a label that is a JPEG", ".png", images.encode_jpeg(RGB), "is a JPEG, which blurs class ids"),
    Odd("a label that is a lossy WebP", ".png", saved(RGB, "WEBP"), "is a WebP, which blurs class ids"),
    Odd("a label that is a TIFF of JPEG", ".png", saved(RGB, "TIFF", compression="jpeg"), "is a JPEG, which blurs"),
    Odd("a label that is a phone's JPEG of two images", ".png", encoded.two_pictures(SIZE)[0], "is a JPEG"),
    Odd(
        "an id that the palette does not know",
        ".png",
        images.encode_png(with_ids(x37=4)),
        "unknown class id 37 in 4 pixels",
    ),
    Odd("three ids that it does not know", ".png", images.encode_png(with_ids(x99=9, x98=6, x97=2)), "97 in 2 pixels"),
    Odd("an id over 255 in 16 bits", ".png", sixteen(IDS.astype(np.uint16) + 300), "class id"),
    Odd("a colour that the palette does not know", ".png", colored((1, 2, 3), 2), "(1, 2, 3) in 2 pixels"),
    Odd("colours that are blurred by scaling", ".png", scaled(), "unknown colour"),
    Odd("transparent pixels", ".png", rgba(0), "is transparent in"),
    Odd("half-transparent pixels", ".png", rgba(128), "is transparent in"),
    Odd("16-bit colours that are no 8-bit ones", ".png", encoded.png(16, 2, SIZE), "16-bit colours"),
    Odd("a label of another size", ".png", images.encode_png(IDS[:-1]), "label is 32x23, its image 32x24"),
    Odd("a label of half the size", ".png", images.encode_png(IDS[::2, ::2]), "label is 16x12, its image 32x24"),
    Odd("a label that is turned", ".png", images.encode_png(np.rot90(IDS).copy()), "label is 24x32, its image 32x24"),
    Odd("a label of one pixel", ".png", images.encode_png(IDS[:1, :1]), "label is 1x1"),
    Odd("a label in CMYK", ".png", saved(Image.fromarray(RGB).convert("CMYK"), "TIFF"), "CMYK"),
    Odd("a label of floating-point numbers", ".png", saved(IDS.astype(np.float32), "TIFF"), "mode F"),
    Odd("a TIFF label in which 0 is white", ".png", encoded.tiff_of(WIDTH, white_is_zero=True), "0 is white"),
    Odd("a palette of 257 colours", ".png", within(palette_png(PLAIN, COLORS), b"PLTE", bytes(3 * 257)), "PNG"),
    Odd("a palette of no colours", ".png", png_of(8, 3, b"").replace(b"IHDR", b"IHDR"), "without a palette"),
    Odd("an image in place of the label", ".png", PNG, "unknown colour"),
)
FINE = (
    Odd("the ids as they are", ".png", LABEL),
    Odd("16-bit ids below 256", ".png", sixteen(IDS)),
    Odd("the palette's colours", ".png", saved(RGB)),
    Odd("the palette's colours, opaque", ".png", rgba(255)),
    Odd("a palette image of the palette's colours", ".png", PALETTE.encode_mask(IDS)),
    Odd("a palette image whose colours an optimiser put in another order", ".png", encoded.optimised(RGB)),
    Odd("a lossless WebP of colours", ".png", saved(RGB, "WEBP", lossless=True)),
    Odd("a BMP of ids", ".png", saved(IDS, "BMP")),
    Odd("a TIFF of ids", ".png", saved(IDS, "TIFF")),
    Odd("an interlaced label", ".png", saved(IDS, "PNG", interlace=True)),
    Odd("ids in 2 bits, which are greys to some", ".png", palette_png(PLAIN, [(n, n, n) for n in range(4)], bits=2)),
    Odd("an empty text chunk", ".png", within(LABEL, b"tEXt", b"Comment\0")),
)
FILES = named(BAD, "b") | named(FINE, "o")


def all_of_them(world: Path) -> None:
    for name, odd in FILES.items():
        pair(world, f"train/{name}", PNG, odd.data)


def masks_of_them(world: Path) -> None:
    """The same labels, and masks for all of them."""
    for name, odd in FILES.items():
        put(world, f"true/{name}", odd.data)
        put(world, f"masks/{name}", images.encode_png(PLAIN))


def set_of(palette: Palette, labels: list[bytes]) -> Callable[[Path], None]:
    """A set with these labels and this palette alone."""

    def make(world: Path) -> None:
        for kind in ("images", "labels"):
            for path in (world / "set" / kind).rglob("*.png"):
                path.unlink()
        put(world, "set/palette.json", json.dumps(palette.to_json()))
        for number, data in enumerate(labels):
            pair(world, f"train/a{number}.png", PNG, data)
            pair(world, f"val/b{number}.png", PNG, data)

    return make


TWO = Palette("two", ("ground", "thing"), ((0, 0, 0), (255, 255, 255)))
FOREGROUND = np.where(IDS == 1, 255, 0).astype(np.uint8)
ZERO_ONE = images.encode_png((FOREGROUND // 255).astype(np.uint8))
EVALUATE = "evaluate --labels @/true --masks @/other --output @/out"


def foreign(palette: Palette) -> Callable[[Path], None]:
    """A mask in 0 and 255, its label, and a palette."""
    truth = FOREGROUND if palette.source_ids else FOREGROUND // 255
    return both(
        file("two.json", json.dumps(palette.to_json())),
        file("true/a.png", images.encode_png(truth.astype(np.uint8))),
        file("other/a.png", images.encode_png(FOREGROUND)),
    )


PREPARE = "prepare --input @/set --output @/out"
REJECTS = {f"labels/train/{name}": odd.says for name, odd in FILES.items() if odd.says}
SWAPPED_MAP = [COLORS[2], COLORS[0], COLORS[1], *[(9, 9, 9)] * 253]
CASES = (
    Case(
        "labels that are broken, odd or coded otherwise",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=all_of_them,
        rejects=REJECTS,
        rows={odd.name: f"reject: {odd.says}" if odd.says else "read" for odd in FILES.values()},
        says=(f"{len(FILES) + 5} records = {len(FINE) + 5} written + {len(BAD)} rejected",),
    ),
    Case(
        "the same, as the truth of masks",
        "evaluate --labels @/true --masks @/masks --palette @/set/palette.json --output @/out --max-reject-rate 1",
        status=0,
        make=masks_of_them,
        rejects={
            name: odd.says if odd.says[:8] != "label is" else "the mask is" for name, odd in FILES.items() if odd.says
        },
        done=("out/report.html", "out/evaluation.json"),
    ),
    Case(
        "the same, before any work",
        "doctor @/set --output @/out --full",
        make=all_of_them,
        says=("images occur twice, byte for byte, with different labels", "verdict:"),
        stays=False,
    ),
    Case(
        "masks of 0 and 255, which the palette ignores",
        PREPARE,
        says=("contain only 0 and 255", "ignores 255", '"source_ids": {"0": 0, "255": 1}'),
        make=set_of(TWO, [images.encode_png(FOREGROUND)]),
    ),
    Case(
        "the same, with the palette that is proposed",
        PREPARE,
        status=0,
        make=set_of(dataclasses.replace(TWO, source_ids=((0, 0), (255, 1))), [images.encode_png(FOREGROUND)]),
    ),
    Case(
        "black and white in one bit, two classes",
        PREPARE,
        status=0,
        make=set_of(TWO, [saved(Image.fromarray(FOREGROUND).convert("1"))]),
    ),
    Case(
        "a palette image of which indices and colours say different classes",
        PREPARE,
        says=("a0.png", "can be read in two ways", "--label-coding ids or --label-coding colors"),
        make=set_of(PALETTE, [palette_png(PLAIN, [COLORS[1], COLORS[0], COLORS[2]])]),
    ),
    Case(
        "the same, with one colour more that the palette does not know",
        PREPARE,
        says=("a0.png", "can be read in two ways", "--label-coding ids or --label-coding colors"),
        make=set_of(PALETTE, [palette_png(np.where(IDS == 255, 255, (PLAIN + 1) % 3), SWAPPED_MAP)]),
    ),
    Case(
        "the same, read by its indices",
        f"{PREPARE} --label-coding ids",
        status=0,
        says=("labels are read by their ids",),
        make=set_of(PALETTE, [palette_png(PLAIN, [COLORS[1], COLORS[0], COLORS[2]])]),
    ),
    Case(
        "the same, read by its colours",
        f"{PREPARE} --label-coding colors",
        status=0,
        says=("labels are read by their colors",),
        make=set_of(PALETTE, [palette_png(PLAIN, [COLORS[1], COLORS[0], COLORS[2]])]),
    ),
    Case(
        "palette images of which some are known by indices alone, others by colours alone",
        PREPARE,
        says=("by its indices alone", "by its colours alone", "--label-coding"),
        make=set_of(
            PALETTE,
            [palette_png(PLAIN, [(1, 1, 1), (2, 2, 7), (3, 3, 9)]), palette_png(PLAIN + 5, [(9, 9, 9)] * 5 + COLORS)],
        ),
    ),
    Case(
        "ids that count from 1",
        PREPARE,
        status=TROUBLE,
        says=("warning:", "from 1", "none of 2 images could be used"),
        make=set_of(PALETTE, [images.encode_png(PLAIN + 1)]),
        rejects={"a0.png": "unknown class id 3", "b0.png": "unknown class id 3"},
    ),
    Case(
        "labels that are ignored altogether",
        PREPARE,
        status=0,
        says=("every pixel of its labels is ignored",),
        make=set_of(PALETTE, [images.encode_png(np.full(SIZE, 255, np.uint8))]),
    ),
    Case(
        "labels of one class",
        PREPARE,
        status=0,
        says=("nothing else can be learnt",),
        make=set_of(PALETTE, [images.encode_png(np.zeros(SIZE, np.uint8))]),
    ),
    Case(
        "colours that are to be read by their numbers",
        f"{PREPARE} --label-coding ids --max-reject-rate 1",
        status=TROUBLE,
        says=("none of 2 images could be used",),
        make=set_of(PALETTE, [saved(RGB)]),
        rejects={"a0.png": "is coloured: its three channels differ", "b0.png": "is coloured"},
    ),
    Case(
        "no palette given, and labels from which none can be told",
        PREPARE,
        says=("cannot tell the palette", "Give --palette"),
        make=lambda world: (world / "set/palette.json").unlink(),
    ),
    Case(
        "a decompression bomb among the labels that are sampled",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=lambda world: pair(world, "train/a.png", PNG, claiming(60000, 60000)),
        rejects={"labels/train/a.png": "over the limit"},
    ),
    Case(
        "masks of another program in 0 and 255, which the palette ignores",
        f"{EVALUATE} --palette @/two.json --max-reject-rate 1",
        status=0,
        make=both(foreign(TWO), file("true/b.png", ZERO_ONE), file("other/b.png", ZERO_ONE)),
        rejects={"a.png": '"source_ids": {"0": 0, "255": 1}'},
        says=("2 labels = 1 evaluated + 1 rejected",),
    ),
    Case(
        "the same, with the palette that is proposed",
        f"{EVALUATE} --palette @/two.json",
        status=0,
        make=foreign(dataclasses.replace(TWO, source_ids=((0, 0), (255, 1)))),
        says=("1 label = 1 evaluated + 0 rejected", "1.000"),
    ),
)
AREA = Area("Labels and how they are coded", model, CASES)
