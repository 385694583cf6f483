"""Segment images: one palette PNG per image, at the image's own size, and a table of the images.

examples:
  deeplab segment --input photos --model out/model --output out/masks
  deeplab segment --input "photos/**/*.jpg" --model out/model --output out/masks-crf --crf auto --overlays
  deeplab segment --input data/images --records out/records --model out/model --output out/masks-val
  deeplab segment --input photos --model out/model --output out/masks-views --scales 1 1.5 --flip
  deeplab segment --input photos --model out/model --output out/table --no-masks
  deeplab segment --input gs://bucket/photos --model gs://bucket/model --output gs://bucket/masks \\
      --runner DataflowRunner --project my-project --region europe-west1 --temp_location gs://bucket/tmp \\
      --sdk_container_image IMAGE

--records DIR takes only images that the model was not trained on: those of the records' split val. Masks that were
made with the same model and options from the same image are skipped, so a killed run resumes; other files with these
names are kept unless --overwrite is given. Flags that are not listed here are passed on to Apache Beam, such as
--direct_num_workers 4.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from pipelines.inputs.options import SelectionOptions
from pipelines.masks.options import ViewOptions
from trainer.accounts import max_reject_rate
from trainer.formats.options import CRF_BOUNDS, MAX_PIXELS, CrfOptions
from trainer.network.options import MIN_WINDOW, WINDOW
from trainer.options import InputError, option


def _crf(name: str, meaning: str) -> Any:
    """A parameter of the CRF: the flag, else crf.json, else the default of `CrfOptions`."""
    text = f"{meaning}; default: as in crf.json, else {getattr(CrfOptions, name):g}"
    return option(None, text, group="CRF", **asdict(CRF_BOUNDS[name]))


@dataclass(frozen=True)
class Options(SelectionOptions, ViewOptions):
    """Options of `deeplab segment`."""

    takes_beam_flags: ClassVar[bool] = True

    input: str = option(
        help="folder of images (searched recursively), a glob in quotes, an image, or a .txt, .csv or .jsonl list; "
        "local or gs://",
        metavar="PATH",
    )
    model: str = option(
        help="model folder, from `deeplab train` or `deeplab import-weights`, or a SavedModel folder or .onnx file "
        "from `deeplab export`; local or gs://",
        metavar="PATH",
    )
    output: str = option(help="folder for the masks; local or gs://", metavar="DIR")
    masks: bool = option(
        True,
        "write masks; --no-masks: only the table of images, images.parquet, and overlays or confidence maps if asked "
        "for",
        group="output",
    )
    overlays: bool = option(False, "also write images with their classes painted over, to overlays/", group="output")
    confidence: bool = option(
        False, "also write the probability of the chosen class, 0 to 255, to confidence/", group="output"
    )
    overwrite: bool = option(
        False, "write every mask again, even over those of another model or other options", group="output"
    )
    batch_size: int = option(
        8, "maximum number of images in a batch (on a CPU only small images are batched)", low=1, group="network"
    )
    max_side: int | None = option(
        None,
        "shrink the longest side to this many pixels for the network; 0: never; default: as the model was trained",
        low=0,
        high=MAX_PIXELS,
        group="network",
    )
    window: int = option(
        WINDOW,
        "largest side, in pixels, of what the network sees at once: images with more pixels than such a square, after "
        "--max-side, are seen in overlapping windows; a smaller one takes less memory and more time",
        low=MIN_WINDOW,
        high=MAX_PIXELS,
        group="network",
    )
    max_pixels: int = option(
        MAX_PIXELS,
        f"reject images with more pixels than this after --max-side, and those with over {MAX_PIXELS} before; "
        "finished masks are kept",
        low=1,
        high=MAX_PIXELS,
        group="network",
    )
    max_memory: float = option(
        0,
        "reject images that would need more GiB of memory than this; the need grows with the pixels and, with --crf "
        "or --max-side, with the classes; finished masks are kept. 0: three quarters of the machine's memory, or of a "
        "worker process's share",
        low=0,
        group="network",
    )
    crf: str = option(
        "off",
        "refine the masks with a dense CRF; auto: only if `deeplab tune-crf` found a gain",
        choices=("off", "on", "auto"),
        bare="on",
        group="CRF",
    )
    crf_iterations: int | None = _crf("iterations", "mean-field iterations")
    crf_sxy: float | None = _crf("sxy", "bilateral kernel: standard deviation of positions, in pixels")
    crf_srgb: float | None = _crf("srgb", "bilateral kernel: standard deviation of colours, in grey levels")
    crf_compat: float | None = _crf("compat", "weight of the bilateral kernel")
    crf_sxy_gaussian: float | None = _crf(
        "sxy_gaussian", "smoothing kernel: standard deviation of positions, in pixels"
    )
    crf_compat_gaussian: float | None = _crf("compat_gaussian", "weight of the smoothing kernel")
    crf_engine: str = option(
        "native",
        "this project's own implementation, or the package pydensecrf",
        choices=("native", "pydensecrf"),
        group="CRF",
    )
    crf_workers: int = option(0, "images refined concurrently in every worker; 0: one per core", low=0, group="CRF")
    max_reject_rate: float = max_reject_rate("images")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.crf_options(CrfOptions())
        if self.crf == "off" and self.crf_flags:
            raise InputError(f"{self.crf_flags[0]} is for --crf on or auto; give one, or omit it")

    @property
    def crf_flags(self) -> list[str]:
        """The flags that were given for the CRF, without --crf."""
        given = [f"crf_{name}" for name in CRF_BOUNDS if getattr(self, f"crf_{name}") is not None]
        given += ["crf_engine"] * (self.crf_engine != "native") + ["crf_workers"] * (self.crf_workers != 0)
        return [self.flag(name) for name in given]

    def crf_options(self, otherwise: CrfOptions) -> CrfOptions:
        """The CRF's parameters: those given as flags, the others as in `otherwise`. InputError for impossible ones."""
        flags = {name: getattr(self, f"crf_{name}") for name in CRF_BOUNDS}
        return replace(otherwise, **{name: value for name, value in flags.items() if value is not None})
