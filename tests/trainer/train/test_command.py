"""`deeplab train` as a user runs it, on a drawn set that colour alone solves."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines import cli
from tests.drawn.places import ROOT
from tests.drawn.records import PALETTE, record, write_records
from tests.drawn.training import NETWORK, history, refused, train_flags
from trainer.formats import images
from trainer.formats.dataset import load_dataset, save_dataset
from trainer.formats.labels import Palette
from trainer.network.folder import load_model
from trainer.network.inference import predictor
from trainer.train import command
from trainer.train.epoch import validate
from trainer.train.streams import validation_stream


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """The model folder of an uninterrupted training of two epochs of fifty steps."""
    output = str(tmp_path_factory.mktemp("trained") / "model")
    assert cli.main(train_flags(records, output)) == 0
    return output


def test_training_learns_and_keeps_the_best_epoch(trained):
    rows = history(trained)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) < 0.7 * float(rows[0]["loss"])
    # A mask that is ground everywhere scores 0.26. How far a hundred steps come depends on the seed and on the
    # processor's rounding: 0.34 to 0.82.
    assert max(float(row["val_jaccard"]) for row in rows) > 0.3
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.02, 0.02 * 0.5**0.9])
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
    result = validate(predictor(model), validation_stream(records, dataset, 1), dataset)
    assert result.overlays.shape == (1, 96, 96, 3)
    hits = np.diag(result.confusion)
    ious = hits / (result.confusion.sum(0) + result.confusion.sum(1) - hits)
    assert ious.mean() == pytest.approx(card.scores["miou"], abs=1e-3)


FROZEN = "MobilenetV2-expanded_conv_16-project"


@pytest.fixture(scope="module")
def frozen(trained, records, tmp_path_factory):
    """The model folder of a training from `trained` with frozen layers, and how the command ended."""
    output = str(tmp_path_factory.mktemp("frozen") / "model")
    more = ["--init-from", trained, "--freeze-until", FROZEN, "--freeze-bn", "--schedule", "plateau", "--epochs", "1"]
    flags = train_flags(records, output, "--steps-per-epoch", "2", *more)
    return output, subprocess.run(
        [sys.executable, "-m", "pipelines", *flags], cwd=ROOT, capture_output=True, text=True
    )


def test_training_starts_from_a_model_folder_with_frozen_layers(trained, frozen):
    output, done = frozen
    assert f"weights of {trained}:" in done.stdout
    before, after = load_model(trained)[0], load_model(output)[0]
    names = [layer.name for layer in before.layers]
    last = names.index(FROZEN)
    for index, layer in enumerate(before.layers):
        pairs = zip(layer.get_weights(), after.get_layer(layer.name).get_weights(), strict=True)
        same = all(np.array_equal(a, b) for a, b in pairs)
        stays = index <= last or isinstance(layer, keras.layers.BatchNormalization) or not layer.weights
        assert same == stays, layer.name


def test_a_trained_model_is_finished_at_stride_8(trained, records, tmp_path, capsys):
    output = str(tmp_path / "finished")
    flags = ["--records", records, "--output", output, "--init-from", trained, "--recipe", "finish", *NETWORK[:3]]
    assert cli.main(["train", *flags, "--crop", "64", "--batch-size", "4", "--steps-per-epoch", "2"]) == 0
    assert ", all of the model\n" in capsys.readouterr().out
    model, card = load_model(output)
    assert card.architecture["output_stride"] == 8 and card.architecture["aspp_rates"] in (None, [12, 24, 36])
    norm = "MobilenetV2-Conv-BatchNorm"
    for value, kept in zip(
        *(one.get_layer(norm).get_weights() for one in (model, load_model(trained)[0])), strict=True
    ):
        np.testing.assert_array_equal(value, kept)


def test_standard_error_stays_empty(frozen):
    """TensorFlow's start-up lines are written past Python, and most of them when it first computes."""
    _, done = frozen
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nepoch 1/1: loss " in done.stdout


def test_an_epoch_is_as_long_as_the_source_images_not_the_copies(records, tmp_path, tiny_network):
    output = str(tmp_path / "model")
    assert cli.main(train_flags(records, output, "--steps-per-epoch", "0", "--epochs", "1", "--batch-size", "3")) == 0
    with np.load(Path(output, "checkpoints", "epoch-0001.npz")) as arrays:
        # The optimizer's first variable counts its steps: 8 source images (and 8 copies) in batches of 3.
        assert arrays["optimizer/00000"] == 3


def test_plateau_halves_the_rate_and_early_stopping_ends(records, tmp_path, tiny_network, capsys):
    # At so small a rate, and with fixed batch norms, no epoch is better than the first.
    more = ["--schedule", "plateau", "--plateau-patience", "2", "--early-stopping", "5", "--epochs", "9"]
    more += ["--learning-rate", "1e-12", "--steps-per-epoch", "1", "--freeze-bn"]
    output = str(tmp_path / "model")
    assert cli.main(train_flags(records, output, *more)) == 0
    assert "stopped early: 5 epochs without a better validation Jaccard" in capsys.readouterr().out
    rates = [float(row["learning_rate"]) * 1e12 for row in history(output)]
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25])
    assert cli.main(train_flags(records, output, *more)) == 0
    assert len(history(output)) == 6


def test_missing_records_and_a_missing_validation_split_are_refused(tmp_path, capsys):
    message = refused(capsys, train_flags(str(tmp_path / "none"), str(tmp_path / "model")))
    assert "deeplab prepare" in message
    write_records(tmp_path / "records", {"train": [[record(0)]]})
    message = refused(capsys, train_flags(str(tmp_path / "records"), str(tmp_path / "model")))
    assert "no records of split 'val', only of train" in message and "--val-fraction" in message


def test_a_damaged_shard_is_refused_with_the_tool_that_finds_the_record(tmp_path, tiny_network, capsys):
    dataset = write_records(tmp_path / "records", {"train": [[record(0)]], "val": [[record(1)]]})
    path = tmp_path / "records" / dataset.of_split("train")[0].name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    message = refused(capsys, train_flags(str(tmp_path / "records"), str(tmp_path / "model")))
    assert "is damaged" in message and "deeplab records verify" in message


@pytest.mark.parametrize(
    ("split", "damage"),
    [
        ("train", {"image": record(7).image[:200]}),
        ("val", {"label": record(7).label[:100]}),
        ("val", {"label": record(7, (60, 96)).label}),
        ("train", {"label": images.encode_png(np.full((96, 96), 7, np.uint8))}),
    ],
)
def test_a_record_that_cannot_be_used_is_named_with_its_shard(tmp_path, tiny_network, capsys, split, damage):
    broken = dataclasses.replace(record(7), **damage)
    shards = {"train": [[record(0), record(1)], [record(2), record(3)]], "val": [[record(4)], [record(5)]]}
    shards[split][1][0] = broken
    write_records(tmp_path / "records", shards)
    message = refused(capsys, train_flags(tmp_path / "records", tmp_path / "model", "--steps-per-epoch", "2"))
    assert (
        f"record '007' (of 007.jpeg) in {tmp_path}/records/{split}-00001-of-00002.tfrecord cannot be used" in message
    )
    assert "deeplab records verify" in message


def with_pixels(folder, split, class_pixels, ignored_pixels):
    """Lets dataset.json in `folder` say that of the labels of `split`."""
    dataset = load_dataset(str(folder))
    changed = {"class_pixels": class_pixels, "ignored_pixels": ignored_pixels}
    shards = [dataclasses.replace(s, **(changed if s.split == split else {})) for s in dataset.shards]
    save_dataset(str(folder), dataclasses.replace(dataset, shards=tuple(shards)))


def test_doubtful_labels_and_flags_without_effect_are_reported_before_training(tmp_path, tiny_network, capsys):
    write_records(tmp_path / "records", {"train": [[record(0)]], "val": [[record(1)]]})
    with_pixels(tmp_path / "records", "train", (100, 20, 0), 900)
    with_pixels(tmp_path / "records", "val", (0, 50, 0), 0)
    more = ("--steps-per-epoch", "1", "--plateau-patience", "7")
    assert cli.main(train_flags(tmp_path / "records", tmp_path / "model", *more)) == 0
    said, *_ = capsys.readouterr().out.split("epoch 1/2")
    assert "warning: train: 1 of 3 classes has no pixel in its labels: bar" in said
    assert "warning: train: 88.2% of the pixels are ignored (id 255)" in said
    assert "warning: val: 2 of 3 classes have no pixel in its labels: ground, bar" in said
    assert "val: every pixel that is not ignored is of the class disc" in said
    assert "warning: --plateau-patience 7 has no effect with --schedule poly" in said


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_pixel_of_any_class_is_refused_before_training(tmp_path, tiny_network, capsys, split):
    write_records(tmp_path / "records", {"train": [[record(0)]], "val": [[record(1)]]})
    with_pixels(tmp_path / "records", split, (0, 0, 0), 900)
    message = refused(capsys, train_flags(tmp_path / "records", tmp_path / "model"))
    assert f"the split {split} has no pixel of any class" in message and "--palette" in message


def test_a_palette_of_one_class_is_refused_before_training(tmp_path, tiny_network, capsys):
    one = Palette("crops", ("crop",), ((0, 200, 0),))
    write_records(tmp_path / "records", {"train": [[record(0)]], "val": [[record(1)]]}, palette=one)
    message = refused(capsys, train_flags(tmp_path / "records", tmp_path / "model"))
    assert "the palette crops has one class, crop" in message and "such as background" in message


def test_a_validation_image_that_memory_does_not_hold_is_refused_before_training(
    tmp_path, tiny_network, monkeypatch, capsys
):
    """The largest of all counts, and it alone is tried."""
    tried = []

    def predictor(*_):
        def predict(images):
            tried.append(images.shape)
            raise tf.errors.ResourceExhaustedError(None, None, "no room for a tensor")

        return predict

    monkeypatch.setattr(command, "predictor", predictor)
    val = [record(1), record(2, (200, 150)), record(3, (150, 190))]
    write_records(tmp_path / "records", {"train": [[record(0)]], "val": [val]})
    message = refused(capsys, train_flags(tmp_path / "records", tmp_path / "model"))
    assert "the largest validation image, 200 x 150 pixels: prepare the records with a smaller --max-side" in message
    assert tried == [(1, 200, 150, 3)] and not (tmp_path / "model").exists()


@pytest.mark.parametrize("batches", [3, 0])
def test_validation_images_that_get_lost_end_the_training(
    records, tmp_path, tiny_network, monkeypatch, capsys, batches
):
    """Some of the four batches, of one image each, are withheld from the validation."""
    monkeypatch.setattr(command, "validation_batch_size", lambda *_: 1)
    monkeypatch.setattr(command, "validation_stream", lambda *args: validation_stream(*args).take(batches))
    assert cli.main(train_flags(records, tmp_path / "model", "--steps-per-epoch", "1")) == 1
    assert f"4 records of split val != {batches} validated + 0 rejected" in capsys.readouterr().err
    assert not (tmp_path / "model" / "model.json").exists()


@pytest.mark.parametrize("difference", [1, -1])
def test_training_records_that_dataset_json_does_not_count_end_the_training(
    tmp_path, tiny_network, capsys, difference
):
    folder = tmp_path / "records"
    dataset = write_records(folder, {"train": [[record(0), record(1)]], "val": [[record(2)]]}, copies=1)
    train, val = dataset.shards
    miscounted = dataclasses.replace(train, records=train.records + difference)
    save_dataset(str(folder), dataclasses.replace(dataset, shards=(miscounted, val)))
    assert cli.main(train_flags(folder, tmp_path / "model", "--steps-per-epoch", "3")) == 1
    error = capsys.readouterr().err
    assert "as dataset.json states" in error and "deeplab records verify" in error
    assert not (tmp_path / "model" / "model.json").exists()


def test_a_shard_that_ends_early_is_refused_before_anything_is_trained(tmp_path, tiny_network, capsys):
    """It ends between two records, which no reader of its records could see."""
    folder = tmp_path / "records"
    dataset = write_records(folder, {"train": [[record(0), record(1)]], "val": [[record(2)]]})
    whole = folder / dataset.of_split("train")[0].name
    size = whole.stat().st_size
    write_records(folder, {"train": [[record(0)]], "val": [[record(2)]]})
    save_dataset(str(folder), dataset)
    message = refused(capsys, train_flags(folder, tmp_path / "model"))
    assert f"has {whole.stat().st_size:,} bytes, expected {size:,}" in message and "deeplab records verify" in message


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--epochs", "0"], "--epochs must be 1 to 1000000, got 0"),
        (["--scale-min", "2"], "--scale-min must not exceed --scale-max, got 2.0 and 1.75"),
        (["--learning-rate", "-1"], "--learning-rate must be above 0, got -1.0"),
        (["--init-from", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--alpha", "9"], "--alpha must be above 0 and at most 4, got 9.0"),
        (["--backbone", "xception_65", "--alpha", "0.5"], "alpha must be 1 for xception_65"),
        (["--batch-norm-momentum", "1"], "--batch-norm-momentum must be 0 or more and below 1, got 1.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(records, tmp_path, capsys, flags, expected):
    assert expected in refused(capsys, train_flags(records, str(tmp_path / "model"), *flags))
    assert not Path(tmp_path, "model", "model.json").exists()


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = capsys.readouterr().out
    assert text.count("\n  deeplab train --records") == 4 and "--freeze-until" in text
