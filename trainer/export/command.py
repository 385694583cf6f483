"""The steps of `deeplab export`: check the inputs, convert, write, run the export, compare it with the model."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trainer import leases, startup, storage
from trainer.export import plan, samples, tally
from trainer.export.options import Options
from trainer.export.samples import Sample
from trainer.export.tally import Comparison
from trainer.formats import exports, tuning
from trainer.formats.cards import ModelCard, load_card, weights_digest
from trainer.formats.dataset import Dataset, unchanged

RUNTIMES = {"savedmodel": "TensorFlow", "onnx": "ONNX Runtime", "tflite": "LiteRT"}
DRAWN_SIDES = (1.0, 0.6)
"""Sides of the synthetic images, relative to the longest side."""


def run(options: Options, flags: list[str]) -> int:
    """Runs the command. Returns 0, or 1 if the export does not agree with the model."""
    options = dataclasses.replace(options, output=storage.absolute(options.output))  # "." has no name to add to
    card = load_card(options.model)
    digest = weights_digest(options.model, card)
    if options.format == "savedmodel":
        leases.acquire(options.output, "export")
    else:
        leases.acquire_file(options.output, "export")
    plan.check(options, card)
    tuned = tuning.load(options.model, digest)
    about = exports.about(card, digest, versions(options.format), tuned.to_json() if tuned else None)
    dataset = plan.dataset(options, card)
    images = samples.image_paths(options.images) if options.images else []
    plan.reserve(options)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # every format is made from a graph of TensorFlow
    startup.start_tensorflow()
    # Imported here, so that the checks above fail within a second.
    from trainer.network.folder import load_model
    from trainer.network.inference import predictor

    model, _ = load_model(options.model, digest)
    print(f"export: {options.model} as {options.format}, {options.quantize_words} -> {options.output}", flush=True)
    with startup.quiet_startup(), steady(options, dataset):
        files = build(options, model, card, dataset, about)
    plan.announce(options, files)
    for name, data in files.items():
        storage.write(storage.join(options.output, name) if name else options.output, data)
    plan.sweep(options, files)
    size, runtime_name = sum(map(len, files.values())) / 1e6, RUNTIMES[options.format]
    print(f"written, {size:.1f} MB; now running it in {runtime_name}, to compare it with the model", flush=True)
    with startup.quiet_startup():
        predict, ran = predictor(model, "probabilities"), runtime(options.format, files)
    with steady(options, dataset):
        comparison = tally.compare(
            to_check(options, card, dataset, images),
            lambda image: tally.reference(predict, card.max_side, image),
            lambda image: tuple(output[0] for output in ran(image[None], exports.OUTPUTS)),
            card.palette,
            options.quantize,
        )
    return finish(options, about, comparison)


def steady(options: Options, dataset: Dataset | None) -> contextlib.AbstractContextManager[None]:
    """The records that the block reads must not change meanwhile, see `dataset.unchanged`."""
    return unchanged(options.records, dataset) if dataset else contextlib.nullcontext()


def versions(name: str) -> dict[str, str]:
    """The versions of this program, of Keras, and of the libraries of a format."""
    libraries = ("deeplab-pipelines", "keras", "tensorflow", *plan.LIBRARIES[name])
    return {library: importlib.metadata.version(library) for library in libraries}


def build(
    options: Options, model: Any, card: ModelCard, dataset: Dataset | None, about: dict[str, Any]
) -> dict[str, bytes]:
    """The files of the export: name below the output ("" for the output itself) -> contents."""
    from trainer.export import graph

    function = graph.frozen(model, card.max_side, options.size)
    if options.format == "savedmodel":
        from trainer.export import savedmodel

        # The file that makes the folder a model comes last.
        return {exports.ABOUT: json.dumps(about, indent=2).encode(), exports.SAVED_MODEL: savedmodel.build(function)}
    if options.format == "onnx":
        from trainer.export import onnx

        return {"": onnx.build(function, about)}
    from trainer.export import tflite

    calibration: Iterator[np.ndarray] = iter(())
    if options.quantize == "int8":
        train = samples.of_records(options.records, dataset, "train")
        calibration = (sample.resized(options.size).image for sample in train)
    return {"": tflite.build(function, options.quantize, calibration, about, card.palette.names)}


def runtime(name: str, files: dict[str, bytes]) -> Callable[..., list[np.ndarray]]:
    """A function from images and names of outputs to these outputs, run by the format's own runtime."""
    if name == "savedmodel":
        from trainer.export import savedmodel

        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, exports.SAVED_MODEL), "wb") as file:
                file.write(files[exports.SAVED_MODEL])
            return savedmodel.served(folder)
    if name == "onnx":
        from trainer.export import onnx

        return onnx.load(files[""])
    from trainer.export import tflite

    return tflite.load(files[""])


def to_check(options: Options, card: ModelCard, dataset: Dataset | None, images: list[str]) -> Iterator[Sample]:
    """The samples for the check: at the size of the export, or else the middle of large ones."""
    if images:
        originals = samples.of_files(images)
    elif dataset is not None:
        originals = samples.of_records(options.records, dataset, "val")
    else:
        # If the model shrinks images, one of these is larger than its limit.
        side = round(1.3 * card.max_side) or 480
        originals = samples.drawn([(side, round(part * side)) for part in DRAWN_SIDES] + [(161, 200), (97, 97)])
    return (sample.resized(options.size) if options.size else sample.cut() for sample in originals)


def finish(options: Options, about: dict[str, Any], comparison: Comparison) -> int:
    """Writes and prints the figures; returns the exit status."""
    checked_on = options.images or (f"{options.records}, split val" if options.records else "drawn images")
    report = {"status": "finished", "format": options.format, "quantize": options.quantize, "size": options.size}
    report |= {"checked_on": checked_on, **comparison.to_json(), "versions": about["versions"]}
    path = plan.report_path(options.output)
    storage.write_json(path, report)
    print(f"checked on {checked_on}:\n{comparison.table()}\n  figures: {path}")
    if fault := comparison.fault():
        print(f"the export does not agree with the model: {fault}")
        return 1
    return 0
