"""Small files that claim much: refused, or read, in little more memory than they have bytes."""

from __future__ import annotations

import struct
import zlib

import pytest

from tests.drawn.encoded import chunk, exif_block, noise, png, png_head, saved
from trainer.formats.images import ImageError, decode_image, header
from trainer.formats.label_images import read_label

MAX_PIXELS = 10_000_000
MAX_GROWTH = 10 << 20


def wide_png() -> bytes:
    """Within the default bound: 75 MB of pixels in 75 kB."""
    side = 5000
    packer = zlib.compressobj(1)
    stream = b"".join(packer.compress(bytes(3 * side + 1)) for _ in range(side)) + packer.flush()
    return png_head(side, side) + chunk(b"IDAT", stream) + chunk(b"IEND")


def wide_webp() -> bytes:
    """The canvas of 13000x13000 pixels that Pillow would set aside twice."""
    data = bytearray(saved(noise(), "WEBP", exif=exif_block(1), lossless=True))
    begin = data.index(b"VP8X") + 12
    data[begin : begin + 6] = (12_999).to_bytes(3, "little") * 2
    return bytes(data)


def tiff(*tags: tuple[int, int, int, int], content: bytes = bytes(64)) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + struct.pack("<H", len(tags)) + entries + bytes(4)


def many_tags() -> bytes:
    """4000 tags whose values all are the same megabyte."""
    size = (256, 3, 1, 10), (257, 3, 1, 10)
    return tiff(*size, *((1000 + tag, 1, 1 << 20, 8) for tag in range(4000)), content=bytes(1 << 20))


def overlapping_directories() -> bytes:
    """A chain of 8000 directories of a BigTIFF, each of which has almost all of the file for its entries."""
    step, pages = 24, 8000
    entries = (24 + step * pages + 40) // 20
    while (8 + 20 * entries) % step not in (8, 12, 16):  # so that no link lies on a count
        entries += 1
    data = bytearray(2 * step * pages + 1000)
    data[:16] = b"II+\0" + struct.pack("<HHQ", 8, 0, 24)
    for page in range(pages):
        at = 24 + step * page
        struct.pack_into("<Q", data, at, entries)
        struct.pack_into("<Q", data, at + 8 + 20 * entries, at + step if page < pages - 1 else 0)
    return bytes(data)


def many_directories() -> bytes:
    """A chain of 100,000 directories with an entry each."""
    ends = range(26, 26 + 18 * 100_000, 18)
    return b"II*\0" + struct.pack("<I", 8) + b"".join(struct.pack("<HHHIII", 1, 256, 3, 1, 9, end) for end in ends)


def wide_tile() -> bytes:
    size = ((256, 3, 1, 32), (257, 3, 1, 32), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1))
    return tiff(*size, (322, 4, 1, 40_000), (323, 4, 1, 40_000), (324, 4, 1, 8), (325, 4, 1, 64))


def jpeg_of_tags(marker: bytes, name: bytes) -> bytes:
    """5000 tags in a segment of a JPEG, the value of each the whole segment."""
    tags = b"".join(struct.pack(">HHII", 0xB000 + tag, 7, 60_000, 8) for tag in range(5000))
    segment = name + b"MM\0*" + struct.pack(">IH", 8, 5000) + tags + bytes(4)
    data = saved(noise(), "JPEG")
    return data[:2] + marker + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def wide_jpeg() -> bytes:
    data = bytearray(saved(noise(), "JPEG"))
    begin = data.index(b"\xff\xc0") + 5
    data[begin : begin + 4] = b"\xff" * 4
    return bytes(data)


BOMBS = {
    "png": wide_png,
    "png, two thousand million wide": lambda: png_head(2**31 - 1, 2**31 - 1) + png()[33:],
    "png, endless rows": lambda: png(8, 0, stream=zlib.compress(bytes(300 << 20))),
    "png, profile": lambda: png(before=[(b"iCCP", b"k\0\0" + zlib.compress(bytes(20 << 20)))]),
    "png, texts": lambda: png(before=[(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20)))] * 60),
    "png, chunks": lambda: png(before=[(b"tEXt", b"")] * 1_000_000),
    "webp": wide_webp,
    "jpeg": wide_jpeg,
    "jpeg, exif": lambda: jpeg_of_tags(b"\xff\xe1", b"Exif\0\0"),
    "jpeg, further images": lambda: jpeg_of_tags(b"\xff\xe2", b"MPF\0"),
    "tiff": lambda: tiff((256, 3, 1, 16_000), (257, 3, 1, 11_000), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8)),
    "tiff, tags": many_tags,
    "tiff, tile": wide_tile,
    "tiff, directories that overlap": overlapping_directories,
    "tiff, directories": many_directories,
    "bmp": lambda: b"BM" + struct.pack("<IHHIIiiHH", 100, 0, 0, 54, 40, 60_000, 60_000, 1, 24) + bytes(74),
}


@pytest.fixture(scope="module")
def warm():
    """Decoders load what they need at their first image."""
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        decode_image(saved(noise(), format))


def memory(entry: str) -> int:
    """Bytes of this process, now ("VmRSS") or at most ("VmHWM")."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(entry))


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_costs_no_memory(bomb, warm):
    data = bomb()
    try:
        with open("/proc/self/clear_refs", "w") as reset:
            reset.write("5")
    except OSError:
        pytest.skip("this system does not reset the peak of a process's memory")
    before = memory("VmRSS")
    for read in (header, lambda data: decode_image(data, MAX_PIXELS), lambda data: read_label(data, MAX_PIXELS)):
        try:
            read(data)
        except ImageError as error:
            assert len(str(error)) < 300
    assert memory("VmHWM") - before < MAX_GROWTH + 2 * len(data)
