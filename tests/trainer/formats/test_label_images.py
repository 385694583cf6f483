"""The values of label images are decoded as they are stored, or refused."""

from __future__ import annotations

import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.drawn.encoded import saved
from trainer.formats.containers import png_chunks
from trainer.formats.images import ImageError
from trainer.formats.label_images import decode_label, encode_label


def compressed(png: bytes) -> bytes:
    return b"".join(png[chunk.begin : chunk.end] for chunk in png_chunks(png) if chunk.kind == b"IDAT")


def test_a_label_comes_back_and_none_of_its_rows_is_filtered():
    ids = np.arange(50 * 70, dtype=np.uint16).reshape(50, 70).astype(np.uint8)
    data = encode_label(ids)
    np.testing.assert_array_equal(decode_label(data), ids)
    assert set(zlib.decompress(compressed(data))[:: 1 + 70]) == {0}  # every row begins with the number of its filter


@pytest.mark.parametrize("side", [1, 7, 300])
@pytest.mark.parametrize("values", [1, 5, 256])
def test_every_reader_finds_the_ids_of_a_label(side, values):
    ids = np.random.default_rng(side).integers(0, values, (side, 2 * side + 1), np.uint8)
    data = encode_label(ids)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), ids)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), ids)
    np.testing.assert_array_equal(decode_label(data), ids)


def test_labels_are_compressed_by_their_runs_with_the_same_bytes_on_every_machine():
    assert encode_label(np.uint8([[0, 0, 0, 1], [7, 7, 7, 7]])).hex() == (
        "89504e470d0a1a0a0000000d49484452000000040000000208000000005ac322bf"
        "0000000f4944415478016300024606762000000056001e56630d230000000049454e44ae426082"
    )
    ids = np.repeat(np.arange(2000, dtype=np.uint16).reshape(100, 20) % 7, 20, axis=1).astype(np.uint8)
    runs = zlib.compressobj(strategy=zlib.Z_RLE)
    rows = np.pad(ids, ((0, 0), (1, 0))).tobytes()
    assert len(compressed(encode_label(ids))) == len(runs.compress(rows) + runs.flush())


def test_palette_indices_and_16_bit_ids_are_kept_as_they_are():
    image = Image.new("P", (3, 2), 17)
    image.putpalette([255, 0, 0] * 256)
    assert (decode_label(saved(image, format="PNG")) == 17).all()
    wide = Image.fromarray(np.full((2, 3), 200, np.uint16))
    assert (decode_label(saved(wide, format="PNG")) == 200).all()


def test_label_ids_over_255_are_refused():
    with pytest.raises(ImageError, match="class id 300"):
        decode_label(saved(np.full((2, 3), 300, np.uint16), format="PNG"))


def test_jpeg_labels_are_refused():
    with pytest.raises(ImageError, match="lossless"):
        decode_label(saved(Image.new("L", (8, 8)), format="JPEG"))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_black_and_white_of_16_bits_are_read_as_0_and_255(format):
    mask = np.uint16([[0, 65535, 0], [65535, 65535, 0]])
    assert decode_label(saved(mask, format=format)).tolist() == [[0, 255, 0], [255, 255, 0]]
    with pytest.raises(ImageError, match="class id 65535"):
        decode_label(saved(mask + np.uint16([[1, 0, 0], [0, 0, 0]]), format=format))
