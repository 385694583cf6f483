"""Runs of equal neighbours, row by row. Labels have few of them, so work per run is faster than per pixel."""

from __future__ import annotations

import numpy as np

MANY = 1 / 8
"""Share of pixels that differ from the one before from which it is faster to look at all of them."""
PART = 1 << 20
"""Pixels that are counted at a time, since NumPy counts copies with eight bytes each."""


def pixels_of_ids(ids: np.ndarray) -> np.ndarray:
    """The number of pixels of every id, int64 [256], in ids, uint8 [H, W]."""
    return _counted(*runs_of(ids))


def looked_up(table: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Looks up codes [H, W] in a table of ids, uint8 [number of codes].

    Returns:
      The ids, uint8 [H, W], which are the array of the codes if they equal them, and the number of pixels of every id,
      int64 [256].
    """
    values, lengths = runs_of(codes)
    ids = table[values]
    counted = _counted(ids, lengths)
    if codes.dtype == np.uint8 and (ids == values).all():
        return np.ascontiguousarray(codes), counted
    return np.repeat(ids, 1 if lengths is None else lengths).reshape(codes.shape), counted


def runs_of(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The runs of equal neighbours in codes, integers [H, W], row by row.

    Returns:
      The code and the length of every run, [n] each; all codes, [H·W], and None if there are many runs.
    """
    flat = codes.ravel()
    begins = _changes(flat)
    if begins.size > MANY * flat.size:
        return flat, None
    bounds = np.concatenate([[0], begins, [flat.size]])
    return flat[bounds[:-1]], np.diff(bounds)


def _changes(flat: np.ndarray) -> np.ndarray:
    """The places, in ascending order, of the values that differ from the one before.

    Most values do not, so eight comparisons, of a byte each, are looked at together.
    """
    differs = np.zeros(-(-flat.size // 8) * 8, bool)
    np.not_equal(flat[1:], flat[:-1], out=differs[1 : flat.size])
    eights = differs.view(np.uint64)
    some = np.flatnonzero(eights != 0)
    places = np.flatnonzero(eights[some].view(bool))
    number = places >> 3
    return places + (some[number] - number << 3)


def _counted(ids: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """The number of pixels of every id, int64 [256], in runs of ids."""
    if lengths is not None:
        return np.bincount(ids, weights=lengths, minlength=256).astype(np.int64)
    return sum(np.bincount(ids[start : start + PART], minlength=256) for start in range(0, ids.size, PART))
