"""Export a model for another runtime, and check it there.

examples:
  deeplab export --model out/model --format savedmodel --output out/served --records out/records
  deeplab export --model out/model --format onnx --output out/model.onnx --images photos
  deeplab export --model out/model --format tflite --size 360 480 --output out/model.tflite --records out/records
  deeplab export --model out/model --format tflite --size 360 480 --quantize int8 --output out/small.tflite \\
      --records out/records

An export takes images, uint8 RGB [batch, height, width, 3], and returns `ids`, uint8 [batch, height, width], and
`probabilities`, float32 [batch, height, width, classes]. It includes the scaling of pixels, the shrinking that the
model was trained with, class names, colours and versions. SavedModel and ONNX take images of any size, TFLite one
image of --size.

It is then run in its own runtime (TensorFlow, ONNX Runtime, LiteRT) and compared with the model: on validation images
of --records, whose labels give the mIoU of both, on --images, or on drawn images. OUTPUT.check.json has the figures.
The status is 1 if fewer than 99.9 % of the pixels have the same class (float16: 99.5 %), or if int8 costs more than
0.01 mIoU. ONNX and TFLite need `pip install "deeplab-pipelines[export]"`. `deeplab segment --model` takes SavedModel
folders and ONNX files.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.options import CheckedOptions, InputError, option

FORMATS = ("savedmodel", "onnx", "tflite")
SUFFIXES = {"onnx": ".onnx", "tflite": ".tflite"}
"""Format -> required suffix of its file; a SavedModel is a folder."""


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Options of `deeplab export`."""

    model: str = option(
        help="model folder, from `deeplab train` or `deeplab import-weights`; local or gs://", metavar="DIR"
    )
    format: str = option(help=f"format of the export: {', '.join(FORMATS)}", choices=FORMATS, metavar="FORMAT")
    output: str = option(
        help="folder of the SavedModel, or file ending in .onnx or .tflite; local or gs://", metavar="PATH"
    )
    size: tuple[int, int] | None = option(
        None, "height and width, in pixels, of the images that a TFLite model takes", low=1, metavar="PIXELS"
    )
    quantize: str = option(
        "none",
        "only for TFLite. float16: half the size; int8: a quarter of the size, fastest on most phones, calibrated on "
        "100 training images of --records",
        choices=("none", "float16", "int8"),
    )
    records: str = option("", "folder of records, for calibration and for the check; local or gs://", metavar="DIR")
    images: str = option(
        "", "check on these images instead: a folder, a glob in quotes, or an image; local or gs://", metavar="PATH"
    )
    overwrite: bool = option(False, "replace an existing output")

    def __post_init__(self) -> None:
        super().__post_init__()
        suffix = SUFFIXES.get(self.format, "")
        if suffix and not self.output.endswith(suffix):
            raise InputError(f"--output {self.output}: the name of a file in this format must end in {suffix}")
        if self.format == "tflite" and self.size is None:
            raise InputError("--format tflite takes images of one size; give it as --size HEIGHT WIDTH")
        if self.format != "tflite" and (self.size is not None or self.quantize != "none"):
            raise InputError(
                f"--size and --quantize are for --format tflite; {self.format} takes images of any size, in float32"
            )
        if self.records and self.images:
            raise InputError("--records and --images both name what to check the export on; give one of them")
        if self.quantize == "int8" and not self.records:
            raise InputError(
                "--quantize int8 is calibrated on training images, and checked on validation images; give the "
                "records the model was trained on as --records"
            )

    @property
    def quantize_words(self) -> str:
        """The type of the numbers in the export, in words."""
        return "float32" if self.quantize == "none" else self.quantize
