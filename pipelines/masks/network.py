"""The network of a model for the stages, from images to classes; one copy per worker process."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.masks.softmax import maps
from trainer.formats import exports
from trainer.formats.exports import OUTPUTS, PROBABILITIES
from trainer.network.options import WINDOW
from trainer.network.windows import windowed
from trainer.options import InputError
from trainer.startup import THREADS, check_backend, start_tensorflow

BATCH_PIXELS = {"CPU": 1 << 17, "GPU": 1 << 21}
"""Maximum pixels in a batch of several images; a larger image is a batch of its own. On a CPU, a batch of eight images
of 360x480 took 1.5 times as long as eight batches of one: such large arrays exceed the caches, and their memory is
mapped anew each time."""

Predict = Callable[[np.ndarray], Any]


class Network:
    """The network of a model folder or of an export; safe to use from several threads.

    Attributes:
      batch_pixels: maximum pixels in a batch of several images.

    Args:
      model: model folder or export, local or gs://.
      digest: expected SHA-256 of the weights, see `trainer.formats.exports.model_digest`; "" for any.

    Raises InputError if there is no usable model, or it has other weights.
    """

    def __init__(self, model: str, digest: str = "") -> None:
        kind = exports.kind(model)
        # Imported here, as ONNX and workers that find all their masks finished need no TensorFlow.
        if kind != "onnx":
            check_backend()  # TensorFlow imports Keras to load a SavedModel, too
            start_tensorflow()
        self._predictor = _exported(model, kind, digest) if kind else _of_folder(model, digest)
        self.batch_pixels = BATCH_PIXELS["GPU" if kind != "onnx" and _has_gpu() else "CPU"]
        self._predictors: dict[str, Predict] = {}
        # One batch at a time: it uses every core by itself, and two would only double the memory.
        self._lock = threading.Lock()

    def __call__(self, images: np.ndarray, what: str, window: int = WINDOW) -> Any:
        """Predictions for images uint8 [B, H, W, 3], see `trainer.network.inference.predictor`.

        Args:
          window: largest side, in pixels, of the windows in which larger images are seen.
        """
        with self._lock:
            if what not in self._predictors:
                self._predictors[what] = self._predictor(what)
            return windowed(self._predictors[what], window)(images)


def _of_folder(folder: str, digest: str) -> Callable[[str], Predict]:
    from trainer.network.batch_norm import fold_norms
    from trainer.network.folder import load_model
    from trainer.network.inference import predictor

    model, _ = load_model(folder, digest)
    fold_norms(model)
    return functools.partial(predictor, model)


def _exported(path: str, kind: str, digest: str) -> Callable[[str], Predict]:
    data = exports.read(path, digest)
    try:
        if kind == "onnx":
            from trainer.export import onnx

            run = onnx.load(data, int(os.environ.get(THREADS, 0)))
        else:
            from trainer.export import savedmodel

            run = savedmodel.load(data)
        _try(run, exports.load_card(path, data).palette.num_classes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None

    def best(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids, probabilities = run(images, OUTPUTS)
        _, highest, entropy = maps(probabilities)
        return ids, highest, entropy

    predictors = {
        "best": best,
        "probabilities": lambda images: run(images, (PROBABILITIES,))[0],
    }
    return predictors.__getitem__


def _try(run: Callable[..., list[np.ndarray]], classes: int) -> None:
    """Runs an export, which may have been edited, on an image. Raises InputError if its outputs are invalid."""
    images = np.zeros((1, 33, 47, 3), np.uint8)
    try:
        ids, probabilities = run(images, OUTPUTS)
    except Exception as error:  # the errors of the runtimes have no common base
        reason = str(error).partition("\n")[0]
        raise InputError(f"it does not run: {reason}; export the model again") from None
    outputs = (ids.dtype, ids.shape, probabilities.dtype, probabilities.shape)
    shape = images.shape[:3]
    if outputs != (np.uint8, shape, np.float32, (*shape, classes)):
        raise InputError(
            f"for an image of {shape[1]}x{shape[2]} and {classes} classes it gives {ids.dtype} {list(ids.shape)} and "
            f"{probabilities.dtype} {list(probabilities.shape)}; export the model again"
        )
    if ids.max() >= classes or not np.allclose(probabilities.sum(-1), 1, atol=0.01):
        raise InputError(
            f"it gives class ids up to {ids.max()} for {classes} classes, or probabilities that do not add up to 1; "
            "export the model again"
        )


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


_sharing = threading.Lock()


@functools.lru_cache(maxsize=1)
def _network(model: str, digest: str) -> Network:
    return Network(model, digest)


def shared_network(model: str, digest: str, threads: int) -> Network:
    """The Network of this process, loaded on the first call.

    Args:
      model: model folder or export, local or gs://.
      digest: SHA-256 of the model's weights, so that a new model at the same path is loaded again.
      threads: maximum number of threads of TensorFlow and ONNX Runtime, 0 for one per core; without effect once they
        have begun to compute.

    Raises:
      InputError: there is no usable model, or it has another digest.
    """
    with _sharing:
        if threads:
            os.environ.setdefault(THREADS, str(threads))
        return _network(model, digest)
