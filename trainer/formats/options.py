"""The names in the formats that options of commands use."""

from __future__ import annotations

PALETTES = ("voc", "camvid", "cityscapes", "cityscapes-trainids")
"""The built-in palettes of `trainer.formats.palettes`."""

CODINGS = ("auto", "ids", "colors")
"""How to read labels that have both ids and colours; see `trainer.formats.codings`."""

MAX_PIXELS = 178_956_970
"""Images of more pixels are refused as decompression bombs, as Pillow does: half a gigabyte of RGB.

No flag allows more, since what one command makes of an image the others have to read.
"""
