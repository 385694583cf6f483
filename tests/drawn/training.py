"""Trainings that take seconds, and what is looked at afterwards."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from unittest import mock

import keras
import numpy as np

from pipelines import cli
from tests.drawn.records import record, write_records
from trainer.network.heads import Subpixel
from trainer.network.layers import BroadcastLike, Norm, conv, layer_name
from trainer.train import model

NETWORK = ["--alpha", "0.35", "--decoder", "--batch-norm-momentum", "0.9"]
LENGTH = ["--crop", "64", "--batch-size", "4", "--epochs", "2", "--steps-per-epoch", "50", "--seed", "1"]
SMALL = [*NETWORK, *LENGTH, "--optimizer", "momentum", "--learning-rate", "0.02"]


def train_flags(records, output, *more: str) -> list[str]:
    """A command line of two epochs of fifty steps, which `more` may change."""
    return ["train", "--records", str(records), "--output", str(output), *SMALL, *more]


def draw_records(folder: Path) -> str:
    """Eight training images (and one copy of each, in the same shards) and four for validation."""
    train = [[record(i) for i in range(8)], [record(i) for i in range(8, 16)]]
    write_records(folder, {"train": train, "val": [[record(i) for i in range(30, 34)]]}, copies=1)
    return str(folder)


def colour_network(num_classes: int, **_) -> keras.Model:
    """A network that is trained in no time and has every kind of state: for what does not depend on the network."""
    image = keras.Input([None, None, 3])
    x = keras.layers.BatchNormalization()(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(image))
    x = keras.layers.Dropout(0.1)(x)
    return keras.Model(
        image, Subpixel(num_classes, 1, dtype="float32", name=layer_name("logits/semantic"))([x, image])
    )


def train_colour_network(records, output: Path, *more: str) -> Path:
    """The folder of a finished training of `colour_network`."""
    with mock.patch.object(model, "deeplab_v3_plus", colour_network):
        assert cli.main(train_flags(records, output, *more)) == 0
    return output


def refused(capsys, argv: list[str]) -> str:
    """The error message with which a command refuses its input."""
    assert cli.main(argv) == 2
    return capsys.readouterr().err


def pooled_network(num_classes: int, dropout: float = 0, **_) -> keras.Model:
    """What of DeepLab depends on how a batch is shared: batch norms, one of them over pooled images."""
    image, norm = keras.Input([None, None, 3]), Norm(0.5, 1e-5)
    x = conv(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(image), "entry", 8, norm=norm, kernel_size=3, strides=2)
    pooled = conv(keras.layers.GlobalAveragePooling2D(keepdims=True)(x), "image_pooling", 8, norm=norm)
    x = keras.layers.Concatenate()([BroadcastLike()([pooled, x]), x])
    x = keras.layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(
        image, Subpixel(num_classes, 2, dtype="float32", name=layer_name("logits/semantic"))([x, image])
    )


def history(output) -> list[dict[str, str]]:
    """The rows of history.csv."""
    with open(os.path.join(output, "history.csv"), newline="") as file:
        return list(csv.DictReader(file))


def assert_same_checkpoint(path, expected) -> None:
    with np.load(path) as arrays, np.load(expected) as others:
        assert set(arrays.files) == set(others.files)
        for name in arrays.files:
            np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)
