"""Turn published DeepLab weights into a model folder.

examples:
  deeplab import-weights mobilenetv2_coco_voc_trainaug --palette voc --output out/voc
  deeplab import-weights gs://bucket/model.ckpt --palette classes.json --output gs://bucket/model --max-side 0
  deeplab import-weights mobilenetv2_subpixel.h5 --palette voc --output out/port --max-side 320

CHECKPOINT is the common prefix of `model.ckpt.index` and `model.ckpt.data-00000-of-00001`, up to `.ckpt`; the archive
(.tar.gz) in which they were published; an HDF5 file (.h5) of a Keras port of DeepLab, of which only the arrays are
read; or the name or address of one of these, which is downloaded once. Backbone, width, decoder, ASPP branches and
kind of head are read from the weights. docs/weights.md lists the names.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.formats.options import MAX_PIXELS, PALETTES
from trainer.network.options import HEADS, OUTPUT_STRIDES
from trainer.options import CheckedOptions, option


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Options of `deeplab import-weights`."""

    checkpoint: str = option(
        help="published weights: a name, an http(s):// address, a TensorFlow checkpoint's prefix or an HDF5 file; "
        "local or gs://",
        positional=True,
        metavar="CHECKPOINT",
        web=True,
    )
    output: str = option(help="model folder to write, local or gs://", metavar="DIR")
    palette: str = option(
        help=f"the classes that the model was trained on: {', '.join(PALETTES)}, or a JSON file", metavar="NAME|FILE"
    )
    head: str | None = option(None, "how features are upsampled to pixels (default: as published)", choices=HEADS)
    output_stride: int | None = option(
        None,
        "input pixels per feature; 8 is finer and slower than the usual 16 (default: as published)",
        choices=OUTPUT_STRIDES,
    )
    overwrite: bool = option(False, "replace another model in the output folder")
    max_side: int = option(
        513, "shrink images to this longest side, in pixels, before the network; 0: never", low=0, high=MAX_PIXELS
    )
