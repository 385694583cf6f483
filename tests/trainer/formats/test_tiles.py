"""The grids of tiles, their names, and what each holds."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.formats.tiles import UNKNOWN, UNPLANNED, cut, grid, named, parts_of, tiles_of


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((100, 100), 100, (1, 1)),
        ((101, 100), 100, (2, 1)),
        ((1, 301), 100, (1, 4)),
        ((6000, 6000), 1024, (6, 6)),
        ((1024, 2048), 1024, (1, 2)),
    ],
)
def test_the_fewest_tiles_that_are_not_too_large(size, side, expected):
    assert grid(size, side) == expected


def test_tiles_are_named_row_by_row():
    assert tiles_of((2, 2)) == ("r0c0of2x2", "r0c1of2x2", "r1c0of2x2", "r1c1of2x2")
    assert tiles_of(UNKNOWN) == (UNPLANNED,)


@pytest.mark.parametrize("size", [(100, 100), (101, 64), (65, 259), (64, 1), (997, 991)])
def test_tiles_hold_every_pixel_once_and_are_equally_large(size):
    pixels = np.arange(size[0] * size[1]).reshape(size)
    rows, columns = grid(size, 64)
    parts = [cut(pixels, tile) for tile in tiles_of((rows, columns))]
    lines = [np.concatenate(parts[row * columns : (row + 1) * columns], 1) for row in range(rows)]
    np.testing.assert_array_equal(np.concatenate(lines), pixels)
    for sides in zip(*(part.shape for part in parts), strict=True):
        assert max(sides) <= 64 and max(sides) - min(sides) <= 1


def test_a_tile_of_an_image_has_its_channels():
    image = np.arange(4 * 6 * 3).reshape(4, 6, 3)
    np.testing.assert_array_equal(cut(image, "r1c2of2x3"), image[2:, 4:])


@pytest.mark.parametrize("key", ["a", "train/a@b", "a@r1c1of2x2", "two\nlines"])
def test_the_key_of_a_record_tells_image_and_tile(key):
    assert parts_of(named(key, "r0c1of1x2")) == (key, "r0c1of1x2")


@pytest.mark.parametrize("key", ["a", "a@", "@r0c1of1x2", "a@r0c1of1x", "a@r0c1of1x2/b", "a@r0c0of0x2"])
def test_other_keys_are_those_of_images(key):
    assert parts_of(named(key, "")) == (key, "")
