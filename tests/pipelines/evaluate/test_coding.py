"""Labels are read as `deeplab prepare` reads them, and what can be read in two ways is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.drawn.encoded import palette_png
from tests.drawn.evaluating import LABEL, PALETTE, evaluate, evaluation, put
from trainer.formats import images
from trainer.options import InputError

VOID = PALETTE.ignore_color


def optimised(ids: np.ndarray, *colors: tuple[int, int, int]) -> bytes:
    """The colours of these ids as a palette PNG, in the order given, as PNG optimisers write it."""
    painted = PALETTE.colorize(ids)
    indices = np.zeros(ids.shape, np.uint8)
    for index, color in enumerate(colors):
        indices[(painted == color).all(-1)] = index
    return palette_png(indices, colors)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Right masks, beside which labels are to be put."""
    put(tmp_path / "masks", "a.png", "b.png", data=PALETTE.encode_mask(LABEL))
    return tmp_path


def test_colour_labels_in_palette_pngs_are_read_by_their_colours(root: Path, capsys: pytest.CaptureFixture) -> None:
    label = LABEL.copy()
    label[0, 0] = 255
    put(root / "labels", "a.png", "b.png", data=optimised(label, VOID, PALETTE.colors[1], PALETTE.colors[0]))
    assert evaluate(root) == 0
    assert evaluation(root / "out")["masks"]["masks"]["miou"] == 1
    assert "palette images are read by their colours" in capsys.readouterr().out


def test_palette_pngs_that_can_be_read_in_two_ways_are_refused_without_the_users_word(root: Path) -> None:
    put(root / "labels", "a.png", "b.png", data=optimised(LABEL, *PALETTE.colors[::-1]))
    with pytest.raises(InputError, match=r"a\.png can be read in two ways.*--label-coding ids or"):
        evaluate(root)
    assert evaluate(root, "--label-coding", "colors") == 0
    assert evaluation(root / "out")["masks"]["masks"]["miou"] == 1
    assert evaluate(root, "--label-coding", "ids") == 0
    assert evaluation(root / "out")["masks"]["masks"]["miou"] == 0


def test_masks_of_black_and_white_are_no_labels_of_one_class(root: Path) -> None:
    put(root / "labels", "a.png", "b.png", data=images.encode_png(np.where(LABEL == 1, 255, 0).astype(np.uint8)))
    with pytest.raises(InputError, match="contain only 0 and 255"):
        evaluate(root)


def test_turned_labels_are_turned_as_images_are(root: Path) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(LABEL[::-1, ::-1].copy()).save(file, "PNG", exif=exif)
    put(root / "labels", "a.png", "b.png", data=file.getvalue())
    assert evaluate(root) == 0
    assert evaluation(root / "out")["masks"]["masks"]["miou"] == 1
