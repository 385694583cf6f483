"""ONNX: one file, for ONNX Runtime and many other runtimes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainer.formats.exports import INPUT, KEY, named_files
from trainer.options import InputError

OPSET = 17
"""Version of ONNX's operator set. It is from 2022, so today's runtimes support it."""


def build(function: Any, about: dict[str, Any]) -> bytes:
    """The file of a function from `graph.frozen`."""
    import onnx
    import tf2onnx

    from trainer.export.graph import serving

    # tf2onnx logs each step as a warning, and optional features it does not find as errors.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    serve = serving(function)
    model, _ = tf2onnx.convert.from_function(serve, input_signature=serve.input_signature, opset=OPSET)
    onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    model.producer_name, model.producer_version = "deeplab", about["versions"]["deeplab-pipelines"]
    onnx.checker.check_model(model)
    return model.SerializeToString()


def load(data: bytes, threads: int = 0) -> Callable[..., list[np.ndarray]]:
    """Loads an export as a thread-safe function, run by ONNX Runtime on CPUs.

    ONNX Runtime has ONNX's operations and some of its own, all of which only compute; it refuses files with others.
    Files that refer to other files for their arrays are refused here, as ONNX Runtime 1.23 would read them from
    anywhere on this machine.

    Args:
      data: the contents of the file.
      threads: maximum number of threads for one image; 0 for one per core.

    Returns:
      A function from images, uint8 [B, H, W, 3], and names of outputs to these outputs.

    Raises:
      InputError: the file cannot be used.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "ONNX files are run by ONNX Runtime, which is not installed; install it with "
            '`pip install "deeplab-pipelines[onnx]"`'
        ) from None

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised anyway
    try:
        if files := named_files(data):
            raise InputError(f"its arrays are in other files, such as {files[0]!r}; give a file that holds its own")
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise InputError(f"ONNX Runtime cannot use the file: {str(error).splitlines()[0]}") from None

    def run(images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        return session.run(list(outputs), {INPUT: images})

    return run
