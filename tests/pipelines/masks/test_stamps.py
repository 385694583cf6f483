"""Fingerprints of masks, and the PNG chunk that carries them."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image

from pipelines.crf.options import CrfOptions
from pipelines.masks.stamps import fingerprint, has_stamp, stamp
from tests.drawn.segmenting import PALETTE
from trainer.formats.cards import ModelCard

CARD = ModelCard({"num_classes": 3, "alpha": 0.35, "head": "bilinear"}, PALETTE, max_side=513)


def test_stamps_survive_in_a_png_and_are_told_apart() -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    png = stamp(PALETTE.encode_mask(ids), "abc")
    assert has_stamp(png, "abc") and not has_stamp(png, "abd") and not has_stamp(b"", "abc")
    with Image.open(io.BytesIO(png)) as image:
        assert image.text == {"deeplab": "abc"}
        np.testing.assert_array_equal(np.asarray(image), ids)


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
        fingerprint("w", CARD, 513, crf, "pydensecrf"),
    }
    assert len(digests) == 8
    assert fingerprint("w", CARD, 513, None, "pydensecrf") == fingerprint("w", CARD, 513, None)
