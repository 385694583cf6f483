"""The results of the demo: a table of scores, and a sheet of images, labels and masks."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.demo import scenes
from pipelines.demo.options import ROWS
from pipelines.demo.plan import HEIGHT, WIDTH, variants
from trainer import storage
from trainer.formats import images, label_images

_COLUMNS = ("bilinear", "subpixel", "subpixel-crf")
_GAP, _HEADER = 6, 26  # pixels between tiles, and above the first row


def comparison(output: str) -> str:
    """The scores of all variants as a table."""
    scores = _evaluation(output)["masks"]
    bands = sorted(next(iter(scores.values()))["trimap"], key=int)
    lines = [f"{'':16}{'mIoU':>8}{'pixel acc.':>12}   mIoU within {', '.join(bands)} pixels of boundaries"]
    for name, variant in variants(output).items():
        score, accuracy = scores[name]["miou"], scores[name]["pixel_accuracy"]
        near = "".join(f"{scores[name]['trimap'][band]:8.3f}" for band in bands)
        lines.append(f"{variant.title:16}{score:8.3f}{accuracy:12.3f}{near}")
    return "\n".join(lines)


def sheet(output: str) -> Image.Image:
    """Image, label and masks of the report's two best scenes and one median: the figure of the README."""
    keys = [entry["key"] for entry in _evaluation(output)["gallery"]][:ROWS]
    titles = ["image", "label", *(variants(output)[name].title for name in _COLUMNS)]
    size = (len(titles) * (WIDTH + _GAP) - _GAP, _HEADER + len(keys) * (HEIGHT + _GAP) - _GAP)
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=16)
    for column, title in enumerate(titles):
        pen.text((column * (WIDTH + _GAP) + WIDTH / 2, _HEADER / 2), title, "black", font, anchor="mm")
    for row, key in enumerate(keys):
        for column, tile in enumerate(_tiles(output, key)):
            place = (column * (WIDTH + _GAP), _HEADER + row * (HEIGHT + _GAP))
            page.paste(Image.fromarray(np.ascontiguousarray(tile)), place)
    return page


def _evaluation(output: str) -> dict[str, Any]:
    return storage.read_json(os.path.join(output, "report", "evaluation.json"))


def _tiles(output: str, key: str) -> list[np.ndarray]:
    """Image, label and masks of a scene of the validation, uint8 [HEIGHT, WIDTH, 3] each."""
    drawn = os.path.join(output, "set")
    image = images.decode_image(storage.read(os.path.join(drawn, "images", "val", f"{key}.jpg")))
    coded = [os.path.join(drawn, "labels", "val", f"{key}.png")]
    coded += [os.path.join(output, "masks", column, f"{key}.png") for column in _COLUMNS]
    return [image, *(scenes.PALETTE.colorize(label_images.decode_label(storage.read(path))) for path in coded)]
