"""Encoded images of every kind, byte by byte where no library writes them, and bytes that are damaged."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""PNG's colour types: grey, RGB, palette, grey and alpha, RGBA."""


def saved(image: Image.Image | np.ndarray, format: str = "PNG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(height: int = 9, width: int = 14, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def exif_block(orientation: int, order: str = ">") -> bytes:
    """EXIF as cameras write it: a maker, the orientation, a resolution and a date."""
    entries = [(0x010F, 2, 6, 62), (0x0112, 3, 1, None), (0x011A, 5, 1, 68), (0x0132, 2, 20, 76)]
    head = {">": b"MM\0*", "<": b"II*\0"}[order] + struct.pack(order + "IH", 8, len(entries))
    for tag, kind, count, value in entries:
        head += struct.pack(order + "HHI", tag, kind, count)
        head += struct.pack(order + "HH", orientation, 0) if value is None else struct.pack(order + "I", value)
    tail = b"Maker\0" + struct.pack(order + "II", 72, 1) + b"2020:01:01 00:00:00\0"
    return head + struct.pack(order + "I", 0) + tail


def with_exif(jpeg: bytes, block: bytes) -> bytes:
    """A JPEG with an EXIF segment in front."""
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + jpeg[2:]


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_head(width: int, height: int, depth: int = 8, colors: int = 2, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colors, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)


def png(
    depth: int = 8,
    colors: int = 2,
    size: tuple[int, int] = (9, 14),
    rows: bytes | None = None,
    stream: bytes | None = None,
    before: Sequence[tuple[bytes, bytes]] = (),
    after: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of noise, unless `rows` (with their filters) or the compressed `stream` are given; `size` is (H, W)."""
    height, width = size
    if rows is None:
        line = -(-width * depth * CHANNELS[colors] // 8)
        rows = b"".join(b"\0" + noise(1, line, 1, seed=y).tobytes() for y in range(height))
    stream = zlib.compress(rows) if stream is None else stream
    parts = [png_head(width, height, depth, colors), *(chunk(*each) for each in before)]
    return b"".join((*parts, chunk(b"IDAT", stream), *(chunk(*each) for each in after), chunk(b"IEND")))


def palette_png(indices: np.ndarray, colors: Sequence[Sequence[int]], alpha: bytes = b"", bits: int = 8) -> bytes:
    """A palette PNG of indices, uint8 [H, W], with exactly these colours."""
    image = Image.fromarray(np.asarray(indices, np.uint8))
    image.putpalette(np.asarray(colors, np.uint8).tobytes())
    return saved(image, bits=bits, **({"transparency": alpha} if alpha else {}))


def optimised(rgb: np.ndarray) -> bytes:
    """RGB, uint8 [H, W, 3], as a PNG optimiser stores it: without loss, in a palette of the colours used."""
    colors, indices = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    return palette_png(indices.reshape(rgb.shape[:2]), colors)


def two_pictures(size: tuple[int, int] = (16, 24)) -> tuple[bytes, bytes]:
    """What phones write: a JPEG with a second, smaller one behind it (MPO), and the first as it stands in there."""
    first, second = Image.fromarray(noise(*size)), Image.fromarray(noise(8, 8, seed=1))
    data = saved(first, "MPO", save_all=True, append_images=[second], quality=90)
    return data, data[: data.index(b"\xff\xd9") + 2]


def tiff_of(
    width: int, depths: tuple[int, ...] = (8,), content: bytes = bytes(64), white_is_zero: bool = False
) -> bytes:
    """A TIFF of one row, of grey or of colours."""
    meaning = 0 if white_is_zero else 1 if len(depths) == 1 else 2
    length = width * sum(depths) // 8
    tags = [(256, 3, 1, width), (257, 3, 1, 1), (258, 3, len(depths), depths[0]), (259, 3, 1, 1), (262, 3, 1, meaning)]
    tags += [(273, 4, 1, 16), (277, 3, 1, len(depths)), (278, 3, 1, 1), (279, 4, 1, length)]
    if len(depths) > 1:  # their depths stand elsewhere
        tags[2] = (258, 3, len(depths), 8)
    head = b"II*\0" + struct.pack("<I", 16 + len(content)) + struct.pack("<4H", *(*depths, 0, 0, 0)[:4])
    return head + content + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + bytes(4)


def mutations(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`data` with bytes changed, cut out, doubled or cut off, the first few hundred bytes most."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(min(len(changed), 300) if rng.random() < 0.6 else len(changed)))
            kind = rng.integers(6)
            if kind < 2:
                changed[place] ^= 1 << int(rng.integers(8))
            elif kind < 4:
                changed[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
            elif kind == 4:
                del changed[place : place + int(rng.integers(1, 20))]
            else:
                changed[place:place] = changed[place : place + int(rng.integers(1, 20))]
            if len(changed) < 2:
                break
        if rng.random() < 0.1 and changed:
            del changed[int(rng.integers(len(changed))) :]
        yield bytes(changed)


def flip_bit_of(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def tiff(
    pixels: np.ndarray,
    order: str = "<",
    packed: bool = False,
    planes: bool = False,
    tile: int = 0,
    meaning: int | None = None,
) -> bytes:
    """A TIFF of any samples, which Pillow cannot write.

    Args:
      pixels: [H, W] or [H, W, samples] of any type; samples beyond 3 have no meaning.
      order: of the bytes; "<" is Intel's, ">" Motorola's.
      packed: whether the samples are deflated.
      planes: whether every sample has a plane of its own.
      tile: the side of tiles, in pixels, a multiple of 16; 0: one strip.
      meaning: the tag PhotometricInterpretation; None: 2 (RGB) of 3 and more samples, else 1 (0 is black).
    """
    pixels = np.atleast_3d(pixels)
    height, width, samples = pixels.shape
    stored = pixels.astype(pixels.dtype.newbyteorder(order))
    blocks = []
    for plane in np.split(stored, samples, axis=2) if planes else [stored]:
        side = tile or max(height, width)
        for y, x in itertools.product(range(0, height, side), range(0, width, side)):
            block = plane[y : y + side, x : x + side]
            missing = [(0, tile - length if tile else 0) for length in block.shape[:2]]
            data = np.pad(block, (*missing, (0, 0))).tobytes()
            blocks.append(zlib.compress(data) if packed else data)
    meaning = meaning if meaning is not None else 2 if samples >= 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags = {256: [width], 257: [height], 258: [8 * pixels.itemsize] * samples, 259: [8 if packed else 1]}
    tags |= {262: [meaning], 277: [samples], 284: [1 + planes], 339: [kind] * samples}
    tags |= {322: [tile], 323: [tile]} if tile else {278: [height]}
    extra = samples - (3 if meaning == 2 else 1)
    tags |= {338: [0] * extra} if extra else {}
    return tiff_file(tags, blocks, order)


def tiff_file(tags: dict[int, list[int]], blocks: list[bytes], order: str) -> bytes:
    """A TIFF of these strips, or tiles if their size is among the tags; all tags are of the type LONG."""
    places, sizes = (324, 325) if 322 in tags else (273, 279)
    tags = tags | {places: [0] * len(blocks), sizes: [len(block) for block in blocks]}
    at = behind = 8 + 2 + 12 * len(tags) + 4
    behind += sum(4 * len(values) for values in tags.values() if len(values) > 1)
    tags[places] = [behind + sum(map(len, blocks[:n])) for n in range(len(blocks))]
    entries, outside = b"", b""
    for tag, values in sorted(tags.items()):
        value = struct.pack(f"{order}{len(values)}I", *values)
        entries += struct.pack(order + "HHI", tag, 4, len(values))
        entries += value if len(values) == 1 else struct.pack(order + "I", at + len(outside))
        outside += value if len(values) > 1 else b""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(tags))
    return head + entries + bytes(4) + outside + b"".join(blocks)


def ycbcr_tiff(ycbcr: np.ndarray, across: int = 2, down: int = 2, order: str = "<", packed: bool = False) -> bytes:
    """A TIFF in YCbCr, in strips of 16 rows, whose chroma are subsampled.

    Args:
      ycbcr: uint8 [H, W, 3]; every `across` x `down` pixels should share their Cb and Cr.
      order, packed: as in `tiff`.
    """
    height, width = ycbcr.shape[:2]
    blocks = []
    for y in range(0, height, 16):
        rows = ycbcr[y : y + 16]
        rows = np.pad(rows, ((0, -rows.shape[0] % down), (0, -width % across), (0, 0)), "edge")
        lumas = rows[..., 0].reshape(rows.shape[0] // down, down, -1, across).swapaxes(1, 2)
        lumas = lumas.reshape(*lumas.shape[:2], down * across)
        data = np.concatenate([lumas, rows[::down, ::across, 1:]], axis=2).tobytes()
        blocks.append(zlib.compress(data) if packed else data)
    tags = {256: [width], 257: [height], 258: [8, 8, 8], 259: [8 if packed else 1], 262: [6], 277: [3], 278: [16]}
    return tiff_file(tags | {530: [across, down]}, blocks, order)


def tiff_of_12_bits(grey: np.ndarray) -> bytes:
    """A TIFF of greys of 12 bits, [H, W] of an even width."""
    first, second = np.uint16(grey).reshape(-1, 2).T
    data = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()
    height, width = grey.shape
    return tiff_file(
        {256: [width], 257: [height], 258: [12], 259: [1], 262: [1], 277: [1], 278: [height]}, [data], "<"
    )


def tiff_of_jpeg(jpeg: bytes, size: tuple[int, int], samples: int = 3, meaning: int = 6) -> bytes:
    """A TIFF with an old-style JPEG, which was withdrawn in 1995 but is still met; `size` is (H, W)."""
    tags = {
        256: [size[1]],
        257: [size[0]],
        258: [8] * samples,
        259: [6],
        262: [meaning],
        277: [samples],
        278: [size[0]],
    }
    return tiff_file(tags, [jpeg], "<")
