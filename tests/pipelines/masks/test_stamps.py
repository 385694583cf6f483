"""Fingerprints of masks, and the PNG chunk that carries them."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines.masks.certainty import Certainty
from pipelines.masks.options import Views
from pipelines.masks.stamps import Stamp, fingerprint, read_stamp, stamp_jpeg, stamp_png
from tests.drawn.segmenting import PALETTE
from trainer.formats.cards import ModelCard
from trainer.formats.images import decode_image, encode_jpeg
from trainer.formats.options import CrfOptions

CARD = ModelCard({"num_classes": 3, "alpha": 0.35, "head": "bilinear"}, PALETTE, max_side=513)


STAMP = Stamp("f" * 32, "e3069283-9")


def test_stamps_survive_in_a_png() -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    png = stamp_png(PALETTE.encode_mask(ids), STAMP)
    assert read_stamp(png) == STAMP
    with Image.open(io.BytesIO(png)) as image:
        assert image.text == {"deeplab": f"{'f' * 32} e3069283-9"}
        np.testing.assert_array_equal(np.asarray(image), ids)


def test_stamps_survive_in_a_jpeg() -> None:
    plain = encode_jpeg(np.full((8, 8, 3), 70, np.uint8))
    jpeg = stamp_jpeg(plain, STAMP)
    assert read_stamp(jpeg) == STAMP
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.info["comment"] == b"deeplab\0" + b"f" * 32 + b" e3069283-9"
    np.testing.assert_array_equal(decode_image(jpeg), decode_image(plain))


@pytest.mark.parametrize("sure", [Certainty(0.9313, 0.214), Certainty(1.0, 0.0, 0.031207)])
def test_stamps_say_how_sure_the_network_was_and_are_equal_without_it(sure: Certainty) -> None:
    stamp = dataclasses.replace(STAMP, certainty=sure)
    png = stamp_png(PALETTE.encode_mask(np.zeros((2, 2), np.uint8)), stamp)
    jpeg = stamp_jpeg(encode_jpeg(np.zeros((8, 8, 3), np.uint8)), stamp)
    assert [read_stamp(file).certainty for file in (png, jpeg)] == [sure, sure]
    assert stamp == STAMP and hash(stamp) == hash(STAMP)
    assert read_stamp(jpeg.replace(b"e3069283-9 ", b"e3069283-9 x", 1)) == Stamp()


def test_what_this_program_did_not_write_has_no_stamp() -> None:
    png, jpeg = PALETTE.encode_mask(np.zeros((2, 2), np.uint8)), encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    assert [read_stamp(file) for file in (png, jpeg, b"", b"text", png[:40], jpeg[:25])] == [None] * 6


def test_a_damaged_stamp_says_nothing_but_whose_it_is() -> None:
    png = stamp_png(PALETTE.encode_mask(np.zeros((2, 2), np.uint8)), STAMP)
    assert read_stamp(png[:60]) == read_stamp(png.replace(b"ffff", b"fffe", 1)) == Stamp()


def test_stamps_of_version_0_2_name_no_image() -> None:
    body = b"tEXtdeeplab\0" + b"f" * 32
    png = PALETTE.encode_mask(np.zeros((2, 2), np.uint8))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    assert read_stamp(png[:33] + chunk + png[33:]) == Stamp("f" * 32, "")


def test_fingerprints_are_those_of_version_0_1() -> None:
    assert fingerprint("w", CARD, 513, None) == "9f6bf3af45c326f07cb0d8a96648b688"
    assert fingerprint("w", CARD, 513, CrfOptions()) == "86e749cbacb22970587d61856aef762f"


def test_all_that_decides_a_mask_is_in_its_fingerprint() -> None:
    crf = CrfOptions()
    other = dataclasses.replace(CARD, architecture={**CARD.architecture, "alpha": 0.5})
    renamed = dataclasses.replace(CARD, palette=dataclasses.replace(PALETTE, names=("left", "right", "other")))
    digests = {
        fingerprint("w", CARD, 513, crf),
        fingerprint("v", CARD, 513, crf),
        fingerprint("w", other, 513, crf),
        fingerprint("w", renamed, 513, crf),
        fingerprint("w", CARD, 0, crf),
        fingerprint("w", CARD, 513, None),
        fingerprint("w", CARD, 513, CrfOptions(sxy=20)),
        fingerprint("w", CARD, 513, CrfOptions(class_weights=(1, 0.5, 1))),
        fingerprint("w", CARD, 513, CrfOptions(class_weights=(0.5, 1, 1))),
        fingerprint("w", CARD, 513, crf, "pydensecrf"),
        fingerprint("w", CARD, 513, crf, views=Views(flip=True)),
        fingerprint("w", CARD, 513, crf, views=Views((1.0, 1.5))),
        fingerprint("w", CARD, 513, crf, window=2048),
    }
    assert len(digests) == 13
    assert fingerprint("w", CARD, 513, crf, views=Views(), window=4096) == fingerprint("w", CARD, 513, crf)
    assert fingerprint("w", CARD, 513, CrfOptions(class_weights=(1, 1, 1))) == fingerprint("w", CARD, 513, crf)
    assert fingerprint("w", CARD, 513, None, "pydensecrf") == fingerprint("w", CARD, 513, None)
