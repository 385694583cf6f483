"""Turn a published DeepLab checkpoint into a model folder.

examples:
  deeplab import-weights deeplabv3_mnv2_pascal/model.ckpt --palette voc --output out/voc
  deeplab import-weights gs://bucket/model.ckpt --palette classes.json --output gs://bucket/model --max-side 0

CHECKPOINT is what `model.ckpt.index` and `model.ckpt.data-00000-of-00001` have in common: the path up to `.ckpt`.
Backbone, width, decoder and ASPP branches are read from the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.formats.options import PALETTES
from trainer.network.options import HEADS, OUTPUT_STRIDES
from trainer.options import CheckedOptions, option


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Options of `deeplab import-weights`."""

    checkpoint: str = option(
        help="prefix of the TensorFlow checkpoint, local or gs://", positional=True, metavar="CHECKPOINT"
    )
    output: str = option(help="model folder to write, local or gs://", metavar="DIR")
    palette: str = option(
        help=f"the classes it was trained on: {', '.join(PALETTES)} or a JSON file", metavar="NAME|FILE"
    )
    head: str = option("bilinear", "bilinear (as published) or subpixel", choices=HEADS)
    output_stride: int = option(16, "input pixels per feature; 8 is finer and slower", choices=OUTPUT_STRIDES)
    overwrite: bool = option(False, "replace another model in the output folder")
    max_side: int = option(513, "shrink images to this longest side, in pixels, before the network; 0: never", low=0)
