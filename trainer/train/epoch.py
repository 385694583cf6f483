"""One epoch: training on its batches, and validation on whole images."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import metrics
from trainer.accounts import Accounts
from trainer.formats.dataset import Dataset
from trainer.options import InputError
from trainer.train.options import Options
from trainer.train.steps import Steps

OVERLAYS = 3


def steps_per_epoch(options: Options, dataset: Dataset) -> int:
    """The number of steps that the source images fill: augmented copies make an epoch more varied, not longer.

    It is at least 1: `deeplab records repair --drop` may have left nothing but copies.
    """
    return options.steps_per_epoch or max(1, math.ceil(dataset.images("train") / options.batch_size))


def validation_batch_size(options: Options, dataset: Dataset) -> int:
    """The number of whole images, at least 1, with no more pixels than a training batch, to need no more memory."""
    largest = max((shard.max_size[0] * shard.max_size[1] for shard in dataset.of_split("val")), default=1)
    return max(1, options.batch_size * options.crop**2 // largest)


@contextlib.contextmanager
def enough_memory(what: str, cure: str) -> Iterator[None]:
    """Turns running out of memory in the block into an InputError that names `what` and the `cure`."""
    try:
        yield
    except (MemoryError, RuntimeError, tf.errors.ResourceExhaustedError) as error:
        # JAX has no exception class for running out of memory.
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"there is not enough memory for {what}: {cure} ({reason})") from None


def try_largest(predict: Callable[[np.ndarray], np.ndarray], size: tuple[int, int]) -> None:
    """Predicts one image of `size`, the largest of the validation, so that it fails now rather than after an epoch.

    Args:
      predict: uint8 [B, H, W, 3] -> class ids uint8 [B, H, W].
      size: (height, width) in pixels.

    Raises:
      InputError: there is not enough memory.
    """
    height, width = size
    with enough_memory(
        f"the largest validation image, {height} x {width} pixels", "prepare the records with a smaller --max-side"
    ):
        predict(np.zeros([1, height, width, 3], np.uint8))


def train_epoch(stream: tf.data.Dataset, steps: Steps) -> dict[str, Any]:
    """Takes the remaining steps of an epoch, from `stream`; returns the first values of its `history_row`."""
    with steps.bar, enough_memory("a training step", "give a smaller --batch-size or --crop"):
        if steps.done < steps.total:
            left = steps.total - steps.done
            steps.model.fit(stream, steps_per_epoch=left, shuffle=False, callbacks=steps, verbose=0)
    return {
        "epoch": steps.progress.epochs + 1,
        "loss": float(steps.model.get_metrics_result()["loss"]),
        "learning_rate": steps.rate,
        "seconds_per_step": steps.pace.seconds_per_step,
    }


@dataclass(frozen=True)
class Validation:
    """The result of a validation.

    Attributes:
      confusion: int64 [C, C] over all validation images, see `trainer.metrics.confusion`.
      overlays: uint8 [n, height, width, 3] RGB, the first images with their masks painted over them.
    """

    confusion: np.ndarray
    overlays: np.ndarray


def validate(predict: Callable[[np.ndarray], np.ndarray], stream: tf.data.Dataset, dataset: Dataset) -> Validation:
    """Predicts the masks of the whole validation split and compares them with its labels.

    Args:
      predict: uint8 [B, H, W, 3] -> class ids uint8 [B, H, W].
      stream: batches of images and labels, see `validation_stream`.
      dataset: the contents of the records' dataset.json.

    Raises:
      UnbalancedError: the stream gave more or fewer records than dataset.json counts.
      InputError: no label has a pixel of any class.
    """
    palette = dataset.palette
    confusion = np.zeros([palette.num_classes] * 2, np.int64)
    overlays: list[np.ndarray] = []
    validated = 0
    for images, labels in stream.as_numpy_iterator():
        ids = predict(images)
        confusion += metrics.confusion(labels, ids, palette.num_classes, palette.ignore_id)
        validated += len(images)
        if not overlays:
            overlays = [palette.overlay(*pair) for pair in zip(images[:OVERLAYS], ids[:OVERLAYS], strict=True)]
    Accounts("records of split val", dataset.count("val"), {"validated": validated}).check()
    if not confusion.any():
        raise InputError(
            "the split val has no pixel of any class, so epochs cannot be compared; prepare the set again with "
            "other validation images"
        )
    return Validation(confusion, np.stack(overlays))
