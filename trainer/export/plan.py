"""What can be seen to be wrong before anything is computed."""

from __future__ import annotations

import importlib.util
from typing import Any

from trainer import leases, storage
from trainer.export.options import Options
from trainer.formats.cards import TUNING_FILE, ModelCard
from trainer.formats.dataset import Dataset, load_dataset
from trainer.formats.exports import SAVED_MODEL
from trainer.options import InputError

PACKAGES = {"savedmodel": (), "onnx": ("onnx", "onnxruntime", "tf2onnx"), "tflite": ("ai_edge_litert",)}
"""Format -> modules that it needs beyond TensorFlow."""

MOST_VALUES = 2**31 - 1
"""In one array of a TFLite model, whose places are counted in int32."""


def report_path(output: str) -> str:
    """Where the figures of the check go."""
    return f"{output.rstrip('/')}.check.json"


def check(options: Options, card: ModelCard) -> None:
    """Raises InputError where packages are missing, the model is too large for the format, or the output is taken."""
    missing = [name for name in PACKAGES[options.format] if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format {options.format} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            'installed; install with `pip install "deeplab-pipelines[export]"`'
        )
    if options.size is not None:
        height, width = options.size
        classes = card.palette.num_classes
        if height * width * classes > MOST_VALUES:
            raise InputError(
                f"--size {height} {width} with {classes} classes is {height * width * classes:,} probabilities, more "
                f"than the {MOST_VALUES:,} values that an array of TFLite can have; give a smaller --size, or make a "
                "SavedModel or ONNX file"
            )
    if options.format != "savedmodel" and storage.is_dir(options.output):
        raise InputError(f"--output {options.output} is a folder; expected a file ending in .{options.format}")
    if options.format == "savedmodel":
        storage.check_folder(options.output)
        names = {file.relative for file in storage.files(options.output)} if storage.is_dir(options.output) else set()
        names.discard(leases.FILE)
        if names and SAVED_MODEL not in names:
            raise InputError(f"{options.output} holds other files than a SavedModel; give another --output")
        taken = bool(names)
    else:
        taken = storage.exists(options.output)
    if taken and not options.overwrite:
        raise InputError(f"{options.output} exists; give another --output, or --overwrite to replace it")


def tuning(options: Options, digest: str) -> dict[str, Any] | None:
    """Contents of the model's crf.json, None without one. Raises InputError where it is damaged or of other weights.

    Args:
      digest: of the model's weights.
    """
    path = storage.join(options.model, TUNING_FILE)
    if not storage.exists(path):
        return None
    found = storage.read_json(path)
    if not isinstance(found, dict) or found.get("model_digest") != digest:
        raise InputError(f"{path} was made with other weights; run `deeplab tune-crf` again, or delete the file")
    return found


def reserve(options: Options) -> None:
    """Writes the report of a check that is still to come. Raises InputError where nothing can be written."""
    path = report_path(options.output)
    try:
        storage.write_json(path, {"status": "running"})
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error}") from None


def dataset(options: Options, card: ModelCard) -> Dataset | None:
    """The records of --records. Raises InputError where they are of other classes, or lack images of a split."""
    if not options.records:
        return None
    found = load_dataset(options.records)
    if found.palette.names != card.palette.names:
        raise InputError(
            f"{options.records} has the classes {_some(found.palette.names)}, the model {_some(card.palette.names)}; "
            "give records of the classes the model was trained on"
        )
    purposes = {"val": "to check the export on"}
    purposes |= {"train": "to calibrate on"} if options.quantize == "int8" else {}
    for split, purpose in purposes.items():
        if not found.images(split):
            raise InputError(
                f"{options.records} has no images of split {split!r} {purpose}, only of "
                f"{', '.join(found.splits) or 'none'}; prepare it again from a set with train and val images"
            )
    return found


def _some(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:4])}{', ...' * (len(names) > 4)} ({len(names)})"
