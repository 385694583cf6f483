"""One record: which bytes it keeps, that the trainer decodes the same pixels, and that image and label match."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.entries.options import RecordOptions
from pipelines.entries.record import Entry, Unusable, load, make_record
from tests.drawn.encoded import (
    chunk,
    exif_block,
    mutations,
    noise,
    palette_png,
    png,
    png_head,
    saved,
    two_pictures,
    with_exif,
)
from trainer.formats import images, label_images
from trainer.formats.examples import Record
from trainer.formats.labels import Palette
from trainer.train import crops

PALETTE = Palette("mine", ("a", "b", "c"), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
OPTIONS = RecordOptions()


def made(folder: Path, image: bytes, label: bytes | None = None, **options) -> Record:
    """The record of an image; its label is of class 1 where none is given."""
    if label is None:
        label = saved(np.ones(images.header(image).upright_size, np.uint8))
    (folder / "image").write_bytes(image)
    (folder / "label").write_bytes(label)
    entry = Entry(key="a", filename="a", image=str(folder / "image"), label=str(folder / "label"), copy=0)
    given = PALETTE, dataclasses.replace(OPTIONS, **options)
    return make_record(entry, load([entry], *given), *given)[0]


def decoded_by_the_trainer(record: Record) -> np.ndarray:
    return crops.decode_image(record.image)


def jpeg(channels: int = 3, size: tuple[int, int] = (40, 56), **options) -> bytes:
    smooth = np.add.outer(np.arange(size[0]) * 3, np.arange(size[1]) * 2).astype(np.uint8)
    image = Image.fromarray(np.dstack([smooth, 255 - smooth, smooth // 2]))
    return saved(image.convert({1: "L", 3: "RGB", 4: "CMYK"}[channels]), "JPEG", **options)


KEPT = {
    "jpeg": jpeg(),
    "grey jpeg": jpeg(1),
    "progressive": jpeg(progressive=True),
    "4:4:4": jpeg(subsampling=0),
    "4:2:2": jpeg(subsampling=1),
    "rgb jpeg": jpeg(keep_rgb=True),
    "restarts": jpeg(restart_marker_blocks=2),
    "profiles": jpeg(icc_profile=b"none", comment=b"none", exif=b"Exif\0\0none"),
    "png": png(),
    "grey png": png(colors=0),
    "gamma": png(before=[(b"gAMA", (180000).to_bytes(4, "big")), (b"cHRM", bytes(32))]),
    "colour key": png(before=[(b"tRNS", b"\0\1\0\2\0\3")]),
    "interlaced": png_head(4, 4, interlace=1) + chunk(b"IDAT", zlib.compress(bytes(4 + 3 * 16 + 4))) + chunk(b"IEND"),
}
ENCODED = {
    "cmyk": jpeg(4),
    "turned jpeg": with_exif(jpeg(), exif_block(6)),
    "arithmetic": jpeg().replace(b"\xff\xc0", b"\xff\xc9", 1),
    "2 bits": png(depth=2, colors=0),
    "16 bits": png(depth=16),
    "16 bits grey": png(depth=16, colors=0),
    "1 bit": png(depth=1, colors=0),
    "rgba": png(colors=6),
    "grey and alpha": png(colors=4),
    "palette": palette_png(noise(5, 6, 1), noise(256, 3, 1)),
    "turned png": png(before=[(b"eXIf", exif_block(5))]),
    "webp": saved(noise(), "WEBP", lossless=True),
    "tiff": saved(noise(), "TIFF"),
    "bmp": saved(noise(), "BMP"),
}


@pytest.mark.parametrize("data", KEPT.values(), ids=KEPT)
def test_an_image_that_every_reader_decodes_alike_keeps_its_bytes(tmp_path, data):
    record = made(tmp_path, data)
    assert record.image == data
    np.testing.assert_array_equal(decoded_by_the_trainer(record), images.decode_image(data))


@pytest.mark.parametrize("data", [jpeg(), jpeg(1), png(), png(colors=0)])
def test_pixels_that_no_record_needs_are_not_decoded(tmp_path, data, monkeypatch):
    (tmp_path / "image").write_bytes(data)
    (tmp_path / "label").write_bytes(saved(np.ones(images.header(data).upright_size, np.uint8)))
    entry = Entry("a", "a", str(tmp_path / "image"), str(tmp_path / "label"), copy=0)
    whole, small = images.decode_image(data), RecordOptions(max_side=2)
    for entries in ([entry, entry._replace(copy=1)], [entry._replace(tile="r0c0of1x2")]):
        np.testing.assert_array_equal(load(entries, PALETTE, OPTIONS).image, whole)
    np.testing.assert_array_equal(load([entry], PALETTE, small).image, images.shrink(whole, 2))
    monkeypatch.setattr(images, "decode", None)
    assert load([entry], PALETTE, OPTIONS).image is None


def test_a_tile_of_an_image_that_was_replaced_by_a_smaller_one_is_refused(tmp_path):
    for name, pixels in (("image", noise(2, 9)), ("label", np.ones((2, 9), np.uint8))):
        (tmp_path / name).write_bytes(saved(pixels))
    entry = Entry("a", "a", str(tmp_path / "image"), str(tmp_path / "label"), 0, "r0c0of3x3")
    source = load([entry], PALETTE, OPTIONS)
    with pytest.raises(Unusable, match="was replaced by a smaller image after its tiles were planned"):
        make_record(entry, source, PALETTE, OPTIONS)
    record, _ = make_record(entry._replace(tile="r2c2of3x3"), source, PALETTE, OPTIONS)
    assert (record.key, record.height, record.width) == ("a@r2c2of3x3", 1, 3)


@pytest.mark.parametrize("data", ENCODED.values(), ids=ENCODED)
def test_other_images_are_encoded_from_their_pixels(tmp_path, data):
    record = made(tmp_path, data, image_format="png")
    assert record.image_format == "png" and record.image != data
    np.testing.assert_array_equal(decoded_by_the_trainer(record), images.decode_image(data))


def test_a_phones_jpeg_with_a_second_picture_keeps_the_bytes_of_the_first(tmp_path):
    data, first = two_pictures()
    record = made(tmp_path, data)
    assert (record.image_format, record.image) == ("jpeg", first)
    np.testing.assert_array_equal(decoded_by_the_trainer(record), images.decode_image(data))
    np.testing.assert_array_equal(images.decode_image(first), images.decode_image(data))


@pytest.mark.parametrize("data", [jpeg(), jpeg(progressive=True), jpeg(restart_marker_blocks=1), png()])
def test_bytes_after_the_end_of_an_image_are_dropped(tmp_path, data):
    video = b"\0\0\0\x18ftypmp42" + bytes(300) + b"\xff\xd8\xff"
    assert made(tmp_path, data + video).image == data


def outcome(folder: Path, damaged: bytes) -> str:
    """Makes a record of damaged bytes; what it keeps of them must be to the trainer what it is to us."""
    try:
        size = images.header(damaged, 100_000).upright_size
        record = made(folder, damaged, saved(np.ones(size, np.uint8)), max_pixels=100_000)
    except (Unusable, images.ImageError):
        return "refused"
    if record.image == damaged[: len(record.image)]:
        difference = np.abs(decoded_by_the_trainer(record) - images.decode_image(damaged).astype(int)).max()
        # A progressive image that lacks some of its scans is smoothed, differently from one version to the next.
        assert difference <= (2 if b"\xff\xc2" in damaged else 0)
    return "made"


@pytest.mark.parametrize(
    "data", [jpeg(), jpeg(progressive=True), jpeg(1), jpeg(restart_marker_blocks=2), png(), png(colors=0)]
)
def test_what_becomes_a_record_the_trainer_decodes_to_the_same_pixels(tmp_path, data):
    outcomes = [outcome(tmp_path, damaged) for damaged in mutations(data, 150)]
    assert outcomes.count("refused") > 20


def test_a_jpeg_of_which_bytes_are_missing_in_the_middle_is_to_the_trainer_what_it_is_to_us(tmp_path):
    data = saved(noise(64, 48), "JPEG")
    begin = data.index(b"\xff\xda")
    cut = [data[:place] + data[place + 7 :] for place in range(begin, len(data) - 7, 11)]
    assert {outcome(tmp_path, damaged) for damaged in cut} == {"made", "refused"}
    assert outcome(tmp_path, data[:2] + data) == "refused"


LABEL = np.arange(32, dtype=np.uint8).reshape(4, 8) % 3
IMAGE = np.repeat(LABEL[..., None] * 80, 3, axis=2).astype(np.uint8)


def pair(
    orientation: int, label_orientation: int, label: np.ndarray, image: np.ndarray = IMAGE
) -> tuple[bytes, bytes]:
    image_png, label_png = saved(image), saved(label)
    head = slice(33), slice(33, None)

    def with_orientation(data: bytes, value: int) -> bytes:
        return data if value == 1 else data[head[0]] + chunk(b"eXIf", exif_block(value)) + data[head[1]]

    return with_orientation(image_png, orientation), with_orientation(label_png, label_orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(4, 8), (6, 6)], ids=["wide", "square"])
def test_label_and_image_lie_on_each_other_whichever_way_the_camera_was_held(tmp_path, orientation, shape):
    label = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape) % 3
    image = np.repeat(label[..., None] * 80, 3, axis=2).astype(np.uint8)
    upright = images.upright(label, orientation)
    for stored, label_orientation in ((label, orientation), (upright, 1)):
        record = made(tmp_path, *pair(orientation, label_orientation, stored, image))
        ids = label_images.decode_label(record.label)
        np.testing.assert_array_equal(ids, upright)
        np.testing.assert_array_equal(images.decode_image(record.image)[..., 0], ids * 80)


@pytest.mark.parametrize(
    ("orientation", "label_orientation", "label", "reason"),
    [
        (
            6,
            1,
            LABEL,
            r"label is 8x4, its image 4x8 \(upright by its EXIF orientation 6\); if it was drawn on the stored image",
        ),
        (6, 6, images.upright(LABEL, 6), "label is 8x4, its image 4x8"),  # turned before, and its tag left behind
        (1, 3, LABEL, "label has EXIF orientation 3, its image 1, .* ambiguous"),
        (3, 4, LABEL, "label has EXIF orientation 4, its image 3"),
        (1, 6, LABEL, "label is 4x8, its image 8x4"),
        (1, 1, LABEL[:3], r"label is 8x3, its image 8x4 \(upright\)"),
    ],
)
def test_labels_of_which_the_way_up_is_in_doubt_are_refused(tmp_path, orientation, label_orientation, label, reason):
    with pytest.raises(Unusable, match=reason) as refused:
        made(tmp_path, *pair(orientation, label_orientation, label))
    assert refused.value.path.endswith("label")


def test_labels_are_read_by_the_coding_that_is_given(tmp_path):
    label = palette_png(np.uint8([[0, 1, 2]]), [(0, 1, 0), (1, 0, 0), (0, 0, 1)])
    image = saved(np.zeros((1, 3, 3), np.uint8))
    with pytest.raises(Unusable, match=r"two ways: index 0 .* class 0 \(a\), .* \(0, 1, 0\) is class 1 \(b\)"):
        made(tmp_path, image, label)
    for coding, ids in (("ids", [0, 1, 2]), ("colors", [1, 0, 2])):
        record = made(tmp_path, image, label, label_coding=coding)
        assert label_images.decode_label(record.label).tolist() == [ids]


@pytest.mark.parametrize("tail", [struct.pack(">II", 8, 4), b""])
def test_the_reason_of_an_unusable_image_names_no_exception_type_alone(tmp_path, tail):
    with pytest.raises(Unusable, match="truncated") as refused:
        made(tmp_path, png()[:60] + tail, saved(np.ones((9, 14), np.uint8)))
    assert refused.value.path.endswith("image")
