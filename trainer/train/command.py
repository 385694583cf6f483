"""Records -> model folder: train DeepLabV3+ and keep the weights of the best validation Jaccard.

    deeplab train --records out/records --output out/model --init-from deeplabv3_mnv2_pascal/model.ckpt --epochs 10

The output folder holds `model.keras` and `model.json` (the best epoch), `history.csv`, `checkpoints/` (the last epoch,
to be continued) and `logs/` (TensorBoard). The same command run again continues after the last finished epoch and ends
where an uninterrupted run ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import metrics, storage
from trainer.formats.cards import ModelCard
from trainer.formats.records import Dataset, load_dataset
from trainer.network.deeplab import deeplab_v3_plus, predictor, save_model
from trainer.options import InputError, option, parse, to_json
from trainer.train import resume
from trainer.train.history import Logs, StepBar, epoch_line, history_csv, summary
from trainer.train.losses import sparse_cross_entropy
from trainer.train.resume import Progress
from trainer.train.streams import training_stream, validation_stream
from trainer.weights.checkpoints import load_weights_from

DESCRIPTION = """\
Train DeepLabV3+ on records that `deeplab prepare` wrote. Classes come from the records.
Run the same command again to continue a training that was interrupted."""

EPILOG = """\
examples:
  from published weights:
    deeplab train --records out/records --output out/model --init-from deeplabv3_mnv2_pascal/model.ckpt --epochs 10
  a small model from nothing, with a decoder:
    deeplab train --records out/records --output out/small --alpha 0.5 --decoder --epochs 60"""

POLY_POWER = 0.9
OVERLAYS = 3
CURE = "try a smaller --learning-rate, or --precision float32"


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of `deeplab train`."""

    records: str = option(help="folder of records, local or gs://")
    output: str = option(help="model folder to write, local or gs://")
    init_from: str = option("", "weights to begin with: a published DeepLab checkpoint, or a model folder")
    epochs: int = option(30, "epochs to train")
    steps_per_epoch: int = option(0, "batches per epoch; 0: as many as the source pictures make, copies not counted")
    batch_size: int = option(8, "pictures per step, over all GPUs together")
    crop: int = option(512, "side of the square training crops in pixels")
    scale_min: float = option(0.75, "smallest random scale of a training picture")
    scale_max: float = option(1.75, "largest random scale of a training picture")
    flip: bool = option(True, "mirror half of the training pictures")
    pixel_weights: str = option("adaptive", "weights of pixels in the loss", choices=("adaptive", "none"))
    max_ratio: float = option(10.0, "how many times more one class may weigh than another")
    backbone: str = option("mobilenet_v2", "feature network", choices=("mobilenet_v2", "xception_65"))
    alpha: float = option(1.0, "width of MobileNetV2: 1.0, or less for smaller models")
    output_stride: int = option(16, "input pixels per feature; 8 is finer and slower", choices=(8, 16, 32))
    head: str = option("subpixel", "how features become pixels", choices=("subpixel", "bilinear"))
    decoder: bool | None = option(None, "refine with low-level features; not said: as the backbone was published")
    aspp_rates: tuple[int, ...] | None = option(None, "dilation rates of the ASPP branches; none: the backbone's own")
    batch_norm_momentum: float = option(
        0.99, "share of the batch norms' statistics that one step keeps; 0.9 for trainings of a few hundred steps"
    )
    optimizer: str = option("adam", "adam, or stochastic gradient descent with momentum", choices=("adam", "momentum"))
    learning_rate: float = option(1e-3, "learning rate at the beginning")
    schedule: str = option(
        "poly",
        "poly: decay to 0 over all epochs; plateau: halve when the validation Jaccard stops rising",
        choices=("poly", "plateau", "constant"),
    )
    plateau_patience: int = option(3, "epochs without a better validation Jaccard before plateau halves")
    weight_decay: float = option(0.0, "decoupled weight decay of the convolution kernels")
    early_stopping: int = option(0, "stop after so many epochs without a better validation Jaccard; 0: never")
    freeze_until: str = option("", "layer up to which, itself included, nothing is trained")
    freeze_bn: bool = option(False, "keep batch norms as they were loaded; for very small batches")
    precision: str = option(
        "float32", "arithmetic of the layers", choices=("float32", "mixed_bfloat16", "mixed_float16")
    )
    seed: int = option(0, "seed of initial weights, order, crops and dropout")
    resume: bool = option(True, "continue the training in the output folder, if there is one")

    def __post_init__(self) -> None:
        at_least = {"epochs": 1, "steps_per_epoch": 0, "batch_size": 1, "crop": 32, "max_ratio": 1, "seed": 0,
                    "plateau_patience": 1, "early_stopping": 0, "weight_decay": 0}  # fmt: skip
        for name, least in at_least.items():
            if not getattr(self, name) >= least:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} must be at least {least}, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise InputError(f"--learning-rate must be over 0, got {self.learning_rate}")
        if not 0 <= self.batch_norm_momentum < 1:
            raise InputError(f"--batch-norm-momentum must be at least 0 and below 1, got {self.batch_norm_momentum}")
        if not 0 < self.scale_min <= self.scale_max:
            raise InputError(
                f"--scale-min and --scale-max must be 0 < min <= max, got {self.scale_min} and {self.scale_max}"
            )


@contextlib.contextmanager
def _precision(policy: str) -> Iterator[None]:
    """Layers built in the block compute in `policy`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _strategy() -> tf.distribute.Strategy:
    """All GPUs of this machine. (Tried on logical CPU devices; one GPU or none needs no strategy.)"""
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


@contextlib.contextmanager
def _readable_records(folder: str) -> Iterator[None]:
    """Turns what tf.data says of damaged records into an InputError."""
    try:
        yield
    except tf.errors.DataLossError as error:
        raise InputError(
            f"a shard in {folder} is damaged ({error.message.splitlines()[0]}); "
            f"`deeplab records verify {folder}` tells which record"
        ) from None
    except tf.errors.InvalidArgumentError as error:
        if "IteratorGetNext" not in str(error):
            raise
        raise InputError(
            f"a record in {folder} cannot be decoded ({error.message.splitlines()[0]}); "
            f"`deeplab records verify {folder}` tells which"
        ) from None


def architecture(options: TrainOptions, dataset: Dataset) -> dict[str, Any]:
    """The arguments of `deeplab_v3_plus`."""
    names = ("backbone", "alpha", "output_stride", "head", "decoder", "aspp_rates")
    numbers = {name: getattr(options, name) for name in names}
    return numbers | {"num_classes": dataset.palette.num_classes, "momentum": options.batch_norm_momentum}


def freeze(model: keras.Model, until: str = "", batch_norms: bool = False) -> None:
    """Stop training of all layers up to `until`, itself included, and of all batch norms if asked."""
    names = [layer.name for layer in model.layers]
    if until and until not in names:
        near = difflib.get_close_matches(until, names, n=5, cutoff=0.3) or names[-5:]
        raise InputError(f"--freeze-until: there is no layer {until!r}; near it: {', '.join(near)}")
    last = names.index(until) if until else -1
    for index, layer in enumerate(model.layers):
        if index <= last or (batch_norms and isinstance(layer, keras.layers.BatchNormalization)):
            layer.trainable = False


def build_optimizer(options: TrainOptions, model: keras.Model, total_steps: int) -> keras.optimizers.Optimizer:
    """The optimizer with its learning-rate schedule, its variables built."""
    rate: Any = options.learning_rate
    if options.schedule == "poly":
        rate = keras.optimizers.schedules.PolynomialDecay(rate, total_steps, 0.0, POLY_POWER)
    decay = options.weight_decay or None
    if options.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, weight_decay=decay)
    else:
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, weight_decay=decay)
    if decay:
        # Biases and batch norms are not to be drawn to zero; every matrix of theirs is a vector.
        optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    return optimizer


def build(options: TrainOptions, dataset: Dataset, total_steps: int, load: bool) -> keras.Model:
    """The compiled model; its initial weights are loaded and told about if `load`."""
    model = deeplab_v3_plus(**architecture(options, dataset))
    if load and options.init_from:
        print(f"weights of {options.init_from}: {load_weights_from(model, options.init_from)}")
    freeze(model, options.freeze_until, options.freeze_bn)
    optimizer, loss = build_optimizer(options, model, total_steps), sparse_cross_entropy(dataset.palette.ignore_id)
    # On a CPU a step compiled by XLA takes six times as long as one with oneDNN's kernels, which Keras would not know.
    model.compile(optimizer, loss, jit_compile="auto" if tf.config.list_logical_devices("GPU") else False)
    model.optimizer.build(model.trainable_variables)
    return model


def validation_batch_size(options: TrainOptions, dataset: Dataset) -> int:
    """As many whole pictures as have the pixels of a training batch, so that validation needs no more memory."""
    largest = max((shard.max_size[0] * shard.max_size[1] for shard in dataset.of_split("val")), default=1)
    return max(1, options.batch_size * options.crop**2 // largest)


def validate(predict: Callable, stream: tf.data.Dataset, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The confusion matrix of the whole validation split, and a few overlays [n, height, width, 3] uint8."""
    palette = dataset.palette
    matrix = np.zeros([palette.num_classes] * 2, np.int64)
    overlays = []
    for images, labels in stream.as_numpy_iterator():
        ids = predict(images)
        matrix += metrics.confusion(labels, ids, palette.num_classes, palette.ignore_id)
        if not overlays:
            overlays = [palette.overlay(*pair) for pair in zip(images[:OVERLAYS], ids[:OVERLAYS], strict=True)]
    return matrix, np.stack(overlays)


def _save_best(options: TrainOptions, dataset: Dataset, model: keras.Model, scores: dict, epoch: int) -> None:
    card = ModelCard(
        architecture=architecture(options, dataset),
        palette=dataset.palette,
        max_side=dataset.max_side,
        training=to_json(options) | {"epoch": epoch},
        data_fingerprint=dataset.fingerprint,
        scores=scores,
    )
    save_model(options.output, model, card)


def _start(options: TrainOptions, dataset: Dataset) -> Progress:
    """The progress to continue from."""
    fresh = Progress(to_json(options), dataset.fingerprint)
    if not options.resume:
        resume.forget(options.output)
    found = resume.load(options.output)
    if found is None:
        return fresh
    resume.check_same(options.output, found, fresh)
    return dataclasses.replace(fresh, history=found.history)


def _finished(options: TrainOptions, progress: Progress) -> bool:
    return 0 < options.early_stopping <= progress.stale_epochs or progress.epochs >= options.epochs


def train_epoch(model: keras.Model, stream: tf.data.Dataset, epoch: int, epochs: int, steps: int) -> dict[str, Any]:
    """One epoch of training; `epoch` counts from 1. Returns the beginning of its row of history."""
    bar = StepBar(f"epoch {epoch}/{epochs}", steps)
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    fitted = model.fit(
        stream,
        epochs=epoch,
        initial_epoch=epoch - 1,
        steps_per_epoch=steps,
        shuffle=False,
        callbacks=[bar, keras.callbacks.TerminateOnNaN()],
        verbose=0,
    )
    return {
        "epoch": epoch,
        "loss": fitted.history["loss"][-1],
        "learning_rate": rate,
        "seconds_per_step": bar.seconds_per_step,
    }


def _scored(row: dict[str, Any], scores: dict[str, Any]) -> dict[str, Any]:
    """A row of history with its scores, one column per class."""
    if scores["miou"] is None:
        raise InputError("the validation split has no pixel of any class, so nothing tells which epoch is best")
    classes = {f"iou/{name}": iou for name, iou in scores["per_class"].items()}
    return row | {"val_jaccard": scores["miou"], "val_pixel_accuracy": scores["pixel_accuracy"]} | classes


def _adjust_learning_rate(options: TrainOptions, model: keras.Model, progress: Progress) -> None:
    """Reduce on plateau: halve the rate after every `plateau_patience` epochs without a better Jaccard."""
    stale = progress.stale_epochs
    if options.schedule == "plateau" and stale and stale % options.plateau_patience == 0:
        model.optimizer.learning_rate = progress.history[-1]["learning_rate"] / 2


def steps_per_epoch(options: TrainOptions, dataset: Dataset) -> int:
    """As many as the source pictures make: augmented copies make an epoch more varied, not longer."""
    return options.steps_per_epoch or math.ceil(dataset.pictures("train") / options.batch_size)


def _run(options: TrainOptions, dataset: Dataset, validation: tf.data.Dataset, progress: Progress) -> Progress | None:
    """Train from `progress` on, saving after every epoch; None when the loss became infinite or no number."""
    steps = steps_per_epoch(options, dataset)
    keras.utils.set_random_seed(options.seed)
    with _precision(options.precision), _strategy().scope(), _readable_records(options.records):
        model = build(options, dataset, options.epochs * steps, load=not progress.epochs)
        if progress.epochs:
            resume.restore(options.output, model, progress)
            print(f"continuing after epoch {progress.epochs} of {options.epochs}")
        predict = predictor(model, "ids")
        logs = Logs(options.output)
        while not _finished(options, progress):
            epoch = progress.epochs + 1
            stream = training_stream(options.records, dataset, options, epoch)
            row = train_epoch(model, stream, epoch, options.epochs, steps)
            if not math.isfinite(row["loss"]):
                print(f"deeplab train: error: the loss became {row['loss']} in epoch {epoch}; {CURE}", file=sys.stderr)
                return None
            matrix, overlays = validate(predict, validation, dataset)
            scores = metrics.scores(matrix, dataset.palette.names)
            progress = progress.after(_scored(row, scores))
            print(epoch_line(progress, options.epochs))
            if progress.best_epoch == epoch:
                _save_best(options, dataset, model, scores, epoch)
            _adjust_learning_rate(options, model, progress)
            logs.add(progress.history[-1], overlays)
            storage.write(storage.join(options.output, "history.csv"), history_csv(progress.history))
            # Last, so that a kill before it repeats the epoch and writes the same again.
            resume.save(options.output, model, progress)
    return progress


def train(options: TrainOptions) -> int:
    """Train as the options say. Returns 0, or 1 when the loss became infinite or no number."""
    dataset = load_dataset(options.records)
    validation = validation_stream(options.records, dataset, validation_batch_size(options, dataset))
    progress = _start(options, dataset)
    if not _finished(options, progress):
        progress = _run(options, dataset, validation, progress)
    if progress is None:
        return 1
    if progress.epochs < options.epochs:
        print(f"stopped early: {progress.stale_epochs} epochs without a better validation Jaccard")
    print(f"{summary(progress)}\nmodel: {options.output}")
    return 0


def main(argv: list[str]) -> int:
    """The command `deeplab train`."""
    return train(parse(TrainOptions, argv, prog="deeplab train", description=DESCRIPTION, epilog=EPILOG))
