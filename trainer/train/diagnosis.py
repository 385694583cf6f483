"""Finds out why the loss of a step is NaN or infinite: its records, their labels, and the first layer affected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.formats.examples import decode
from trainer.formats.labels import Palette
from trainer.train.options import Options

FLOAT16_MAX = 65504.0
SHOWN_RECORDS = 16


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of a step whose loss is NaN or infinite.

    Attributes:
      step: the step of the epoch, counted from 1.
      cause: the values that were not finite, and the first layer with such values; or the reason why it is unknown.
      largest: the largest magnitude among the features and weights before; NaN if unknown.
    """

    step: int
    cause: str = "not found when the steps since the last checkpoint were taken again"
    largest: float = math.nan


def is_finite(variables: Sequence[Any]) -> bool:
    """Whether all values of the floating-point variables or tensors are finite."""
    floats = (ops.convert_to_numpy(v) for v in variables if keras.backend.is_float_dtype(v.dtype))
    return all(np.isfinite(array).all() for array in floats)


def without_numbers(model: keras.Model, kind: str) -> list[str]:
    """The layers, in the network's order, with weights of that kind (a layer's attribute) that are not finite."""
    return [layer.name for layer in model.layers if not is_finite(getattr(layer, kind))]


def _largest(values: Sequence[Any]) -> float:
    """The largest finite magnitude in tensors."""
    floats = [ops.cast(value, "float32") for value in values]
    magnitudes = [ops.max(ops.abs(ops.where(ops.isfinite(value), value, 0.0))) for value in floats]
    return float(ops.convert_to_numpy(ops.max(ops.stack(magnitudes))))


def diagnose(model: keras.Model, step: int, batch: tuple[np.ndarray, np.ndarray]) -> Diagnosis:
    """Finds the first values of a step that are NaN or infinite.

    Args:
      model: the model in its state before the step.
      step: the first step whose loss is NaN or infinite.
      batch: the batch of the step: images and labels, see `TrainingStream`.
    """
    weights = model.trainable_variables
    if layers := without_numbers(model, "trainable_weights"):
        # Gradients flow backwards: all layers before the one where they overflowed have such weights by now.
        return Diagnosis(step - 1, f"the gradients, first in the layer {layers[-1]}", _largest(weights))
    if layers := without_numbers(model, "non_trainable_weights"):
        # In a batch norm, only the variance shows the scale of what overflowed.
        cause = f"the mean or variance of a batch, first in the layer {layers[0]}"
        return Diagnosis(step - 1, cause, _largest(weights))
    image, label = batch
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    outputs = keras.Model(model.inputs[0], [layer.output for layer in layers])(image, training=True)
    for index, output in enumerate(outputs):
        if not is_finite([output]):
            largest = _largest([*weights, *outputs[: index + 1]])
            return Diagnosis(step, f"the output of the layer {layers[index].name}", largest)
    loss = model.compute_loss(image, label, outputs[-1])
    if math.isfinite(float(ops.convert_to_numpy(loss))):
        return Diagnosis(step)
    return Diagnosis(step, "the loss alone; the logits are finite", _largest(outputs[-1:]))


def cure(options: Options, diagnosis: Diagnosis) -> str:
    """The flags to change."""
    smaller = f"a smaller --learning-rate than {options.learning_rate:g}"
    if options.precision == "mixed_float16" and diagnosis.largest > FLOAT16_MAX / 16:
        return f"--precision mixed_bfloat16 or float32: mixed_float16 has no numbers above {FLOAT16_MAX:g}"
    if options.precision != "float32":
        return f"{smaller}, or --precision float32"
    return smaller


def names_of(records: Sequence[bytes]) -> list[str]:
    """The keys of serialised records, with their copies: "street/7", "street/7 (copy 2)"."""
    decoded = [decode(record) for record in records]
    return [f"{record.key} (copy {record.copy})" if record.copy else record.key for record in decoded]


def report(
    options: Options, palette: Palette, epoch: int, loss: float, diagnosis: Diagnosis, records: list[str], labels: Any
) -> str:
    """The error and its cure, in a few lines.

    Args:
      records: the names of the records of the batch, see `names_of`.
      labels: [B, height, width] uint8 class ids of the batch.
    """
    ids = [id for id in np.unique(labels) if id < palette.num_classes]
    shown = records[:SHOWN_RECORDS] + ([f"{len(records) - SHOWN_RECORDS} more"] if records[SHOWN_RECORDS:] else [])
    largest = "" if math.isnan(diagnosis.largest) else f"; the largest number before was {diagnosis.largest:.3g}"
    return "\n".join(
        [
            f"the loss became {loss} in step {diagnosis.step} of epoch {epoch}",
            f"  records: {', '.join(shown)}",
            f"  labels: {', '.join(f'{id} {palette.names[id]}' for id in ids) or 'all ignored'}",
            f"  not finite: {diagnosis.cause}{largest}",
            f"  try {cure(options, diagnosis)}",
        ]
    )
