"""Which TIFFs Pillow decodes rightly; it reads some of the others as noise, without an error.

Scanners, microscopes and satellites write TIFFs of any number of samples, bits and planes, of either byte order.
"""

from __future__ import annotations

import io

from PIL import Image, TiffImagePlugin

from trainer.formats.containers import ImageError

_BITS, _COMPRESSION, _MEANING, _SAMPLES, _PLANES, _FORMAT = 258, 259, 262, 277, 284, 339
_WIDTH, _HEIGHT, _PLACES = 256, 257, (273, 324)
_SIGNED = 2
_KINDS = {_SIGNED: "signed", 3: "floating-point", 5: "complex", 6: "complex"}


def check(image: Image.Image) -> None:
    """Raises ImageError for an opened TIFF whose pixels Pillow would decode to wrong values.

    In Pillow 12.3 those are samples of more than 8 bits in separate planes without compression, whose bytes it takes
    for samples; signed ones in Motorola's byte order with compression, whose bytes it swaps; and those of more than 8
    bits in which 0 is white, which it does not invert.
    """
    tags = image.tag_v2
    if max(_all(tags, _BITS)) <= 8:
        return
    is_compressed = tags.get(_COMPRESSION, 1) != 1
    is_swapped = tags.prefix == b"MM" and is_compressed and _SIGNED in _all(tags, _FORMAT)
    if is_swapped or (_in_planes(tags) and not is_compressed) or tags.get(_MEANING) == 0:
        raise ImageError(f"{described(tags)}, which cannot be decoded reliably; {_cure(tags)}")


def planes(image: Image.Image) -> str:
    """What to add to an error of decoding a TIFF whose samples are in separate planes; "" for others."""
    tags = image.tag_v2
    return f"; {described(tags)}; {_cure(tags)}" if _in_planes(tags) else ""


def unsupported(data: bytes) -> str:
    """Why a TIFF that Pillow does not recognise cannot be read, if its tags look sound; "" if they do not."""
    file = io.BytesIO(data)
    head = file.read(16 if data[2:4] in (b"+\0", b"\0+") else 8)
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
    planes = ", in separate planes" if _in_planes(tags) else ""
    order = ", in Motorola's byte order" if tags.prefix == b"MM" else ""
    return f"is a TIFF of {samples} {what}{white}{planes}{order}"


def _cure(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str:
    """What is expected instead, and how to get it without changing more values than necessary, as labels need it."""
    samples, kinds = tags.get(_SAMPLES, 1), _all(tags, _FORMAT)
    flags = ["-b 1 -b 2 -b 3"] if samples > 4 else ["-b 1"] if samples == 2 else []
    if kinds != (1,) * len(kinds) or max(_all(tags, _BITS)) > 16:
        flags.append("-ot UInt16 -scale" if 3 in kinds else "-ot UInt16")
    command = " ".join(("gdal_translate", *flags, "-co INTERLEAVE=PIXEL"))
    expected = "expected 1, 3 or 4 interleaved samples of 8 or 16 bits without sign"
    return f"{expected}; save it as PNG, or convert it by {command}"


def _in_planes(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    return tags.get(_PLANES, 1) == 2 and tags.get(_SAMPLES, 1) > 1


def _all(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int) -> tuple[int, ...]:
    """The values of a tag, one for every sample; the default of all the tags in question is 1."""
    values = tags.get(tag, 1)
    return values if isinstance(values, tuple) else (values,)
