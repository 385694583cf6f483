"""What is trained: the network, compiled in the precision and on the devices of the training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer.formats.labels import Palette
from trainer.network.deeplab import deeplab_v3_plus
from trainer.network.options import NetworkOptions
from trainer.options import InputError
from trainer.train.losses import training_loss
from trainer.train.optimizer import build_optimizer, freeze
from trainer.train.options import Options


def architecture(options: NetworkOptions, palette: Palette) -> dict[str, Any]:
    """The arguments of `deeplab_v3_plus`."""
    names = ("backbone", "alpha", "output_stride", "head", "subpixel_start", "decoder", "aspp_rates", "multi_grid")
    numbers = {name: getattr(options, name) for name in names}
    return numbers | {"num_classes": palette.num_classes, "momentum": options.batch_norm_momentum}


def build(options: NetworkOptions, palette: Palette) -> keras.Model:
    """The network with initial weights."""
    return deeplab_v3_plus(**architecture(options, palette))


def compile_model(model: keras.Model, options: Options, palette: Palette, total_steps: int) -> None:
    """Makes `model` ready to train: freezes layers, and gives it a loss and an optimizer whose variables are built."""
    freeze(model, options.freeze_until, options.freeze_bn)
    check_batch(options.batch_size, model, tf.distribute.get_strategy().num_replicas_in_sync)
    optimizer, loss = build_optimizer(options, model, total_steps), training_loss(palette.ignore_id, options.lovasz)
    # XLA for one GPU alone: on a CPU a step that it compiled takes six times as long as one with oneDNN's kernels, and
    # it cannot compile what devices exchange within a step, batch norms and gradients.
    model.compile(optimizer, loss, jit_compile="auto" if len(tf.config.list_logical_devices("GPU")) == 1 else False)
    model.optimizer.build(model.trainable_variables)


def check_batch(size: int, model: keras.Model, devices: int) -> None:
    """Raises InputError for a batch of `size` images that `devices` cannot share, or that batch norms cannot use.

    That of the image pooling sees one value per image and channel, which has no variance if the image is alone.
    """
    if size % devices:
        near = max(size // devices, 1) * devices
        raise InputError(
            f"--batch-size {size} is over all {devices} GPUs together, which cannot share it equally; give a multiple "
            f"of {devices}, such as {near} or {near + devices}"
        )
    learning = any(isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in model.layers)
    if size < 2 * devices and learning:
        where = f" over {devices} GPUs" if devices > 1 else ""
        raise InputError(
            f"--batch-size {size}{where} leaves one image per device, of which batch norms cannot learn a variance; "
            f"give --batch-size {2 * devices} or more, or keep the batch norms as they were loaded with --freeze-bn"
        )


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers built in the block compute in `policy`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def strategy() -> tf.distribute.Strategy:
    """All GPUs of this machine. (Tried on logical CPU devices; one GPU or none needs no strategy.)"""
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()
