"""Images that are broken or odd, many of them in one set: `prepare`, `segment` and `doctor` meet all of them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.drawn import encoded
from tests.drawn.encoded import chunk, png_head, saved
from tests.zoo.engine import TROUBLE, Area, Case
from tests.zoo.odd_images import (
    BIG,
    JPEG,
    RGB,
    SCAN,
    SIZE,
    TIFF,
    Odd,
    apng,
    bmp_of_height,
    claiming,
    claiming_tiff,
    flipped,
    jpeg_of_depth,
    jpeg_of_size,
    named,
    png_of,
    stream,
    tiff_pages,
    webp_frames,
    within,
    without,
)
from tests.zoo.worlds import HEIGHT, LABEL, PNG, WIDTH, image, label, model, pair
from trainer.formats import images

ROW = b"\0" + bytes(3 * WIDTH)
BROKEN = (
    Odd("an empty file", ".jpg", b"", "the file is empty"),
    Odd("one byte", ".png", b"\x89", "not an image"),
    Odd("text", ".jpg", b"this is no image", "not an image: begins with"),
    Odd("an HTML page, as servers send it", ".jpg", b"<!DOCTYPE html><html>", "not an image but a web page"),
    Odd("a file of zeros", ".png", bytes(5000), "not an image"),
    Odd("a Git LFS pointer", ".png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull`"),
    Odd("a ZIP archive", ".png", b"PK\3\4" + bytes(99), "is a ZIP archive, which is not read"),
    Odd("a GIF under another name", ".png", saved(RGB, "GIF"), "is a GIF, which is not read; save it as PNG"),
    Odd("a PPM under another name", ".png", saved(RGB, "PPM"), "is a PPM"),
    Odd("an ICO under another name", ".png", saved(RGB, "ICO"), "is an ICO"),
    Odd("a PSD under another name", ".jpg", b"8BPS\0\1" + bytes(99), "is a PSD"),
    Odd("HEIC under the name of a JPEG", ".jpg", b"\0\0\0\x18ftypheic" + bytes(99), "is HEIC"),
    Odd("AVIF under the name of a JPEG", ".jpg", b"\0\0\0\x18ftypavif" + bytes(99), "is AVIF"),
    Odd("an SVG under the name of a PNG", ".png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG"),
    Odd("only the first two bytes of a JPEG", ".jpg", JPEG[:2], "not an image"),
    Odd("a JPEG cut off in its header", ".jpg", JPEG[:30], "JPEG"),
    Odd("a JPEG cut off before its pixels", ".jpg", JPEG[:SCAN], "JPEG"),
    Odd("a JPEG cut off in its pixels", ".jpg", BIG[: len(BIG) // 2], "truncated JPEG"),
    Odd("a JPEG without its end marker", ".jpg", JPEG[:-2], "its end marker is missing"),
    Odd("a JPEG cut off in its pixels, with an end marker", ".jpg", BIG[: len(BIG) // 2] + b"\xff\xd9", "JPEG"),
    Odd("a JPEG cut off in its last rows, with an end marker", ".jpg", BIG[: len(BIG) * 7 // 8] + b"\xff\xd9", "JPEG"),
    Odd("a JPEG of 12 bits", ".jpg", jpeg_of_depth(12), "12 bits"),
    Odd("a JPEG that says it has no rows", ".jpg", jpeg_of_size(0, WIDTH), "0"),
    Odd("a JPEG that says it has no columns", ".jpg", jpeg_of_size(HEIGHT, 0), "0"),
    Odd("a JPEG that says it is larger than it is", ".jpg", jpeg_of_size(HEIGHT * 40, WIDTH * 40), "JPEG"),
    Odd("a JPEG that begins twice", ".jpg", JPEG[:2] + JPEG, "begins twice"),
    Odd("a JPEG without tables", ".jpg", JPEG[:2] + JPEG[JPEG.index(b"\xff\xc0") :], "JPEG"),
    Odd("a PNG's signature alone", ".png", PNG[:8], "truncated PNG"),
    Odd("a PNG cut off in its header", ".png", PNG[:20], "truncated PNG"),
    Odd("a PNG cut off in its pixels", ".png", PNG[: len(PNG) // 2], "truncated PNG"),
    Odd("a PNG without its last chunk", ".png", PNG[:-12], "without its last chunk"),
    Odd("a PNG without a header", ".png", without(PNG, b"IHDR"), "not in the order"),
    Odd("a PNG without pixels", ".png", without(PNG, b"IDAT"), "not in the order"),
    Odd("a PNG whose header's checksum is wrong", ".png", flipped(PNG, 29), "checksum"),
    Odd("a PNG whose pixels' checksum is wrong", ".png", flipped(PNG, len(PNG) // 2), "checksum"),
    Odd(
        "a PNG with an unknown chunk that must be understood",
        ".png",
        PNG[:33] + chunk(b"ABCD") + PNG[33:],
        "unknown chunk",
    ),
    Odd("a PNG whose chunk claims more than the file", ".png", PNG[:33] + b"\x7f\xff\xff\xffIDAT", "claims"),
    Odd("a PNG with too few rows", ".png", stream(ROW * (HEIGHT - 3)), "PNG"),
    Odd(
        "a PNG whose compressed pixels are damaged",
        ".png",
        png_head(WIDTH, HEIGHT) + chunk(b"IDAT", b"\x78\x9cxx") + chunk(b"IEND"),
        "PNG",
    ),
    Odd("a PNG with an unknown filter", ".png", stream(b"\x09" + bytes(3 * WIDTH) + ROW * (HEIGHT - 1)), "PNG"),
    Odd("a PNG of zero width", ".png", png_of(8, 2, b"", width=0), "0x9"),
    Odd(
        "a PNG of palette colours without a palette",
        ".png",
        png_head(9, 9, 8, 3) + chunk(b"IDAT", zlib.compress(bytes(90))) + chunk(b"IEND"),
        "without a palette",
    ),
    Odd(
        "a PNG of an unknown colour type",
        ".png",
        png_head(9, 9, 8, 5) + chunk(b"IDAT", b"") + chunk(b"IEND"),
        "colour type 5",
    ),
    Odd("a PNG of 3 bits", ".png", png_of(3, 0, b""), "of 3 bits"),
    Odd("a decompression bomb, from its header", ".png", claiming(60000, 60000), "over the limit"),
    Odd("a PNG of the largest size that its header can say", ".png", claiming(2**31 - 1, 2**31 - 1), "over the limit"),
    Odd("a BMP of the most negative height", ".bmp", bmp_of_height(-(2**31)), "over the limit"),
    Odd("a BMP cut off in its header", ".bmp", saved(RGB, "BMP")[:20], "BM"),
    Odd("a BMP cut off in its pixels", ".bmp", saved(RGB, "BMP")[:300], "truncated BMP"),
    Odd("a WebP cut off in its header", ".webp", saved(RGB, "WEBP")[:16], "damaged or truncated WEBP"),
    Odd("a WebP cut off in its pixels", ".webp", saved(RGB, "WEBP", quality=95)[:200], "damaged or truncated WEBP"),
    Odd("a WebP that is animated", ".webp", webp_frames(), "holds 2 images"),
    Odd("an animated PNG", ".png", apng(), "holds 2 images"),
    Odd("a TIFF of two pages", ".tif", tiff_pages(), "holds 2 images"),
    Odd("a TIFF cut off in its pixels", ".tif", TIFF[: len(TIFF) // 2], "TIFF"),
    Odd("a TIFF without a directory", ".tif", b"II*\0\0\0\0\0", "damaged or truncated TIFF"),
    Odd("a TIFF whose directory leads to itself", ".tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0", "truncated TIFF"),
    Odd(
        "a TIFF of floating-point numbers",
        ".tif",
        saved(Image.fromarray(np.zeros(SIZE, np.float32)), "TIFF"),
        "floating-point",
    ),
    Odd("a TIFF whose tags claim all memory", ".tif", claiming_tiff(), "claim"),
)
"""Files that every command rejects."""

ODD = (
    Odd("a progressive JPEG", ".jpg", saved(RGB, "JPEG", progressive=True)),
    Odd("a grey JPEG", ".jpg", saved(RGB[..., 0], "JPEG")),
    Odd("a CMYK JPEG", ".jpg", saved(Image.fromarray(RGB).convert("CMYK"), "JPEG")),
    Odd("a JPEG with bytes behind its end", ".jpg", JPEG + b"\0" * 300 + b"more"),
    Odd("a phone's JPEG with a second image", ".jpg", encoded.two_pictures(SIZE)[0]),
    Odd("a JPEG with a comment of binary bytes", ".jpg", JPEG[:2] + b"\xff\xfe\0\x06\xff\xd9\0\1" + JPEG[2:]),
    Odd("a JPEG with fill bytes between its segments", ".jpg", JPEG[:2] + b"\xff\xff\xff" + JPEG[2:]),
    Odd("a JPEG under the name of a PNG", ".png", JPEG),
    Odd("a PNG under the name of a JPEG", ".jpg", PNG),
    Odd("a suffix in capitals", ".PNG", PNG),
    Odd("a JPEG with restart markers", ".jpg", saved(RGB, "JPEG", restart_marker_blocks=1)),
    Odd("a PNG of 16 bits", ".png", encoded.png(16, 2, SIZE)),
    Odd("a grey PNG of 16 bits", ".png", encoded.png(16, 0, SIZE)),
    Odd("a grey PNG of one bit", ".png", encoded.png(1, 0, SIZE)),
    Odd("a PNG with transparency", ".png", encoded.png(8, 6, SIZE)),
    Odd("a palette PNG", ".png", encoded.palette_png(encoded.noise(*SIZE, 1) % 3, [(1, 2, 3), (4, 5, 6), (7, 8, 9)])),
    Odd("an interlaced PNG", ".png", saved(RGB, "PNG", interlace=True)),
    Odd("a PNG with bytes behind its end", ".png", PNG + b"more"),
    Odd("a PNG with an invalid colour profile", ".png", within(PNG, b"iCCP", b"x\0\0nonsense")),
    Odd("a PNG with damaged EXIF", ".png", within(PNG, b"eXIf", b"II*\0\xff\xff\xff\x7f")),
    Odd("a JPEG with damaged EXIF", ".jpg", encoded.with_exif(JPEG, b"MM\0*\0\0\0\x08\xff\xff")),
    Odd("a BMP", ".bmp", saved(RGB, "BMP")),
    Odd("a BMP whose rows go downwards", ".bmp", bmp_of_height(-HEIGHT)),
    Odd("a lossless WebP", ".webp", saved(RGB, "WEBP", lossless=True)),
    Odd("a TIFF with LZW", ".tiff", saved(RGB, "TIFF", compression="tiff_lzw")),
    Odd("a TIFF with a smaller copy of itself", ".tif", saved(RGB, "TIFF")),
)
"""Files that every command reads."""


FILES = named(BROKEN, "b") | named(ODD, "o")


def all_of_them(world: Path) -> None:
    for name, odd in FILES.items():
        pair(world, f"train/{name}", odd.data, LABEL)


def long(world: Path) -> None:
    """An image of 96x24 pixels."""
    pair(world, "train/long.png", saved(image().repeat(3, axis=1)), images.encode_png(label().repeat(3, axis=1)))


REJECTS = {f"images/train/{name}": odd.says for name, odd in FILES.items() if odd.says}
ROWS = {odd.name: f"reject: {odd.says}" if odd.says else "read" for odd in FILES.values()}
AREA = Area(
    "Raw images",
    model,
    (
        Case(
            "images that are broken or odd",
            "prepare --input @/set --output @/out --max-reject-rate 1",
            status=0,
            make=all_of_them,
            rejects=REJECTS,
            rows=ROWS,
            says=(f"{len(FILES) + 5} records = {len(ODD) + 5} written + {len(BROKEN)} rejected",),
        ),
        Case(
            "the same, to be segmented",
            "segment --input @/set/images --model @/model --output @/out --max-reject-rate 1 --overlays --confidence",
            status=0,
            make=all_of_them,
            rejects=REJECTS,
            done=("out/train/o00.png", "out/overlays/train/o00.jpg", "out/confidence/train/o00.png", "out/val/g3.png"),
        ),
        Case(
            "the same, more of them than --max-reject-rate allows",
            "prepare --input @/set --output @/out",
            status=TROUBLE,
            says=("more than --max-reject-rate 0.01 allows",),
            make=all_of_them,
            rejects=REJECTS,
        ),
        Case(
            "the same, before any work",
            "doctor @/set --output @/out --full",
            status=TROUBLE,
            says=(
                "verdict: ill: `deeplab prepare` would reject a part of it",
                "images/train/b51.webp: the image holds 2",
            ),
            make=all_of_them,
            writes=("out",),
        ),
        Case(
            "an image whose padded copies would be over the limit of pixels",
            "prepare --input @/set --output @/out --copies 1 --pad 60 --max-pixels 3700 --max-reject-rate 1",
            status=0,
            make=long,
            rejects={"long.png": "--pad 60 would make it 96x60: 5,760 pixels, over the limit of 3,700"},
        ),
        Case(
            "not one image that can be read",
            "prepare --input @/set --output @/out",
            status=TROUBLE,
            says=("none of 5 images could be used; no dataset.json was written",),
            make=lambda world: [path.write_bytes(b"") for path in (world / "set/images").rglob("*.png")],
            rejects={f"{name}.png": "the file is empty" for name in ("g0", "g1", "g2", "g3", "g4")},
        ),
    ),
)
