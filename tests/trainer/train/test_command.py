"""`deeplab train` as a user runs it, on a drawn set that colour alone solves."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from pipelines.cli import main
from tests.drawn.places import ROOT
from tests.drawn.records import PALETTE, record, write_records
from trainer.formats.records import load_dataset
from trainer.network.deeplab import load_model, predictor
from trainer.options import InputError
from trainer.train import command as train
from trainer.train import resume
from trainer.train.command import TrainOptions, build, freeze, validate
from trainer.train.resume import Progress
from trainer.train.streams import validation_stream

NETWORK = ["--alpha", "0.35", "--decoder", "--batch-norm-momentum", "0.9"]
LENGTH = ["--crop", "64", "--batch-size", "4", "--epochs", "2", "--steps-per-epoch", "50", "--seed", "1"]
SMALL = [*NETWORK, *LENGTH, "--optimizer", "momentum", "--learning-rate", "0.05"]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Eight training pictures (and one copy of each, in the same shards) and four for validation."""
    folder = tmp_path_factory.mktemp("drawn") / "records"
    train = [[record(i) for i in range(8)], [record(i) for i in range(8, 16)]]
    write_records(folder, {"train": train, "val": [[record(i) for i in range(30, 34)]]}, copies=1)
    return str(folder)


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """The model folder of an uninterrupted training of two epochs of fifty steps."""
    output = str(tmp_path_factory.mktemp("trained") / "model")
    assert main(command(records, output)) == 0
    return output


def command(records, output, *more):
    return ["train", "--records", records, "--output", output, *SMALL, *more]


def colour_network(num_classes, **_):
    """A network that is trained in no time and has every kind of state: for what does not depend on the network."""
    image = keras.Input([None, None, 3])
    x = keras.layers.BatchNormalization()(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(image))
    return keras.Model(image, keras.layers.Conv2D(num_classes, 1)(keras.layers.Dropout(0.1)(x)))


@pytest.fixture
def tiny_network(monkeypatch):
    monkeypatch.setattr(train, "deeplab_v3_plus", colour_network)


def history(output):
    with open(os.path.join(output, "history.csv"), newline="") as file:
        return list(csv.DictReader(file))


def refused(capsys, argv):
    """The error message with which a command refuses its input."""
    assert main(argv) == 2
    return capsys.readouterr().err


def test_training_learns_and_keeps_the_best_epoch(trained):
    rows = history(trained)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) < 0.7 * float(rows[0]["loss"])
    # A mask that is ground everywhere scores 0.26. How far fifty steps come depends on the processor's rounding.
    assert max(float(row["val_jaccard"]) for row in rows) > 0.45
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.05, 0.05 * 0.5**0.9])
    best = max(rows, key=lambda row: float(row["val_jaccard"]))
    card = json.loads(Path(trained, "model.json").read_text())
    assert card["scores"]["miou"] == float(best["val_jaccard"])
    assert card["training"]["epoch"] == int(best["epoch"])
    assert card["scores"]["per_class"] == {name: float(best[f"iou/{name}"]) for name in PALETTE.names}


def test_the_model_folder_has_what_later_stages_need_and_nothing_else(trained, records):
    found = {path.relative_to(trained).parts[0] for path in Path(trained).rglob("*") if path.is_file()}
    assert found == {"model.keras", "model.json", "history.csv", "checkpoints", "logs"}
    assert sorted(path.name for path in Path(trained, "checkpoints").iterdir()) == ["epoch-0002.npz", "state.json"]
    card = json.loads(Path(trained, "model.json").read_text())
    assert card["data_fingerprint"] == load_dataset(records).fingerprint
    assert card["architecture"]["alpha"] == 0.35 and card["architecture"]["num_classes"] == 3
    assert Path(trained).parent.joinpath("model").exists() and len(list(Path(trained).parent.iterdir())) == 1


def test_the_saved_model_scores_what_the_history_says(trained, records):
    model, card = load_model(trained)
    dataset = load_dataset(records)
    matrix, overlays = validate(predictor(model), validation_stream(records, dataset, 1), dataset)
    assert overlays.shape == (1, 96, 96, 3)
    ious = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert ious.mean() == pytest.approx(card.scores["miou"], abs=1e-3)


def assert_same_checkpoint(found, expected):
    with np.load(found) as found, np.load(expected) as expected:
        assert set(found.files) == set(expected.files)
        for name in found.files:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


KILLED = """
import sys
sys.path.insert(0, {root!r})
from tests.trainer.train.test_command import colour_network, main, train
train.deeplab_v3_plus = colour_network
main(sys.argv[1:])
"""


def test_a_killed_training_continues_and_ends_as_an_uninterrupted_one(records, tmp_path, tiny_network, capsys):
    whole, output = tmp_path / "whole", tmp_path / "killed"
    short = ["--epochs", "4", "--steps-per-epoch", "5"]
    code = KILLED.format(root=str(ROOT))
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command(records, str(output), *short)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    state = output / "checkpoints" / "state.json"
    while not state.exists():
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = resume.load(str(output)).epochs
    assert 1 <= done < 4, "the kill came too late"

    assert main(command(records, str(output), *short)) == 0
    assert f"continuing after epoch {done} of 4" in capsys.readouterr().out
    assert main(command(records, str(whole), *short)) == 0
    for row, expected in zip(history(str(output)), history(str(whole)), strict=True):
        assert row | {"seconds_per_step": 0} == expected | {"seconds_per_step": 0}
    assert_same_checkpoint(output / "checkpoints/epoch-0004.npz", whole / "checkpoints/epoch-0004.npz")


def test_a_finished_training_is_not_repeated(trained, records, capsys):
    before = Path(trained, "model.keras").read_bytes()
    assert main(command(records, trained)) == 0
    assert "best epoch" in capsys.readouterr().out
    assert Path(trained, "model.keras").read_bytes() == before and len(history(trained)) == 2


def test_other_options_in_the_same_folder_are_refused_by_name(trained, records, capsys):
    message = refused(capsys, command(records, trained, "--head", "bilinear", "--max-ratio", "5"))
    assert "--head was subpixel, is bilinear" in message and "--max-ratio was 10.0, is 5.0" in message
    assert "--no-resume" in message and "--crop" not in message


def test_other_records_are_refused_and_more_epochs_are_not():
    started = Progress({"epochs": 2, "crop": 64, "records": "a", "aspp_rates": [6, 12]}, "fingerprint")
    wanted = Progress({"epochs": 5, "crop": 64, "records": "b", "aspp_rates": (6, 12)}, "fingerprint")
    resume.check_same("out", started, wanted)
    with pytest.raises(InputError, match="the records are others"):
        resume.check_same("out", started, Progress(wanted.options, "another"))


def test_training_goes_on_from_a_model_folder_with_frozen_layers(trained, records, tmp_path, capsys):
    output = str(tmp_path / "frozen")
    frozen = "MobilenetV2-expanded_conv_16-project"
    more = ["--init-from", trained, "--freeze-until", frozen, "--freeze-bn", "--schedule", "plateau", "--epochs", "1"]
    assert main(command(records, output, "--steps-per-epoch", "2", *more)) == 0
    assert f"weights of {trained}:" in capsys.readouterr().out
    before, after = load_model(trained)[0], load_model(output)[0]
    names = [layer.name for layer in before.layers]
    last = names.index(frozen)
    for index, layer in enumerate(before.layers):
        pairs = zip(layer.get_weights(), after.get_layer(layer.name).get_weights(), strict=True)
        same = all(np.array_equal(a, b) for a, b in pairs)
        stays = index <= last or isinstance(layer, keras.layers.BatchNormalization) or not layer.weights
        assert same == stays, layer.name


def test_another_class_count_leaves_only_the_last_layer_out(trained, tmp_path, capsys):
    palette = type(PALETTE)("two", ("ground", "thing"), ((0, 200, 0), (200, 0, 0)))
    dataset = write_records(tmp_path, {"train": [[record(0)]], "val": [[record(1)]]}, palette)
    options = TrainOptions(records=str(tmp_path), output="", alpha=0.35, decoder=True, init_from=trained)
    model = build(options, dataset, 10, load=True)
    assert model.output.shape[-1] == 2
    assert "logits/semantic" in capsys.readouterr().out
    source = load_model(trained)[0]
    np.testing.assert_array_equal(
        model.get_layer("aspp0").get_weights()[0], source.get_layer("aspp0").get_weights()[0]
    )


def test_an_unknown_layer_is_refused_with_names_near_it():
    model = keras.Sequential(
        [keras.Input([3]), keras.layers.Dense(2, name="aspp0"), keras.layers.Dense(2, name="end")]
    )
    with pytest.raises(InputError, match="no layer 'asp0'; near it: aspp0"):
        freeze(model, "asp0")
    freeze(model, "aspp0")
    assert [layer.trainable for layer in model.layers] == [False, True]


def test_an_epoch_is_as_long_as_the_source_pictures_not_the_copies(records, tmp_path, tiny_network):
    output = str(tmp_path / "model")
    assert main(command(records, output, "--steps-per-epoch", "0", "--epochs", "1", "--batch-size", "3")) == 0
    with np.load(Path(output, "checkpoints", "epoch-0001.npz")) as arrays:
        # The optimizer's first variable counts its steps: 8 source pictures (and 8 copies) in batches of 3.
        assert arrays["optimizer/00000"] == 3


@pytest.mark.parametrize(("optimizer", "schedule"), [("adam", "plateau"), ("momentum", "poly")])
def test_optimizer_schedule_and_dropout_states_survive_an_interruption(
    records, tmp_path, tiny_network, monkeypatch, optimizer, schedule
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ["--epochs", "3", "--steps-per-epoch", "3", "--optimizer", optimizer, "--schedule", schedule]
    more += ["--plateau-patience", "1", "--learning-rate", "0.1", "--weight-decay", "0.01"]
    assert main(command(records, str(whole), *more)) == 0
    save = resume.save

    def interrupted_save(output, model, progress):
        save(output, model, progress)
        if progress.epochs == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(resume, "save", interrupted_save)
    assert main(command(records, str(broken), *more)) == 130
    monkeypatch.setattr(resume, "save", save)
    assert main(command(records, str(broken), *more)) == 0
    assert_same_checkpoint(broken / "checkpoints/epoch-0003.npz", whole / "checkpoints/epoch-0003.npz")


def test_plateau_halves_the_rate_and_early_stopping_ends(records, tmp_path, tiny_network, capsys):
    # At so small a rate, and with fixed batch norms, no epoch is better than the first.
    more = ["--schedule", "plateau", "--plateau-patience", "2", "--early-stopping", "5", "--epochs", "9"]
    more += ["--learning-rate", "1e-12", "--steps-per-epoch", "1", "--freeze-bn"]
    output = str(tmp_path / "model")
    assert main(command(records, output, *more)) == 0
    assert "stopped early: 5 epochs without a better validation Jaccard" in capsys.readouterr().out
    rates = [float(row["learning_rate"]) * 1e12 for row in history(output)]
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25])
    assert main(command(records, output, *more)) == 0
    assert len(history(output)) == 6


def test_no_resume_trains_anew(records, tmp_path, tiny_network):
    output = str(tmp_path / "model")
    short = ["--steps-per-epoch", "1"]
    assert main(command(records, output, *short)) == 0
    assert main(command(records, output, *short, "--epochs", "1", "--crop", "32", "--no-resume")) == 0
    assert len(history(output)) == 1


def test_a_loss_that_is_no_number_ends_the_training_with_status_1(records, tmp_path, tiny_network, capsys):
    argv = command(records, str(tmp_path / "model"), "--learning-rate", "1e38")
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert "in epoch 1" in error and "--learning-rate" in error
    assert not Path(tmp_path, "model", "model.json").exists()


def test_the_precision_policy_is_set_and_restored(records, tmp_path):
    dataset = load_dataset(records)
    before = keras.config.dtype_policy().name
    from trainer.train.command import _precision

    with _precision("mixed_bfloat16"):
        model = build(TrainOptions(records=records, output=str(tmp_path), alpha=0.35), dataset, 10, load=False)
    assert model.get_layer("aspp0").compute_dtype == "bfloat16" and model.output.dtype == "float32"
    assert keras.config.dtype_policy().name == before


def test_missing_records_and_a_missing_validation_split_are_refused(tmp_path, capsys):
    message = refused(capsys, command(str(tmp_path / "none"), str(tmp_path / "model")))
    assert "deeplab prepare" in message
    write_records(tmp_path / "records", {"train": [[record(0)]]})
    message = refused(capsys, command(str(tmp_path / "records"), str(tmp_path / "model")))
    assert "no records of split 'val', only of train" in message and "--val-fraction" in message


def test_a_damaged_shard_is_refused_with_the_tool_that_finds_the_record(tmp_path, tiny_network, capsys):
    dataset = write_records(tmp_path / "records", {"train": [[record(0)]], "val": [[record(1)]]})
    path = tmp_path / "records" / dataset.of_split("train")[0].name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    message = refused(capsys, command(str(tmp_path / "records"), str(tmp_path / "model")))
    assert "is damaged" in message and "deeplab records verify" in message


def test_a_picture_that_cannot_be_decoded_is_refused(tmp_path, tiny_network, capsys):
    broken = dataclasses.replace(record(0), image=record(0).image[:200])
    write_records(tmp_path / "records", {"train": [[broken]], "val": [[record(1)]]})
    message = refused(capsys, command(str(tmp_path / "records"), str(tmp_path / "model")))
    assert "cannot be decoded" in message and "deeplab records verify" in message


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--scale-min", "2"], "0 < min <= max, got 2.0 and 1.75"),
        (["--learning-rate", "-1"], "--learning-rate must be over 0"),
        (["--init-from", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--alpha", "9"], "alpha must be"),
    ],
)
def test_options_that_make_no_sense_are_refused(records, tmp_path, capsys, flags, expected):
    assert expected in refused(capsys, command(records, str(tmp_path / "model"), *flags))
    assert not Path(tmp_path, "model", "model.json").exists()


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert text.count("deeplab train --records") == 2 and "--freeze-until" in text
