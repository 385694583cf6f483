"""A model folder's network as the stages use it: from images to classes, one copy per worker process."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.startup import start_tensorflow

BATCH_PIXELS = {"CPU": 1 << 17, "GPU": 1 << 21}
"""Pixels in one pass of the network; a larger image has a pass of its own. On a CPU a pass over eight images of
360x480 took half as long again as eight passes: arrays that large leave the caches and are mapped again every time."""


class Network:
    """A model folder's network; safe to use from several threads.

    Attributes:
      batch_pixels: most pixels in one pass of more than one image.

    Args:
      folder: model folder, local or gs://.
      digest: SHA-256 of the weights that are wanted; "" for any.

    Raises InputError when the folder holds no usable model, or other weights.
    """

    def __init__(self, folder: str, digest: str = "") -> None:
        # Not imported with this module: workers that find all their masks finished need no TensorFlow.
        start_tensorflow()
        from trainer.network.folder import load_model

        self._model, _ = load_model(folder, digest)
        self.batch_pixels = BATCH_PIXELS["GPU" if _has_gpu() else "CPU"]
        self._predictors: dict[str, Callable[[np.ndarray], Any]] = {}
        # One pass at a time: it uses every core by itself, and two would only double the memory.
        self._lock = threading.Lock()

    def __call__(self, images: np.ndarray, what: str) -> Any:
        """Predictions for images uint8 [B, H, W, 3], see `trainer.network.folder.predictor`."""
        with self._lock:
            if what not in self._predictors:
                from trainer.network.folder import predictor

                self._predictors[what] = predictor(self._model, what)
            return self._predictors[what](images)


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


_sharing = threading.Lock()


@functools.lru_cache(maxsize=1)
def _network(folder: str, digest: str) -> Network:
    return Network(folder, digest)


def shared_network(folder: str, digest: str, threads: int) -> Network:
    """The one Network of this process, loaded on the first call.

    Args:
      folder: model folder, local or gs://.
      digest: SHA-256 of the model's weights, so that a new model in an old folder is loaded again.
      threads: bounds TensorFlow's, 0 for one per core; without effect once TensorFlow has begun to compute.

    Raises:
      InputError: no usable model, or one of another digest.
    """
    with _sharing:
        if threads:
            os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
        return _network(folder, digest)
