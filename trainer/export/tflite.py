"""TFLite: one file, for LiteRT on phones and small computers, which takes one image of a fixed size."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.export.graph import serving
from trainer.export.savedmodel import SIGNATURE
from trainer.formats.exports import INPUT
from trainer.limits import cores
from trainer.terminal import printable

ABOUT, LABELS = "deeplab.json", "labels.txt"
"""Files in the ZIP archive after the model: ours, and the one in which other readers expect the class names."""


def build(
    function: Any, quantize: str, calibration: Iterable[np.ndarray], about: dict[str, Any], names: Sequence[str]
) -> bytes:
    """The contents of the file for a function from `graph.frozen` for images of one size.

    Args:
      quantize: "none", "float16" or "int8", for weights and features but not for input and output.
      calibration: images, uint8 [H, W, 3] of that size, on which the ranges of features are measured for "int8".
      names: the names of the classes.
    """
    with tempfile.TemporaryDirectory() as folder:
        module = tf.Module()
        module.serve = serving(function)
        tf.saved_model.save(module, folder, signatures=module.serve)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.representative_dataset = lambda: ({INPUT: image[None]} for image in calibration)
        with warnings.catch_warnings():
            # The calibration uses TensorFlow's own interpreter, which prints a deprecation warning.
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
            data = converter.convert()
    # The same as in TFLite's own metadata: ZIP readers start at the end of the file, LiteRT at its beginning.
    # Opened for appending, so that the archive's offsets count from the start of the file.
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(LABELS), label_lines(names))
        archive.writestr(zipfile.ZipInfo(ABOUT), json.dumps(about, indent=2))
    return file.getvalue()


def label_lines(names: Sequence[str]) -> str:
    """The contents of LABELS: one line for each class, since its readers take the number of a line for a class id."""
    return "".join(f"{printable(name)}\n" for name in names)


def load(data: bytes) -> Callable[..., list[np.ndarray]]:
    """Loads an export as a function, run by LiteRT on all cores.

    Returns:
      A function from one image, uint8 [1, H, W, 3], and names of outputs to these outputs.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=cores())
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner(SIGNATURE)

    def run(images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        results = runner(**{INPUT: images})
        return [results[name] for name in outputs]

    return run
