"""Images of 16 bits: what scaling them to 8 leaves of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.doctor.look import look
from pipelines.doctor.plan import DECODED, Subject
from tests.drawn.encoded import saved, tiff
from tests.drawn.ill import draw_set, examine, scene
from trainer.formats import images


def draw_deep(folder: Path, *factors: int, format: str = "PNG") -> None:
    """A set whose images are greys of 8 bits times these factors, in 16 bits."""
    draw_set(folder, splits={"train": len(factors)})
    for index, factor in enumerate(factors):
        grey = scene(index + 500)[0][..., 0].astype(np.uint16) * factor
        (folder / f"images/train/a{index}.png").write_bytes(saved(grey, format))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_set_of_12_bits_in_16_is_said_to_become_black(format, tmp_path):
    draw_deep(tmp_path / "set", 16, 16, 16, 257, format=format)
    found = examine(tmp_path / "set", tmp_path / "out")
    finding = found.finding("dark-images")
    assert found.status == 2 and (finding["count"], finding["of"]) == (3, 4)
    assert "of 256 levels" in finding["examples"][0]["found"]
    assert found.report["prepare"] == "", "the images would still be black"


def test_images_that_are_not_scaled_beside_others_that_are_stand_out(tmp_path):
    draw_deep(tmp_path / "set", 257, 257, 1)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds["unscaled-images"] == "wrong" and found.status == 2
    assert found.finding("unscaled-images")["examples"][0]["path"].endswith("a2.png")


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("factors", "kind", "count"), [((16, 16, 16, 257), "dark-images", 3), ((257, 257, 1), "unscaled-images", 1)]
)
def test_colours_of_16_bits_are_judged_as_greys_are(factors, kind, count, format, tmp_path):
    draw_set(tmp_path / "set", splits={"train": len(factors)})
    for index, factor in enumerate(factors):
        rgb = scene(index + 500)[0].astype(np.uint16) * factor
        data = tiff(rgb) if format == "TIFF" else cv2.imencode(".png", rgb)[1].tobytes()
        (tmp_path / f"set/images/train/a{index}.png").write_bytes(data)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.status == 2 and found.finding(kind)["count"] == count


@pytest.mark.parametrize(("format", "decoder"), [("PNG", "decode_png"), ("TIFF", "load_pillow")])
def test_an_image_of_16_bits_is_decoded_once(format, decoder, tmp_path, monkeypatch):
    draw_deep(tmp_path, 16, format=format)
    times, decode = [], getattr(images, decoder)
    monkeypatch.setattr(images, decoder, lambda *given: times.append(given) or decode(*given))
    image, label = (f"{tmp_path}/{kind}/train/a0.png" for kind in ("images", "labels"))
    assert look(Subject(0, "a0", image, label, "train", DECODED)).kinds.keys() == {"deep-images", "dark-images"}
    assert len(times) == 1


@pytest.mark.parametrize("factors", [(257, 257, 257), (1, 1, 1), (257, 257, 0), (257, 257, 32)])
def test_images_that_use_their_16_bits_alike_are_healthy(factors, tmp_path):
    draw_deep(tmp_path / "set", *factors)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert not {"dark-images", "unscaled-images"} & found.kinds.keys()
