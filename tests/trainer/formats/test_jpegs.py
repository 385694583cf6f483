"""JPEGs whose coded pixels end before the end marker are refused, whatever their colours and coding."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from tests.drawn.encoded import noise, saved
from trainer.formats.containers import jpeg_pixels
from trainer.formats.images import ImageError, check, decode_image, jpeg_complaint

END = b"\xff\xd9"
RESTARTS = {"restart_marker_rows": 1}
CODINGS = [{}, RESTARTS, {"progressive": True}, {"progressive": True, **RESTARTS}]


def smooth(height: int = 100, width: int = 151) -> np.ndarray:
    ramp = np.add.outer(np.arange(height), np.arange(width))
    return np.uint8(np.stack([ramp // 2, ramp // 3 + 50, 255 - ramp // 2], axis=-1))


def jpeg(pixels: np.ndarray, mode: str, **options) -> bytes:
    return saved(Image.fromarray(pixels).convert(mode), "JPEG", **options)


def restarts(data: bytes) -> list[int]:
    return [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", data)]


def is_refused(data: bytes) -> None:
    for decoder in (decode_image, check):
        with pytest.raises(ImageError, match="damaged or truncated JPEG: pixels are missing before its end marker"):
            decoder(data)


@pytest.mark.parametrize("pixels", [smooth(), noise(100, 151)], ids=["smooth", "noise"])
@pytest.mark.parametrize("options", CODINGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_with_an_end_marker_behind_its_missing_pixels_is_refused(mode, options, pixels):
    data = jpeg(pixels, mode, **options)
    scan = data.rfind(b"\xff\xda")
    begin = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    coded = len(data) - 2 - begin
    for left in {0, coded // 3, max(0, coded - 20), coded - 1}:
        is_refused(data[: begin + left] + END)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_is_cut_at_a_restart_marker_is_refused(mode):
    data = jpeg(noise(160, 33), mode, **RESTARTS)
    places = restarts(data)
    for place in places:
        is_refused(data[:place] + END)
        is_refused(data[: place + 2] + END)
        is_refused(data[:place] + b"\0\0\0" + END)
    is_refused(data[: places[2]] + data[places[3] :])


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("options", CODINGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_whole_jpegs_are_read_also_with_bytes_before_their_end(mode, options, subsampling):
    for size in ((1, 1), (7, 9), (33, 70)):
        for pixels in (smooth(*size), noise(*size), np.full((*size, 3), 128, np.uint8)):
            data = jpeg(pixels, mode, **options, subsampling=-1 if mode == "L" else subsampling)
            expected = decode_image(data)
            for extra in (b"", b"\0\0\0", b"\xff\xd3", bytes(100)):
                np.testing.assert_array_equal(decode_image(data[:-2] + extra + END), expected)


def test_a_complaint_names_what_libjpeg_turbo_finds_first():
    data = jpeg_pixels(jpeg(smooth(), "CMYK"))
    assert jpeg_complaint(data, "CMYK") == ""
    assert jpeg_complaint(data[:-22] + END, "CMYK") == "Corrupt JPEG data: premature end of data segment"


def test_a_jpeg_of_more_scans_than_encoders_write_is_refused():
    """Each takes a few bytes, but the time of all pixels."""
    data = jpeg(smooth(), "RGB", progressive=True)
    last = data.rindex(b"\xff\xda")
    for count, decoder in ((100, decode_image), (10_000, decode_image), (100, check)):
        with pytest.raises(ImageError, match="is a JPEG of over 100 scans, which take long to decode; save it again"):
            decoder(data[:-2] + data[last:-2] * count + END)
    assert decode_image(data).shape == smooth().shape
