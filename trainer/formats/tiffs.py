"""Which TIFFs Pillow decodes rightly; it reads some of the others as noise, without an error.

Scanners, microscopes and satellites write TIFFs of any number of samples, bits and planes, of either byte order.
"""

from __future__ import annotations

import io
import sys

from PIL import Image, TiffImagePlugin

from trainer.formats.containers import ImageError

_BITS, _COMPRESSION, _MEANING, _SAMPLES, _PLANES, _FORMAT = 258, 259, 262, 277, 284, 339
_WIDTH, _HEIGHT, _PLACES, _SIZES, _JPEG = 256, 257, (273, 324), (279, 325), (513, 514)
_FILL_ORDER = 266
_SIGNED, _YCBCR, _OLD_JPEG = 2, 6, 6
_CHROMA, _CHROMA_READ = 530, ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2))
_KINDS = {_SIGNED: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_COLORS = {3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "filter array"}
_COLORS |= {32844: "LogL", 32845: "LogLuv", 34892: "linear raw"}
_PLAIN = (0, 1, 2)
"""Meanings of samples that converters keep as they are: greys and RGB."""
_CODINGS = {6: "old-style JPEG", 34661: "JBIG", 34712: "JPEG 2000", 34887: "LERC", 50001: "WebP", 50002: "JPEG XL"}
_COMMON = (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 50000)
"""Codings that Pillow decodes wherever it is installed from a wheel."""
BIG_MOTOROLA = b"MM\0+"
"""The beginning of a BigTIFF in Motorola's byte order, whose tags Pillow 12.3 reads as those of a classic TIFF."""


def check(image: Image.Image) -> None:
    """Raises ImageError for an opened TIFF whose pixels Pillow would decode to wrong values.

    In Pillow 12.3 those are samples of more than 8 bits in separate planes without compression, whose bytes it takes
    for samples; signed ones in Motorola's byte order with compression, whose bytes it swaps; those of more than 8 bits
    in which 0 is white, which it does not invert; chroma of 4x4 pixels, which its libtiff 4.7.1 misplaces at the
    edges; and old-style JPEGs, whose missing pixels it fills, and whose colours it takes for YCbCr.
    """
    tags = image.tag_v2
    if tags.get(_COMPRESSION) == _OLD_JPEG:
        _check_old_jpeg(image)
    elif _is_ycbcr(tags) and _all(tags, _CHROMA, (2, 2)) not in _CHROMA_READ:
        raise _unreliable(tags)
    if max(_all(tags, _BITS)) <= 8:
        return
    is_compressed = tags.get(_COMPRESSION, 1) != 1
    is_swapped = tags.prefix == b"MM" and is_compressed and _SIGNED in _all(tags, _FORMAT)
    if is_swapped or (_in_planes(tags) and not is_compressed) or tags.get(_MEANING) == 0:
        raise _unreliable(tags)


def check_sign(image: Image.Image) -> None:
    """Raises ImageError for a loaded TIFF with negative samples of 8 bits, which Pillow takes for 128 to 255."""
    tags = image.tag_v2
    if image.mode == "L" and _SIGNED in _all(tags, _FORMAT) and image.getextrema()[1] > 127:
        raise _unreliable(tags)


def _check_old_jpeg(image: Image.Image) -> None:
    tags = image.tag_v2
    if tags.get(_MEANING) not in (1, _YCBCR):
        raise _unreliable(tags)
    size = len(image.fp.getbuffer())
    for places, sizes in (*zip(_PLACES, _SIZES, strict=True), _JPEG):
        ends = (place + length for place, length in zip(_all(tags, places), _all(tags, sizes), strict=False))
        if places in tags and sizes in tags and max(ends, default=0) > size:
            raise ImageError("damaged or truncated TIFF: its JPEG ends after the file")


def _unreliable(tags: TiffImagePlugin.ImageFileDirectory_v2) -> ImageError:
    return ImageError(f"{described(tags)}, which cannot be decoded reliably; {_cure(tags)}")


def use_libtiff(image: Image.Image) -> None:
    """Lets libtiff decode an opened TIFF without compression that Pillow would not decode rightly.

    That is one in YCbCr, whose samples it takes for four a pixel, or of palette indices whose bits are in reverse.
    """
    tags = image.tag_v2
    if tags.get(_COMPRESSION, 1) != 1:
        return
    bits = depth(image)
    is_reversed = image.mode == "P" and tags.get(_FILL_ORDER) == 2
    raw = "RGBX" if _is_ycbcr(tags) else "P" if bits == 8 else f"P;{bits}"
    if _is_ycbcr(tags) or is_reversed:
        image.use_load_libtiff = True
        image.tile = [("libtiff", (0, 0, *image.size), 0, (raw, "raw", False, tags.offset))]


_OTHER_BYTES = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def use_low_bytes(image: Image.Image) -> None:
    """Lets Pillow decode the lower bytes of an opened TIFF's colours of 16 bits, by taking them in the other order."""
    image.tile = [
        tile._replace(args=(tile.args[0][:-1] + _OTHER_BYTES[tile.args[0][-1]], *tile.args[1:])) for tile in image.tile
    ]


def check_bright(image: Image.Image) -> None:
    """Raises ImageError for a loaded TIFF in separate planes, of 16 bits, without a value over 255: all is black."""
    if max(high for _, high in image.getextrema()[:3]) == 0:
        raise ImageError(
            f"{described(image.tag_v2)}, without a value over 255, of which only the upper bytes are read; "
            f"{_cure(image.tag_v2)}"
        )


def in_planes(image: Image.Image) -> bool:
    return _in_planes(image.tag_v2)


def depth(image: Image.Image) -> int:
    """The bits of a sample of an opened TIFF; of different ones, the most."""
    return max(_all(image.tag_v2, _BITS))


def hint(image: Image.Image) -> str:
    """What to add to an error of decoding a TIFF in separate planes or of a rare compression; "" for others."""
    tags = image.tag_v2
    is_common = tags.get(_COMPRESSION, 1) in _COMMON and not _in_planes(tags)
    return "" if is_common else f"; {described(tags)}; {_cure(tags)}"


def unsupported(data: bytes) -> str:
    """Why a TIFF that Pillow does not recognise cannot be read, if its tags look sound; "" if they do not."""
    if data[:4] == BIG_MOTOROLA:
        what = "is a BigTIFF in Motorola's byte order, which is not read"
        return f"{what}; save it as PNG, or convert it by gdal_translate -co INTERLEAVE=PIXEL"
    file = io.BytesIO(data)
    head = file.read(16 if data[2:4] == b"+\0" else 8)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
        has_size = all(isinstance(tags.get(tag), int) for tag in (_WIDTH, _HEIGHT))
        is_sound = has_size and any(tag in tags for tag in _PLACES)
        return f"{described(tags)}, which is not read; {_cure(tags)}" if is_sound else ""
    except Exception:  # Pillow raises errors of every kind for damaged tags
        return ""


def described(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str:
    """ "is a TIFF of 4 samples of 16 bits, in separate planes": what samples a TIFF has, human-readable."""
    samples = tags.get(_SAMPLES, 1)
    bits = " and ".join(map(str, sorted(set(_all(tags, _BITS)))))
    words = [_KINDS[kind] for kind in sorted(set(_all(tags, _FORMAT))) if kind in _KINDS]
    what = " ".join((*words, f"sample{'s' * (samples != 1)} of {bits} bits"))
    white = ", in which 0 is white" if tags.get(_MEANING) == 0 else ""
    colors = f", in {_COLORS[tags[_MEANING]]} colours" if tags.get(_MEANING) in _COLORS else ""
    if _is_ycbcr(tags):
        colors += " with chroma of {}x{} pixels".format(*_all(tags, _CHROMA, (2, 2)))
    coding = tags.get(_COMPRESSION, 1)
    coded = "" if coding in _COMMON else f", compressed as {_CODINGS.get(coding, f'number {coding} of codings')}"
    planes = ", in separate planes" if _in_planes(tags) else ""
    order = ", in Motorola's byte order" if tags.prefix == b"MM" else ""
    return f"is a TIFF of {samples} {what}{colors}{white}{planes}{order}{coded}"


def _cure(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str:
    """What is expected instead, and how to get it without changing more values than necessary, as labels need it."""
    samples, kinds = tags.get(_SAMPLES, 1), _all(tags, _FORMAT)
    if tags.get(_MEANING, 1) not in _PLAIN:
        return "expected greys, RGB, CMYK, or a palette of 8 bits; save it as PNG"
    flags = ["-b 1 -b 2 -b 3"] if samples > 4 else ["-b 1"] if samples == 2 else []
    if kinds != (1,) * len(kinds) or max(_all(tags, _BITS)) > 16:
        flags.append("-ot UInt16 -scale" if 3 in kinds else "-ot UInt16")
    command = " ".join(("gdal_translate", *flags, "-co INTERLEAVE=PIXEL"))
    expected = "expected 1, 3 or 4 interleaved samples of 8 or 16 bits without sign"
    if tags.get(_COMPRESSION, 1) not in _COMMON:
        expected = "expected no compression, or LZW, deflate or JPEG"
    return f"{expected}; save it as PNG, or convert it by {command}"


def _in_planes(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    return tags.get(_PLANES, 1) == 2 and tags.get(_SAMPLES, 1) > 1


def _is_ycbcr(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    """Whether a TIFF is in YCbCr, and not as a JPEG, which has a subsampling of its own."""
    return tags.get(_MEANING) == _YCBCR and tags.get(_COMPRESSION, 1) not in (_OLD_JPEG, 7)


def _all(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, default: object = 1) -> tuple[int, ...]:
    """All values of a tag; of most of the tags in question there is one for every sample, 1 by default."""
    values = tags.get(tag, default)
    return values if isinstance(values, tuple) else (values,)
