"""The choices of flags that `pipelines.scores` knows about."""

from __future__ import annotations

BANDS = (1, 2, 4, 8, 16)
"""Widths of the bands in pixels, on either side of a boundary."""
