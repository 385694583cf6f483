"""Tiles of large images: a grid of equal parts, of which each becomes a record.

A training takes one crop of a record in each epoch, and decodes the whole record for it. Of an image of thousands of
pixels a side it would see little, slowly. Tiles do not overlap, so that every pixel is in one record.
"""

from __future__ import annotations

import re

import numpy as np

Grid = tuple[int, int]
"""Rows and columns."""
UNKNOWN: Grid = (0, 0)
"""The grid of an image whose size could not be read when its records were planned."""
UNPLANNED = "?"
"""The only tile of that."""

_TILE = r"r(\d+)c(\d+)of([1-9]\d*)x([1-9]\d*)"
_NAME = re.compile(rf"(?P<key>.+)@(?P<tile>{_TILE})", re.DOTALL)


def grid(size: tuple[int, int], side: int) -> Grid:
    """The fewest rows and columns that cut an image of (height, width) pixels into tiles of at most `side`."""
    rows, columns = (-(-length // side) for length in size)
    return rows, columns


def tiles_of(grid: Grid) -> tuple[str, ...]:
    """The tiles of a grid, such as "r0c1of2x3" for row 0 and column 1 of two rows and three columns, row by row."""
    rows, columns = grid
    if grid == UNKNOWN:
        return (UNPLANNED,)
    return tuple(f"r{row}c{column}of{rows}x{columns}" for row in range(rows) for column in range(columns))


def cut(pixels: np.ndarray, tile: str) -> np.ndarray:
    """A tile of an image or label, [H, W, ...]. The sides of an image's tiles differ by one pixel at most."""
    row, column, rows, columns = map(int, re.fullmatch(_TILE, tile).groups())
    height, width = pixels.shape[:2]
    down = slice(row * height // rows, (row + 1) * height // rows)
    across = slice(column * width // columns, (column + 1) * width // columns)
    return np.ascontiguousarray(pixels[down, across])


def named(key: str, tile: str) -> str:
    """The key of a tile's record: that of its image, "@" and the tile."""
    return f"{key}@{tile}" if tile else key


def parts_of(name: str) -> tuple[str, str]:
    """The inverse of `named`: the key of the image, and the tile, "" if `name` is the key of an image."""
    match = _NAME.fullmatch(name)
    return (match["key"], match["tile"]) if match else (name, "")
