"""What options of commands name of the formats."""

from __future__ import annotations

PALETTES = ("voc", "camvid", "cityscapes", "cityscapes-trainids")
"""The built-in palettes of `trainer.formats.palettes`."""

CODINGS = ("auto", "ids", "colors")
"""How labels that can be read by their numbers or by their colours are read; see `trainer.formats.labels`."""

MAX_PIXELS = 178_956_970
"""Images of more pixels are refused as decompression bombs, as Pillow does: half a gigabyte of RGB."""
