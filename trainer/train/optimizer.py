"""The optimizer with its learning-rate schedule, and the freezing of layers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import keras

from trainer.network.deeplab import HEAD_SCOPES
from trainer.options import InputError
from trainer.train.options import Options
from trainer.train.resume import Progress

POLY_POWER = 0.9


def _with_shares(
    kind: type[keras.optimizers.Optimizer], shares: Sequence[float], decay: float
) -> type[keras.optimizers.Optimizer]:
    """A subclass of `kind` with a learning rate per variable: its share of the common one.

    The rate is scaled, not the gradient: Adam divides gradients by their magnitude, so a factor would cancel out.

    Args:
      shares: the share of every variable that the optimizer is built with, in order.
      decay: the weight decay of variables that `decays`; Keras's own would be at the common rate for all of them.
    """

    class Shared(kind):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            rate = learning_rate * shares[self._get_variable_index(variable)]
            if decay and decays(variable):
                variable.assign(variable - variable * keras.ops.cast(decay * rate, variable.dtype))
            super().update_step(gradient, variable, rate)

    return Shared


def decays(variable: Any) -> bool:
    """Whether weight decay is for a variable: not for biases and those of batch norms, all of them vectors."""
    return len(variable.shape) > 1


def is_backbone(layer: keras.Layer) -> bool:
    """Whether a layer of `deeplab_v3_plus` lies before ASPP, decoder and head."""
    return not layer.name.startswith(HEAD_SCOPES)


def build_optimizer(options: Options, model: keras.Model, total_steps: int) -> keras.optimizers.Optimizer:
    """The optimizer with its learning-rate schedule, with its variables built."""
    rate: Any = options.learning_rate
    if options.schedule == "poly":
        rate = keras.optimizers.schedules.PolynomialDecay(rate, total_steps, 0.0, POLY_POWER)
    kind, more = (
        (keras.optimizers.Adam, {}) if options.optimizer == "adam" else (keras.optimizers.SGD, {"momentum": 0.9})
    )
    backbone = {id(v) for layer in model.layers if is_backbone(layer) for v in layer.trainable_variables}
    shares = [options.backbone_rate if id(v) in backbone else 1.0 for v in model.trainable_variables]
    if any(share != 1 for share in shares):
        return _with_shares(kind, shares, options.weight_decay)(rate, **more)
    # Keras has a faster form of its own optimizers under PyTorch.
    optimizer = kind(rate, weight_decay=options.weight_decay or None, **more)
    if options.weight_decay:
        optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if not decays(v)])
    return optimizer


def adjust_learning_rate(options: Options, model: keras.Model, progress: Progress) -> None:
    """Reduces the rate on a plateau: halves it after every `plateau_patience` epochs without a better Jaccard."""
    stale = progress.stale_epochs
    if options.schedule == "plateau" and stale and stale % options.plateau_patience == 0:
        model.optimizer.learning_rate = progress.history[-1]["learning_rate"] / 2


def freeze(model: keras.Model, until: str = "", batch_norms: bool = False) -> None:
    """Stops the training of all layers up to `until`, itself included, and of all batch norms if `batch_norms`.

    Raises:
      InputError: no layer is called `until`, and the message names similar ones; or no layer is left to train.
    """
    names = [layer.name for layer in model.layers]
    if until and until not in names:
        near = difflib.get_close_matches(until, names, n=5, cutoff=0.3) or names[-5:]
        raise InputError(f"--freeze-until: layer {until!r} not found; similar ones: {', '.join(near)}")
    last = names.index(until) if until else -1
    for index, layer in enumerate(model.layers):
        if index <= last or (batch_norms and isinstance(layer, keras.layers.BatchNormalization)):
            layer.trainable = False
    if not model.trainable_variables:
        raise InputError(f"--freeze-until {until} leaves no layer to train; give an earlier layer")
