"""Which images `deeplab prepare` cuts into tiles: those of the split train that are larger than --tile."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from pipelines.inputs.pairs import Pair
from trainer import storage
from trainer.formats import tiles
from trainer.formats.images import ImageError, header, shrunk_size
from trainer.options import InputError

REQUESTS = 16
"""The number of files that are read concurrently."""
BEGINNING = 1 << 16
"""Bytes of a file that usually hold its header."""
TOGETHER = 1 << 10
"""Images whose headers are read before the next ones are listed."""
TILED = "train"
"""The split that is cut. A training validates on whole images, as `deeplab segment` sees them."""
LARGE = 2048
"""Side of a square image, in pixels, above which an image is better cut: that one holds 16 crops of 512 pixels."""
WHOLE = ("",)
"""The tiles of an image that is not cut."""


def grids_of(pairs: Iterable[Pair], tile: int, max_side: int, max_pixels: int) -> dict[str, tiles.Grid]:
    """The grids of the images that are cut into tiles, by key.

    Args:
      pairs: the images. The headers of those of TILED are read, if `tile` is not 0.
      tile: bound on the sides of a tile, in pixels; 0 cuts no image.
      max_side, max_pixels: as in `pipelines.entries.options.RecordOptions`.

    Raises:
      InputError: an image has the name of a tile of another image, so that two records would have one key.
    """
    if not tile:
        return {}
    large, grids = (pair for pair in pairs if pair.split == TILED), {}
    grid = functools.partial(_grid, tile=tile, max_side=max_side, max_pixels=max_pixels)
    with (
        ThreadPoolExecutor(REQUESTS) as pool,
        tqdm(unit=" images", desc="sizes", leave=False, disable=None) as bar,
    ):
        while some := list(itertools.islice(large, TOGETHER)):
            found = zip(some, pool.map(grid, [pair.image for pair in some]), strict=True)
            grids |= {pair.key: grid for pair, grid in found if grid != (1, 1)}
            bar.update(len(some))
    for pair in pairs:
        key, part = tiles.parts_of(pair.key)
        if part and part in tiles_in(grids, key):
            raise InputError(f"{pair.image} has the name of a tile of the image {key}; rename it, or remove it")
    return grids


def tiles_in(grids: Mapping[str, tiles.Grid], key: str) -> Sequence[str]:
    """The tiles of an image; only "", which stands for all of it, if it is not cut."""
    return tiles.tiles_of(grids[key]) if key in grids else WHOLE


def _grid(path: str, tile: int, max_side: int, max_pixels: int) -> tiles.Grid:
    """The grid of an image. That of a file that is not an image, which becomes a reject, is one tile."""
    try:
        size = _size(path, max_pixels)
    except ImageError:
        return 1, 1
    except OSError:
        return tiles.UNKNOWN
    return tiles.grid(shrunk_size(*size, max_side), tile)


def _size(path: str, max_pixels: int) -> tuple[int, int]:
    """The upright (height, width) of an image, in pixels."""
    with contextlib.suppress(ImageError):  # of a PNG, or of a TIFF whose directory is at its end
        beginning = header(storage.read_part(path, 0, BEGINNING), max_pixels)
        if beginning.format != "webp":  # whose orientation is at its end
            return beginning.upright_size
    return header(storage.read(path), max_pixels).upright_size
