"""The network to be trained, compiled for the precision and the devices of the training."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.random import seed_generator

from trainer import processes
from trainer.formats.cards import load_card
from trainer.formats.labels import Palette
from trainer.network.deeplab import ArgumentError, deeplab_v3_plus
from trainer.network.layers import layer_name, replicas
from trainer.network.options import NetworkOptions
from trainer.options import InputError, as_flags
from trainer.train.losses import TrainingLoss, Weigh, batch_weight, pixel_weights
from trainer.train.optimizer import build_optimizer, freeze
from trainer.train.options import Options, least_batch
from trainer.train.parts import in_parts
from trainer.weights.checkpoints import Imported, load_weights_from

COMPILED = "/jax/core/compile/backend_compile_duration"
"""The event of JAX after a program was compiled."""


def architecture(options: NetworkOptions, palette: Palette) -> dict[str, Any]:
    """The arguments of `deeplab_v3_plus`."""
    numbers = {field.name: getattr(options, field.name) for field in dataclasses.fields(NetworkOptions)}
    momentum = numbers.pop("batch_norm_momentum")
    return numbers | {"num_classes": palette.num_classes, "momentum": momentum}


def missing_flags(options: NetworkOptions, theirs: dict[str, Any]) -> str:
    """The flags with which the network would have the numbers of another one, but for its output stride."""
    names = [field.name for field in dataclasses.fields(NetworkOptions) if field.name != "output_stride"]
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in theirs.items()}
    return as_flags(
        {name: values[name] for name in names if name in values and values[name] != getattr(options, name)}
    )


def load_initial(model: keras.Model, options: Options, palette: Palette) -> Imported:
    """Loads the weights of --init-from; returns what was loaded. Raises InputError if they do not fit."""
    try:
        return load_weights_from(model, options.init_from, palette.names)
    except InputError as error:
        flags = ""
        with contextlib.suppress(InputError, OSError):  # no model folder
            flags = missing_flags(options, load_card(options.init_from).architecture)
        raise InputError(f"{error}; that model was trained with {flags}" if flags else str(error)) from None


def frozen_at_random(model: keras.Model, imported: Imported) -> list[str]:
    """The layers, by their published names, for which no weights were found, and which training will not change."""
    return [name for name in imported.skipped if not model.get_layer(layer_name(name)).trainable]


def build(options: Options, palette: Palette) -> keras.Model:
    """The network with initial weights, which depend only on --seed."""
    with _own_numbers(options.seed):
        network = _network(options, palette)
    if options.accumulate == 1:
        return network
    weigh = _weigh(options, palette)

    def total_weight(labels: Any) -> Any:
        return batch_weight(labels, palette.ignore_id, weigh(labels) if weigh else None)

    return in_parts(network, options.accumulate, total_weight)


def _network(options: Options, palette: Palette) -> keras.Model:
    """The network; its errors name the flags in place of its arguments."""
    try:
        return deeplab_v3_plus(**architecture(options, palette))
    except ArgumentError as error:
        raise InputError(f"{options.flag(error.argument)} {error.fault}") from None


def _weigh(options: Options, palette: Palette) -> Weigh | None:
    """The function that gives the pixels their weights in the loss; None if all weigh the same."""
    if options.pixel_weights != "adaptive":
        return None
    classes, ignore_id = palette.num_classes, palette.ignore_id
    return functools.partial(pixel_weights, num_classes=classes, ignore_id=ignore_id, max_ratio=options.max_ratio)


@contextlib.contextmanager
def _own_numbers(seed: int) -> Iterator[None]:
    """Makes Keras draw the seeds of initial weights from a generator that nothing else uses.

    By default Keras uses Python's `random`, which is also used by threads that write to Cloud Storage (to renew a
    lease, for instance): the weights would depend on when these write, and differ between hosts.
    """
    before = seed_generator.python_random
    seed_generator.python_random = random.Random(seed)
    try:
        yield
    finally:
        seed_generator.python_random = before


def for_validation(model: keras.Model, options: Options, palette: Palette) -> keras.Model:
    """The network as `segment` builds it, in float32 and on one device; `model` itself if that is the same.

    Otherwise it has its own weights, see `copy_weights`.
    """
    if options.precision == "float32" and (keras.backend.backend() == "tensorflow" or devices() == 1):
        return model
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        with precision("float32"):
            return deeplab_v3_plus(**architecture(options, palette))
    finally:
        keras.distribution.set_distribution(before)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights of the network in training to the one `for_validation`."""
    if source is not target:
        for one, other in zip(source.weights, target.weights, strict=True):
            other.assign(keras.ops.convert_to_numpy(one))


def compile_model(model: keras.Model, options: Options, palette: Palette, total_steps: int) -> None:
    """Prepares `model` for training: freezes layers, sets the loss, and builds the optimizer and its variables."""
    freeze(model, options.freeze_until, options.freeze_bn)
    check_batch(options.batch_size, model, devices(), options.accumulate)
    loss = TrainingLoss(palette.ignore_id, _weigh(options, palette), options.lovasz)
    model.compile(build_optimizer(options, model, total_steps), loss, jit_compile=uses_xla())
    model.optimizer.build(model.trainable_variables)
    if keras.backend.backend() == "jax" and devices() == 1:
        _make_step(model)


def uses_xla() -> bool:
    """Whether XLA compiles the training step.

    JAX always uses it. Under TensorFlow it is for a single GPU: on a CPU, a step takes six times as long as with
    oneDNN's kernels, and it cannot compile the communication between devices within a step.
    """
    return keras.backend.backend() == "jax" or len(tf.config.list_logical_devices("GPU")) == 1


def _make_step(model: keras.Model) -> None:
    """Makes the function of a training step before `fit` does, which would compile it without `step_options`."""
    from keras.src.backend.jax import trainer

    _release_after_compiling()
    before = trainer.jit
    trainer.jit = functools.partial(before, compiler_options=step_options())
    try:
        model.make_train_function()
    finally:
        trainer.jit = before


@functools.cache
def _release_after_compiling() -> None:
    """Returns to the system what XLA took to compile a step, before that step takes memory of its own."""
    import jax

    def release(event: str, seconds: float, **_: Any) -> None:
        if event == COMPILED and seconds > 1:
            processes.release_memory()

    jax.monitoring.register_event_duration_secs_listener(release)


def step_options() -> dict[str, Any]:
    """The options with which XLA compiles a training step under JAX; none but on a CPU.

    There XLA computes by default what it can as early as it can, for idle threads. A part of the gradients can be
    computed before the loss, and is then kept until it is needed: a step takes nearly twice the memory.
    """
    import jax

    if jax.default_backend() != "cpu":
        return {}
    options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except RuntimeError:  # JAX 0.6 has no such option, and later ones may have none
        return {}
    return options


def devices() -> int:
    """The number of devices that share the batch."""
    if keras.backend.backend() == "jax":
        distribution = keras.distribution.distribution()
        return distribution.device_mesh.devices.size if distribution else 1
    return replicas()


def check_batch(size: int, model: keras.Model, devices: int, parts: int = 1) -> None:
    """Raises InputError for a batch of `size` images that devices or parts cannot share, or batch norms cannot use."""
    shares = devices * parts
    is_learning = any(isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in model.layers)
    least = least_batch(devices, parts, keras.backend.backend()) if is_learning else 1
    if size % shares:
        near = max(size // shares, -(-least // shares)) * shares
        over = f"all {devices} GPUs together" if devices > 1 else ""
        over += f"{' and ' if over else ''}{parts} parts" if parts > 1 else ""
        raise InputError(
            f"--batch-size {size} is over {over}, which cannot share it equally; give a multiple of {shares}, such as "
            f"{near} or {near + shares}"
        )
    if size < least:
        where = f" over {devices} GPUs" * (devices > 1) + f" in {parts} parts" * (parts > 1)
        raise InputError(
            f"--batch-size {size}{where} leaves one image per device{' and part' * (parts > 1)}, of which batch norms "
            f"cannot learn a variance; give --batch-size {least} or more, or keep the batch norms as they were "
            "loaded with --freeze-bn"
        )


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Makes layers that are built in the block compute in `policy`, a dtype policy of Keras."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def strategy() -> Any:
    """The distribution over all devices that share a batch; to be entered with `scope()`.

    These are the GPUs of this machine under TensorFlow (tested on logical CPU devices; none or one needs no strategy),
    and the devices of all hosts under JAX.
    """
    if keras.backend.backend() == "jax" and len(keras.distribution.list_devices()) > 1:
        # Each host produces its own part of a batch, see `TrainingStream`.
        return keras.distribution.DataParallel(auto_shard_dataset=False)
    if keras.backend.backend() == "tensorflow" and len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()
