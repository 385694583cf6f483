"""ONNX: one file, for ONNX Runtime and much else."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainer.formats.exports import INPUT, KEY, named_files
from trainer.options import InputError

OPSET = 17
"""Version of ONNX's operations: of 2022, so that runtimes of today have it."""


def build(function: Any, about: dict[str, Any]) -> bytes:
    """The file of a function from `graph.frozen`."""
    import onnx
    import tf2onnx

    from trainer.export.graph import serving

    # It tells of each step at the level of warnings, and of what it looks for and does not find as errors.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    serve = serving(function)
    model, _ = tf2onnx.convert.from_function(serve, input_signature=serve.input_signature, opset=OPSET)
    onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    model.producer_name, model.producer_version = "deeplab", about["versions"]["deeplab-pipelines"]
    onnx.checker.check_model(model)
    return model.SerializeToString()


def load(data: bytes, threads: int = 0) -> Callable[..., list[np.ndarray]]:
    """What an export computes, in ONNX Runtime on CPUs; thread-safe.

    ONNX Runtime has ONNX's operations, which do nothing but compute, and some more of that kind; it refuses files with
    others. A file that names other files, for arrays that are in these, is refused: ONNX Runtime of version 1.23 would
    read them from anywhere on this machine.

    Args:
      data: the file.
      threads: most that one image is computed by; 0: one per core.

    Returns:
      A function of images, uint8 [B, H, W, 3], and the names of outputs, to these outputs.

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
    options.log_severity_level = 4  # what fails is raised as well
    try:
        if files := named_files(data):
            raise InputError(f"its arrays are in other files, such as {files[0]!r}; give a file that holds its own")
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except InputError:
        raise
    except Exception as error:  # its errors have no base of their own
        raise InputError(f"ONNX Runtime cannot use the file: {str(error).splitlines()[0]}") from None

    def run(images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        return session.run(list(outputs), {INPUT: images})

    return run
