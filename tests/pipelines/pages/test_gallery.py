"""The gallery: which images, how they are looked for, and what is painted of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.pages import gallery
from tests.drawn.pages import PALETTE, entry
from trainer.formats import images


def test_gallery_takes_best_median_and_worst() -> None:
    scores = np.array([0.5, np.nan, 0.9, 0.1, 0.7, 0.3, 0.8, 0.2])
    assert gallery.best_median_worst(scores, 3) == [(2, "best"), (0, "median"), (3, "worst")]
    assert gallery.best_median_worst(scores, 6) == [
        (2, "best"),
        (6, "best"),
        (0, "median"),
        (5, "median"),
        (7, "worst"),
        (3, "worst"),
    ]
    everything = gallery.best_median_worst(scores, 100)
    assert sorted(index for index, _ in everything) == [0, 2, 3, 4, 5, 6, 7]
    assert gallery.best_median_worst(scores, 0) == [] and gallery.best_median_worst(np.full(3, np.nan), 6) == []


def test_gallery_never_shows_an_image_twice() -> None:
    for number in range(12):
        for count in range(8):
            chosen = gallery.best_median_worst(np.linspace(0, 1, number), count)
            assert len({index for index, _ in chosen}) == len(chosen) == min(count, number)


def test_an_image_is_found_by_its_key_whatever_its_suffix(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    for name in ("a.png", "sub/b.PNG", "c.d.bmp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(images.encode_png(image))
        np.testing.assert_array_equal(gallery.find_image(str(tmp_path), name[:-4], (4, 6)), image)


def test_an_image_that_cannot_be_shown_is_an_error_that_says_why(tmp_path: Path) -> None:
    folder = str(tmp_path)
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "small.png").write_bytes(images.encode_png(np.zeros((4, 6, 3), np.uint8)))
    with pytest.raises(gallery.NotShown, match=r"empty\.jpg: the file is empty"):
        gallery.find_image(folder, "empty", (4, 6))
    with pytest.raises(gallery.NotShown, match=r"small\.png is 6x4 pixels, its label 8x4; the label is shown alone"):
        gallery.find_image(folder, "small", (4, 8))
    with pytest.raises(gallery.NotShown, match="image of none not found in"):
        gallery.find_image(folder, "none", (4, 6))


def test_an_entry_shows_image_and_label_and_of_every_folder_mask_and_errors() -> None:
    label, ids = np.uint8([[0, 0, 1, 255]]), np.uint8([[0, 1, 1, 0]])
    image = np.full((1, 4, 3), 90, np.uint8)
    shown = gallery.entry("k", "best", {"masks": 0.5}, image, label, {"masks": ids}, PALETTE, 1)
    assert [panel.caption for panel in shown.truth] == ["image", "label"]
    (result,) = shown.results
    assert (result.name, result.miou, result.prediction.caption) == ("masks", 0.5, "masks")
    assert result.errors.caption == "errors 33.3 %"  # one of three pixels that are not ignored
    bare = gallery.entry("k", "best", {"masks": 0.5}, None, label, {"masks": ids}, PALETTE, 1)
    assert [panel.caption for panel in bare.truth] == ["label"]


def test_thumbnails_are_never_larger_than_the_image_or_the_bound() -> None:
    small, large = (entry(["masks"], np.random.default_rng(0), 1, shape) for shape in ((40, 30), (300, 1200)))
    assert {(panel.height, panel.width) for panel in small.truth} == {(40, 30)}
    assert {(panel.height, panel.width) for panel in large.truth} == {(120, 480)}


def test_error_maps_mark_wrong_pixels_and_darken_ignored_ones() -> None:
    label, ids = np.uint8([[0, 0, 255]]), np.uint8([[0, 1, 1]])
    right, wrong, ignored = gallery.error_map(None, label, ids, 255)[0]
    assert tuple(wrong) == gallery.WRONG
    assert len(set(right.tolist())) == 1 and ignored.max() < right.min() / 2
