"""Choices of flags that `pipelines.scores` determines."""

from __future__ import annotations

BANDS = (1, 2, 4, 8, 16)
"""Widths of the bands on either side of a boundary, in pixels."""
