"""Checks of the options, the model and the output, before anything is computed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterable
from typing import Any

from trainer import leases, storage
from trainer.export.options import Options
from trainer.formats.cards import ModelCard
from trainer.formats.dataset import Dataset, check_shards, load_dataset
from trainer.formats.exports import ABOUT, CLASS_BYTES, SAVED_MODEL
from trainer.limits import memory
from trainer.network.options import bytes_per_pixel
from trainer.options import InputError
from trainer.terminal import some

LIBRARIES = {"savedmodel": (), "onnx": ("onnx", "onnxruntime", "tf2onnx"), "tflite": ("ai-edge-litert",)}
"""Format -> Python distributions that it needs in addition to TensorFlow."""

MOST_VALUES = 2**31 - 1
"""Maximum number of values in an array of a TFLite model, which indexes them by int32."""

RUNNING = "running"
"""Status in the report of a run that has not come to its end."""


def report_path(output: str) -> str:
    """The path of the file with the figures of the check."""
    return f"{output.rstrip('/')}.check.json"


def check(options: Options, card: ModelCard) -> None:
    """Raises InputError if packages are missing, the model is too large for the format, or the output exists."""
    missing = [name for name in LIBRARIES[options.format] if importlib.util.find_spec(name.replace("-", "_")) is None]
    if missing:
        raise InputError(
            f"--format {options.format} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            'installed; install with `pip install "deeplab-pipelines[export]"`'
        )
    if options.size is not None:
        _check_size(*options.size, card)
    if _is_taken(options) and not options.overwrite:
        raise InputError(f"{options.output} exists; give another --output, or --overwrite to replace it")


def _check_size(height: int, width: int, card: ModelCard) -> None:
    """Raises InputError if a TFLite model for images of that size, in pixels, cannot be made or run here."""
    classes = card.palette.num_classes
    if height * width * classes > MOST_VALUES:
        raise InputError(
            f"--size {height} {width} with {classes} classes is {height * width * classes:,} probabilities, more "
            f"than the {MOST_VALUES:,} values that an array of TFLite can have; give a smaller --size, or make a "
            "SavedModel or ONNX file"
        )
    needed = height * width * (bytes_per_pixel(card.architecture) + classes * CLASS_BYTES)
    if needed > (there := memory()):
        raise InputError(
            f"--size {height} {width} with {classes} classes takes about {needed / 1e9:,.0f} GB to be checked, and "
            f"this process may use {there / 1e9:,.0f} GB; give a smaller --size, or a larger machine"
        )


def _is_taken(options: Options) -> bool:
    """Whether an export or another file is at the output. Raises InputError if no export can replace it."""
    output = options.output
    if options.format != "savedmodel":
        storage.check_folder(os.path.dirname(output) or ".")
        if storage.is_dir(output):
            raise InputError(f"--output {output} is a folder; expected a file ending in .{options.format}")
        return _is_there(output) and not _was_left(options)
    storage.check_folder(output)
    # One by one, since a folder of another program may hold millions.
    for file in storage.walk(output) if storage.is_dir(output) else ():
        if (storage.unfinished(file.relative) or file.relative) not in (SAVED_MODEL, ABOUT, leases.FILE):
            raise InputError(f"{output} holds {file.relative}, which is not part of an export; give another --output")
    return _is_there(storage.join(output, SAVED_MODEL)) and not _was_left(options)


def _was_left(options: Options) -> bool:
    """Whether the file at the output is what a run was about to write, and has then not finished checking."""
    path, file = report_path(options.output), _main_file(options)
    if not storage.exists(path) or not storage.exists(file):
        return False
    report = storage.json_object(storage.read(path))
    return report.get("status") == RUNNING and report.get("writes") == _digest(storage.read(file))


def _main_file(options: Options) -> str:
    """The path of the file of the export that is written last."""
    return storage.join(options.output, SAVED_MODEL) if options.format == "savedmodel" else options.output


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_there(path: str) -> bool:
    """Whether a file exists at `path`, or something that a file would replace: a broken link or a FIFO."""
    return storage.exists(path) or (not storage.is_remote(path) and os.path.lexists(path))


def reserve(options: Options) -> None:
    """Writes the report of the check with the status "running". Raises InputError if it cannot be written."""
    path = report_path(options.output)
    try:
        storage.check_file(path)
        if _is_there(path) and not _is_report(storage.json_object(storage.read(path))):
            raise InputError(
                f"{path}, where the figures of the check are to be written, is another file; move it, or give another "
                "--output"
            )
        storage.write_json(path, {"status": RUNNING})
    except OSError as error:
        raise InputError(f"{path} cannot be written to: {error.strerror or error}; give another --output") from None


def _is_report(value: dict[str, Any]) -> bool:
    """Whether `export` wrote this, before, while or after it wrote its file."""
    return value == {"status": RUNNING} or ("status" in value and not value.keys().isdisjoint(("writes", "format")))


def announce(options: Options, files: dict[str, bytes]) -> None:
    """Notes in the report what is about to be written, so that a later run may replace it if this one is killed."""
    *_, data = files.values()
    storage.write_json(report_path(options.output), {"status": RUNNING, "writes": _digest(data)})


def sweep(options: Options, names: Iterable[str]) -> None:
    """Removes the unfinished files that killed runs have left of the export's files `names`, and of its report."""
    for path in (report_path(options.output), *(storage.join(options.output, name) for name in names)):
        folder, _, name = path.rstrip("/").rpartition("/")
        storage.sweep(folder or "/", [name])


def dataset(options: Options, card: ModelCard) -> Dataset | None:
    """The records of --records; None without. Raises InputError if the classes differ or a split has no images."""
    if not options.records:
        return None
    theirs = load_dataset(options.records)
    if theirs.palette.names != card.palette.names:
        raise InputError(
            f"{options.records} has the classes {_some(theirs.palette.names)}, the model {_some(card.palette.names)}; "
            "give records of the classes the model was trained on"
        )
    if theirs.palette.ignore_id != card.palette.ignore_id:
        raise InputError(
            f"{options.records} ignores pixels of id {theirs.palette.ignore_id}, the model those of "
            f"{card.palette.ignore_id}; give records that were prepared with the model's palette"
        )
    purposes = {"val": "to check the export on"}
    purposes |= {"train": "to calibrate on"} if options.quantize == "int8" else {}
    for split, purpose in purposes.items():
        if not theirs.images(split):
            raise InputError(
                f"{options.records} has no images of split {split!r} {purpose}, only of "
                f"{', '.join(theirs.splits) or 'none'}; prepare it again from a set with train and val images"
            )
    check_shards(options.records, theirs)
    return theirs


def _some(names: tuple[str, ...]) -> str:
    return f"{some(names, 4)} ({len(names)})"
