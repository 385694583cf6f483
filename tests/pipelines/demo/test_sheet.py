"""The table and the sheet of a demo's results, from files that are written by hand."""

import json

import numpy as np
import pytest

from pipelines.demo import scenes
from pipelines.demo.plan import HEIGHT, WIDTH, variants
from pipelines.demo.sheet import comparison, sheet
from trainer.formats import images

COLUMNS = ("bilinear", "subpixel", "subpixel-crf")


@pytest.fixture
def results(tmp_path):
    """Results in which every image is grey, every label sky and every mask another class."""
    scores = {"pixel_accuracy": 0.9, "trimap": {"16": 0.5, "4": 0.4, "1": 0.25}}
    masks = {name: {"miou": 0.5 + number / 10, **scores} for number, name in enumerate(variants(""))}
    files = {}
    for key in ("s0", "s1", "s2", "s3"):
        files[f"set/images/val/{key}.jpg"] = images.encode_jpeg(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
        files[f"set/labels/val/{key}.png"] = images.encode_png(np.zeros((HEIGHT, WIDTH), np.uint8))
        for number, column in enumerate(COLUMNS, start=1):
            ids = np.full((HEIGHT, WIDTH), number, np.uint8)
            files[f"masks/{column}/{key}.png"] = scenes.PALETTE.encode_mask(ids)
    gallery = [{"key": key} for key in ("s2", "s0", "s1", "s3")]
    files["report/evaluation.json"] = json.dumps({"masks": masks, "gallery": gallery}).encode()
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(tmp_path)


def test_the_table_has_a_row_for_every_variant(results):
    assert comparison(results).splitlines() == [
        "                    mIoU  pixel acc.   mIoU within 1, 4, 16 pixels of boundaries",
        "bilinear           0.500       0.900   0.250   0.400   0.500",
        "subpixel           0.600       0.900   0.250   0.400   0.500",
        "bilinear + CRF     0.700       0.900   0.250   0.400   0.500",
        "subpixel + CRF     0.800       0.900   0.250   0.400   0.500",
    ]


def test_the_sheet_shows_image_label_and_masks_of_three_scenes(results):
    page = np.asarray(sheet(results))
    assert page.shape == (26 + 3 * HEIGHT + 2 * 6, 5 * WIDTH + 4 * 6, 3)
    expected = [(90, 90, 90), *scenes.PALETTE.colors[:4]]
    for row in range(3):
        middle = page[26 + row * (HEIGHT + 6) + HEIGHT // 2]
        assert [tuple(middle[column * (WIDTH + 6) + WIDTH // 2].tolist()) for column in range(5)] == expected
        assert (middle[WIDTH : WIDTH + 6] == 255).all()
