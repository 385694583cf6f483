"""TFLite: one file for LiteRT on phones and small computers, for one image of one size."""

from __future__ import annotations

import io
import json
import os
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

ABOUT, LABELS = "deeplab.json", "labels.txt"
"""Files in the ZIP archive behind the model: of this program, and the one where others look for the classes' names."""


def build(
    function: Any, quantize: str, calibration: Iterable[np.ndarray], about: dict[str, Any], names: Sequence[str]
) -> bytes:
    """The file of a function from `graph.frozen`, made for images of one size.

    Args:
      quantize: "none", "float16", or "int8": weights and features, not what goes in and comes out.
      calibration: images, uint8 [H, W, 3] of that size, on which the ranges of features are seen, for "int8".
      names: of the classes.
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
            # Its calibration uses an interpreter of its own, of which it warns that others must not.
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
            data = converter.convert()
    # As TFLite's own metadata has it: a reader of ZIP archives finds them from the end, LiteRT reads from the start.
    # Opened to be added to, for then the archive counts its places from the start of the file.
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(LABELS), "".join(f"{name}\n" for name in names))
        archive.writestr(zipfile.ZipInfo(ABOUT), json.dumps(about, indent=2))
    return file.getvalue()


def load(data: bytes) -> Callable[..., list[np.ndarray]]:
    """What an export computes, in LiteRT on all cores.

    Returns:
      A function of one image, uint8 [1, H, W, 3], and the names of outputs, to these outputs.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner(SIGNATURE)

    def run(images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        results = runner(**{INPUT: images})
        return [results[name] for name in outputs]

    return run
