"""Drawn scenes: the same seed gives the same scene, and masks lie where the images say."""

import json

import cv2
import numpy as np
import pytest

from pipelines.demo import scenes
from trainer.formats import images, label_images
from trainer.formats.labels import Palette

SIZE = (192, 256)


def scene(number, size=SIZE):
    return scenes.draw_scene(np.random.default_rng([5, number]), *size)


@pytest.fixture(scope="module")
def twenty():
    return [scene(number) for number in range(20)]


def canvas(height=40, width=60):
    sun, white = np.array([0.5, -0.7, 0.5], np.float32), np.ones(3, np.float32)
    return scenes._Canvas(height, width, height / 2, sun, white)


def white(x, y):
    return np.ones((y.size, x.size, 3), np.float32)


def test_the_same_seed_draws_the_same_scene():
    (image, label), (again, label_again) = scene(3), scene(3)
    assert image.dtype == label.dtype == np.uint8
    assert image.shape == (*SIZE, 3) and label.shape == SIZE
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)


def test_another_seed_draws_another_scene():
    assert (scene(3)[1] != scene(4)[1]).mean() > 0.05


def test_every_class_takes_part_and_no_other_id(twenty):
    share = np.bincount(np.concatenate([label.ravel() for _, label in twenty])) / (20 * SIZE[0] * SIZE[1])
    assert len(share) == scenes.PALETTE.num_classes
    assert share.min() > 0.005  # the power line, two pixels wide
    assert share.max() < 0.6


def test_colour_alone_does_not_decide_the_class(twenty):
    """The commonest class of every coarse colour, learned and applied on the same images, is far from right."""
    colours = np.concatenate([(image // 32).reshape(-1, 3) for image, _ in twenty]).astype(np.int64) @ [64, 8, 1]
    labels = np.concatenate([label.ravel() for _, label in twenty])
    counts = np.zeros((512, scenes.PALETTE.num_classes), np.int64)
    np.add.at(counts, (colours, labels), 1)
    right = counts.argmax(1)[colours] == labels
    recall = [right[labels == c].mean() for c in (scenes.BALL, scenes.BOX, scenes.TREE, scenes.POLE)]
    assert max(recall) < 0.75 and np.mean(recall) < 0.5


def test_a_partly_covered_pixel_gets_its_share_of_the_colour_and_the_class_of_the_larger_share():
    page = canvas()
    stencil = page.blank()
    stencil[4 * 4 : 4 * 8, 4 * 10 + 1 : 4 * 20 + 1] = 255  # columns 10.25 to 20.25
    page.paint(scenes.BOX, stencil, white)
    np.testing.assert_allclose(page.image[5, 9:12, 0], [0, 0.75, 1], atol=0.01)
    np.testing.assert_allclose(page.image[5, 19:22, 0], [1, 0.25, 0], atol=0.01)
    label = page.shares.argmax(0)
    np.testing.assert_array_equal(np.unique(np.argwhere(label == scenes.BOX)[:, 1]), np.arange(10, 20))
    np.testing.assert_array_equal(np.unique(np.argwhere(label == scenes.BOX)[:, 0]), np.arange(4, 8))
    np.testing.assert_allclose(page.shares.sum(0), 1, atol=1e-6)


def test_a_disc_has_the_area_of_a_disc():
    page = canvas(80, 80)
    page.paint(scenes.BALL, page.ellipse((40, 40), (25, 25)), white)
    assert (page.shares.argmax(0) == scenes.BALL).sum() == pytest.approx(np.pi * 25**2, rel=0.02)
    assert page.image[..., 0].sum() == pytest.approx(np.pi * 25**2, rel=0.02)


def test_later_shapes_hide_earlier_ones():
    page = canvas()
    page.paint(scenes.TREE, page.polygon([(5, 5), (30, 5), (30, 30), (5, 30)]), white)
    page.paint(scenes.BOX, page.polygon([(15, 15), (40, 15), (40, 35), (15, 35)]), white)
    label = page.shares.argmax(0)
    assert label[10, 10] == scenes.TREE
    assert (label[17:29, 17:29] == scenes.BOX).all()


def test_masks_lie_on_the_edges_of_what_is_drawn(twenty):
    """Of all shifts of the mask by up to three pixels, none makes its boundaries meet stronger edges of the image."""
    strength = {}
    for image, label in twenty[:10]:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        edges = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))[8:-8, 8:-8]
        for shift in [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]:
            moved = np.roll(label, shift, (0, 1))
            boundary = (moved != np.roll(moved, 1, 0)) | (moved != np.roll(moved, 1, 1))
            strength[shift] = strength.get(shift, 0) + edges[boundary[8:-8, 8:-8]].mean()
    best = max(strength, key=strength.get)
    assert max(map(abs, best)) <= 1  # the boundary lies between two pixels and is counted at one of them
    assert strength[0, 0] > 0.9 * strength[best]


@pytest.mark.parametrize("seed", range(5))
def test_wires_and_poles_are_thin_and_unbroken(seed):
    page = canvas(*SIZE)
    place = scenes._Place(x=128, base=170, size=150, distance=0.1)
    scenes._paint_power_line(page, np.random.default_rng(seed), place)
    line = (page.shares.argmax(0) == scenes.POLE).astype(np.uint8)
    assert line.sum() > 300
    pieces, _, stats, _ = cv2.connectedComponentsWithStats(line, connectivity=8)
    assert stats[1:, cv2.CC_STAT_AREA].max() > 0.98 * line.sum()
    assert pieces <= 4  # besides the line: corners of an arm or a pole that the image ends at
    assert not cv2.morphologyEx(line, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8)).any()


def test_small_scenes_can_be_drawn():
    for number in range(30):
        image, label = scene(number, (64, 80))
        assert image.shape == (64, 80, 3) and label.shape == (64, 80)
        assert len(np.unique(label)) >= 4


def test_a_set_is_written_in_the_layout_of_camvid(tmp_path):
    scenes.write_set(str(tmp_path), train=3, val=2, size=(64, 80), seed=1)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == sorted(
        ["palette.json"]
        + [f"images/train/scene-{n:04d}.jpg" for n in range(3)]
        + [f"labels/train/scene-{n:04d}.png" for n in range(3)]
        + [f"images/val/scene-{n:04d}.jpg" for n in range(2)]
        + [f"labels/val/scene-{n:04d}.png" for n in range(2)]
    )
    assert Palette.from_json(json.loads((tmp_path / "palette.json").read_text())) == scenes.PALETTE
    image = images.decode_image((tmp_path / "images/train/scene-0001.jpg").read_bytes())
    label = label_images.decode_label((tmp_path / "labels/train/scene-0001.png").read_bytes())
    drawn, ids = scenes.draw_scene(np.random.default_rng([1, 0, 1]), 64, 80)
    np.testing.assert_array_equal(label, ids)
    assert np.abs(image.astype(int) - drawn).mean() < 6  # JPEG blurs the colours of so small an image


def test_a_larger_set_begins_with_the_smaller_one(tmp_path):
    scenes.write_set(str(tmp_path / "small"), train=1, val=1, size=(64, 64), seed=7)
    scenes.write_set(str(tmp_path / "large"), train=3, val=2, size=(64, 64), seed=7)
    for path in (tmp_path / "small").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "large" / path.relative_to(tmp_path / "small")).read_bytes()
