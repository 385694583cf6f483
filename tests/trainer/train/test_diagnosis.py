"""What is said of a loss that is no number."""

from __future__ import annotations

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from pipelines import cli
from tests.drawn.records import PALETTE, record
from tests.drawn.training import train_flags
from trainer.formats.examples import encode
from trainer.train.diagnosis import Diagnosis, cure, diagnose, is_finite, names_of, report
from trainer.train.losses import SparseCrossEntropy
from trainer.train.options import Options
from trainer.train.steps import Steps

OPTIONS = Options(records="records", output="model", learning_rate=0.5)
BATCH = (np.full((2, 4, 4, 3), 200, np.uint8), np.zeros((2, 4, 4), np.uint8))


@pytest.fixture
def network():
    """Two layers, "first" and "second", whose kernels are ones."""
    image = keras.Input([None, None, 3])
    x = keras.layers.Rescaling(1.0)(image)
    for name in ("first", "second"):
        x = keras.layers.Conv2D(3, 1, kernel_initializer="ones", name=name)(x)
    model = keras.Model(image, x)
    model.compile("sgd", SparseCrossEntropy(255), jit_compile=False)
    return model


def test_the_first_layer_with_a_non_finite_output_is_named(network):
    network.get_layer("first").kernel.assign(np.full((1, 1, 3, 3), 5e35))
    diagnosis = diagnose(network, 7, BATCH)
    assert (diagnosis.step, diagnosis.cause) == (7, "the output of the layer second")
    # first gives 3 x 200 x 5e35, of which second adds up three.
    assert diagnosis.largest == pytest.approx(3e38, rel=1e-5)


def test_non_finite_gradients_are_attributed_to_the_previous_step_and_the_last_affected_layer(network):
    for name in ("first", "second"):
        network.get_layer(name).kernel.assign(np.full((1, 1, 3, 3), np.nan))
    assert diagnose(network, 7, BATCH) == Diagnosis(6, "the gradients, first in the layer second", 0.0)


def test_non_finite_statistics_are_distinguished_from_non_finite_gradients(network):
    image = keras.Input([None, None, 3])
    norm = keras.layers.BatchNormalization(name="norm")
    model = keras.Model(image, norm(network(image)))
    norm.moving_variance.assign([1, np.inf, 1])
    diagnosis = diagnose(model, 7, BATCH)
    assert (diagnosis.step, diagnosis.cause) == (6, "the mean or variance of a batch, first in the layer norm")


def test_a_loss_can_be_non_finite_although_its_logits_are_finite(network):
    network.compile("sgd", lambda truth, logits: keras.ops.sum(logits) * np.inf, jit_compile=False)
    diagnosis = diagnose(network, 7, BATCH)
    assert (diagnosis.step, diagnosis.cause, diagnosis.largest) == (
        7,
        "the loss alone; the logits are finite",
        1800.0,
    )


def test_a_finite_step_yields_no_cause(network):
    assert diagnose(network, 7, BATCH).cause.startswith("not found")


def test_integers_are_finite():
    assert is_finite([np.int32([1]), np.float32([1])]) and not is_finite([np.int32([1]), np.float32([1, np.inf])])
    assert is_finite([np.int32([1])])


@pytest.mark.parametrize(
    ("precision", "largest", "expected"),
    [
        ("float32", 3e38, "a smaller --learning-rate than 0.5"),
        ("mixed_bfloat16", 3e38, "a smaller --learning-rate than 0.5, or --precision float32"),
        ("mixed_float16", 100.0, "a smaller --learning-rate than 0.5, or --precision float32"),
        ("mixed_float16", 6e4, "--precision mixed_bfloat16 or float32: mixed_float16 has no numbers above 65504"),
    ],
)
def test_the_proposed_cure_depends_on_the_precision_and_the_largest_number(precision, largest, expected):
    options = Options(records="records", output="model", learning_rate=0.5, precision=precision)
    assert cure(options, Diagnosis(7, "the output of the layer second", largest)) == expected


def test_the_report_has_step_records_labels_layer_and_cure():
    labels = np.uint8([[[2, 0], [255, 2]]])
    diagnosis = Diagnosis(7, "the output of the layer second", 3e38)
    assert report(OPTIONS, PALETTE, 2, float("inf"), diagnosis, ["a", "b (copy 1)"], labels) == (
        "the loss became inf in step 7 of epoch 2\n"
        "  records: a, b (copy 1)\n"
        "  labels: 0 ground, 2 bar\n"
        "  not finite: the output of the layer second; the largest number before was 3e+38\n"
        "  try a smaller --learning-rate than 0.5"
    )
    said = report(OPTIONS, PALETTE, 2, float("nan"), Diagnosis(7), list("abcdefghijklmnopqrs"), np.uint8([255]))
    assert "p, 3 more\n" in said and "labels: all ignored" in said and "not found when the steps" in said


def test_records_are_named_by_key_and_copy():
    records = [encode(record(0)), encode(record(1))]
    assert names_of(records) == ["000", "001"]


def test_a_non_finite_loss_ends_the_training_with_its_cause(records, tmp_path, tiny_network, capsys):
    """The network has one layer that learns. At that rate, its first step leaves weights of some 1e37."""
    output = tmp_path / "model"
    more = ["--learning-rate", "1e38", "--steps-per-epoch", "5", "--checkpoint-minutes", "1e-9"]
    assert cli.main(train_flags(records, output, *more)) == 1
    said = capsys.readouterr()
    step = int(re.search(r"the loss became (?:nan|inf) in step (\d) of epoch 1", said.err)[1])
    assert 1 < step <= 5
    assert len(re.search(r"records: (.*)", said.err)[1].split(", ")) == 4
    assert "labels: 0 ground" in said.err and "try a smaller --learning-rate than 1e+38" in said.err
    assert re.search(r"not finite: the (output of|gradients, first in) the layer", said.err)
    assert f"resuming after step {step - 1} of 5 in epoch 1" in said.out
    assert not (output / "model.json").exists()
    # What it would resume from are the last numbers.
    state = json.loads((output / "checkpoints" / "state.json").read_text())
    assert state["step"] == step - 1
    with np.load(Path(output, "checkpoints", state["arrays"])) as arrays:
        assert all(np.isfinite(arrays[name]).all() for name in arrays.files)


def test_weights_that_the_last_step_of_an_epoch_made_infinite_end_the_training_with_their_cause(
    records, tmp_path, tiny_network, monkeypatch, capsys
):
    """The next step would show it, which is of another epoch, or never taken."""

    def spoil(self, epoch, logs=None):
        self.model.trainable_variables[0].assign(self.model.trainable_variables[0] * np.inf)

    monkeypatch.setattr(Steps, "on_epoch_end", spoil)
    argv = train_flags(records, tmp_path / "model", "--epochs", "1", "--steps-per-epoch", "2")
    assert cli.main(argv) == 1
    out, said = capsys.readouterr()
    assert "step 2 of epoch 1 left weights that are NaN or infinite; to see why" in out
    assert "the loss became nan in step " in said and "records: " in said and "Traceback" not in said
