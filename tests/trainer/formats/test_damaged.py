"""Whatever the bytes: an image, a label or a record comes of them, or the one error that becomes a reject."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.drawn.encoded import exif_block, mutations, noise, palette_png, png, saved, two_pictures
from trainer.formats import images, pngs
from trainer.formats.codings import to_ids
from trainer.formats.examples import Record, decode, encode
from trainer.formats.frames import CorruptRecord, frame, scan_frames
from trainer.formats.images import Header, ImageError, check, decode_image, header
from trainer.formats.label_images import read_label
from trainer.formats.labels import LabelError
from trainer.formats.options import CODINGS
from trainer.formats.palettes import CAMVID

MAX_PIXELS = 50_000
EXIF = b"Exif\0\0" + exif_block(6)
IDS = noise(9, 14, 1) % 12
FILES = {
    "jpeg": saved(noise(), "JPEG", exif=EXIF, icc_profile=bytes(40), comment=b"none"),
    "progressive": saved(noise(), "JPEG", progressive=True),
    "two pictures": two_pictures()[0],
    "png": saved(noise(), exif=EXIF, icc_profile=bytes(40)),
    "palette png": palette_png(IDS, CAMVID.colormap()),
    "grey png": png(4, 0),
    "animated png": saved(noise(), save_all=True, append_images=[Image.fromarray(noise(seed=1))]),
    "webp": saved(noise(), "WEBP", exif=EXIF, lossless=True),
    "lossy webp": saved(noise(), "WEBP"),
    "tiff": saved(noise(), "TIFF", tiffinfo={0x0112: 6}),
    "compressed tiff": saved(IDS, "TIFF", compression="tiff_lzw"),
    "palette tiff": saved(Image.fromarray(IDS).convert("P"), "TIFF", compression="tiff_adobe_deflate"),
    "jpeg in tiff": saved(noise(), "TIFF", compression="jpeg"),
    "bmp": saved(noise(), "BMP"),
    "palette bmp": saved(Image.fromarray(IDS).convert("P"), "BMP"),
}


def check_decoders(data: bytes) -> int:
    """How many of the ways to read it took the data; an error besides their own ends the test."""
    read = 0
    for attempt in (
        lambda: header(data, MAX_PIXELS),
        lambda: decode_image(data, MAX_PIXELS),
        lambda: read_label(data, MAX_PIXELS),
        *(lambda coding=coding: to_ids(read_label(data, MAX_PIXELS), CAMVID, coding) for coding in CODINGS),
    ):
        try:
            attempt()
            read += 1
        except (ImageError, LabelError) as error:
            assert str(error)
    assert header_or_error(check, data) == header_or_error(lambda *given: images.decode(*given)[0], data)
    return read


def header_or_error(function, data: bytes) -> Header | str:
    try:
        return function(data, MAX_PIXELS)
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_images_or_refused(data):
    assert check_decoders(data) > 1 or data[:2] == b"\x89P"
    for damaged in mutations(data, 60):
        check_decoders(damaged)


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_truncated_files_are_refused_by_name(data):
    for end in {1, 2, 8, 12, 30, len(data) // 3, len(data) // 2}:
        with pytest.raises(ImageError):
            decode_image(data[:end])


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_a_file_that_ends_in_its_header_is_called_by_its_format(data):
    found = header(data).format.upper()
    for end in (12, 14, 20):
        with pytest.raises(ImageError, match=rf"^damaged (or truncated )?{found}"):
            header(data[:end])


def test_what_an_image_library_raises_becomes_an_image_error_but_for_memory(monkeypatch):
    def fails(error):
        def load(self):
            raise error

        return load

    for error in (
        KeyError(),
        TypeError(),
        RecursionError("deep"),
        OverflowError(),
        EOFError(),
        ZeroDivisionError(),
    ):
        monkeypatch.setattr(ImageFile.ImageFile, "load", fails(error))
        with pytest.raises(ImageError, match=r"damaged or truncated BMP: \w"):
            decode_image(FILES["bmp"])
    for error in (MemoryError(), KeyboardInterrupt()):
        monkeypatch.setattr(ImageFile.ImageFile, "load", fails(error))
        with pytest.raises(type(error)):
            decode_image(FILES["bmp"])


def test_running_out_of_memory_in_opencv_is_a_memory_error(monkeypatch):
    def imdecode(*_):
        error = cv2.error("no memory")
        error.code, error.err = cv2.Error.StsNoMem, "Failed to allocate"
        raise error

    monkeypatch.setattr(pngs.cv2, "imdecode", imdecode)
    with pytest.raises(MemoryError):
        decode_image(FILES["png"])


@pytest.mark.parametrize(
    "data",
    [
        FILES["animated png"],
        saved(noise(), "WEBP", save_all=True, append_images=[Image.fromarray(noise(seed=1))]),
        saved(noise(), "TIFF", save_all=True, append_images=[Image.fromarray(noise(seed=1))]),
    ],
    ids=["png", "webp", "tiff"],
)
def test_animations_and_pages_are_refused(data):
    with pytest.raises(ImageError, match=r"holds 2 images .* expected one"):
        decode_image(data)


def test_smaller_copies_of_the_same_image_in_a_tiff_do_not_count():
    frames = [Image.fromarray(noise()), Image.fromarray(noise(4, 7, seed=1))]
    frames[1].encoderinfo = {"tiffinfo": {254: 1}}
    buffer = io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), noise())


def test_images_of_floats_are_refused_rather_than_made_black():
    with pytest.raises(ImageError, match="floating-point"):
        decode_image(saved(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"))


RECORD = encode(Record("a", "a.png", FILES["png"], "png", 9, 14, 3, FILES["palette png"], 0))


def test_damaged_records_are_records_or_refused():
    for damaged in mutations(RECORD, 300):
        try:
            decode(damaged)
        except ValueError as error:
            assert str(error)


def test_damaged_shards_give_records_and_faults():
    shard = frame(RECORD) + frame(b"") + frame(RECORD)
    assert [type(item).__name__ for item in scan_frames(io.BytesIO(shard))] == ["Frame"] * 3
    for damaged in mutations(shard, 300):
        found = list(scan_frames(io.BytesIO(damaged)))
        assert damaged == shard or len(found) != 3 or any(isinstance(item, CorruptRecord) for item in found)
