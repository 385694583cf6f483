"""The values of label images are decoded as they are stored, or refused."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from trainer.formats.containers import png_chunks
from trainer.formats.images import ImageError
from trainer.formats.label_images import decode_label, encode_label


def saved(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def test_a_label_comes_back_and_none_of_its_rows_is_filtered():
    ids = np.arange(50 * 70, dtype=np.uint16).reshape(50, 70).astype(np.uint8)
    data = encode_label(ids)
    np.testing.assert_array_equal(decode_label(data), ids)
    rows = b"".join(data[chunk.begin : chunk.end] for chunk in png_chunks(data) if chunk.kind == b"IDAT")
    assert set(zlib.decompress(rows)[:: 1 + 70]) == {0}  # every row begins with the number of its filter


def test_palette_indices_and_16_bit_ids_are_kept_as_they_are():
    image = Image.new("P", (3, 2), 17)
    image.putpalette([255, 0, 0] * 256)
    assert (decode_label(saved(image, format="PNG")) == 17).all()
    wide = Image.fromarray(np.full((2, 3), 200, np.uint16))
    assert (decode_label(saved(wide, format="PNG")) == 200).all()


def test_label_ids_over_255_are_refused():
    with pytest.raises(ImageError, match="class id 300"):
        decode_label(saved(Image.fromarray(np.full((2, 3), 300, np.uint16)), format="PNG"))


def test_jpeg_labels_are_refused():
    with pytest.raises(ImageError, match="lossless"):
        decode_label(saved(Image.new("L", (8, 8)), format="JPEG"))
