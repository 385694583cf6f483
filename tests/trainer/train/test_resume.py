"""Trainings that are interrupted, resumed, or found finished."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import cli
from tests.drawn.training import assert_same_checkpoint, history, refused, train_colour_network, train_flags
from trainer import storage
from trainer.options import InputError, to_json
from trainer.train import resume
from trainer.train.options import Options
from trainer.train.resume import Progress

CONSTANT = ["--steps-per-epoch", "2", "--schedule", "constant"]


def claiming(place: int, value: int) -> Callable[[bytes], bytes]:
    """A change of an archive: of a byte at `place` in the entry of its last member."""

    def change(data: bytes) -> bytes:
        entry = data.rindex(b"PK\x01\x02")
        return data[: entry + place] + bytes([value]) + data[entry + place + 1 :]

    return change


DAMAGES = {
    "no archive": lambda data: b"no archive",
    "empty": lambda data: b"",
    "a later compression": claiming(10, 77),
    "a password": claiming(8, 1),
}


@pytest.fixture(scope="module")
def once_finished(records, tmp_path_factory):
    return train_colour_network(records, tmp_path_factory.mktemp("once") / "finished", *CONSTANT)


@pytest.fixture
def finished(once_finished, tmp_path, tiny_network):
    """The model folder of a finished training of two epochs at a constant rate."""
    return str(shutil.copytree(once_finished, tmp_path / "finished"))


def test_a_finished_training_is_not_repeated(finished, records, capsys):
    before = Path(finished, "model.keras").read_bytes()
    assert cli.main(train_flags(records, finished, *CONSTANT)) == 0
    assert "best epoch" in capsys.readouterr().out
    assert Path(finished, "model.keras").read_bytes() == before and len(history(finished)) == 2


@pytest.mark.parametrize("name", ["model.keras", "model.json"])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_finished_training_whose_model_is_gone_or_damaged_is_not_called_done(
    name, is_there, finished, records, capsys
):
    path = Path(finished, name)
    path.write_bytes(path.read_bytes()[:100]) if is_there else path.unlink()
    message = refused(capsys, train_flags(records, finished, *CONSTANT))
    assert f"the training in {finished} has lost the model of its best epoch" in message and name in message
    assert "give --no-resume to train again" in message


@pytest.mark.parametrize("left", [None, 100, 0])
def test_a_history_that_is_gone_or_cut_off_is_written_again(finished, records, left):
    before = Path(finished, "history.csv").read_bytes()
    Path(finished, "history.csv").unlink()
    if left is not None:
        Path(finished, "history.csv").write_bytes(before[:left])
    assert cli.main(train_flags(records, finished, *CONSTANT)) == 0
    assert Path(finished, "history.csv").read_bytes() == before


def test_other_options_in_the_same_folder_are_refused_by_name(finished, records, capsys):
    message = refused(capsys, train_flags(records, finished, *CONSTANT, "--head", "bilinear", "--max-ratio", "5"))
    assert "--head was subpixel, is bilinear" in message and "--max-ratio was 10.0, is 5.0" in message
    assert "--no-resume" in message and "--crop" not in message


def test_other_records_are_refused_and_changed_stopping_options_are_listed():
    options = {"epochs": 2, "schedule": "plateau", "crop": 64, "early_stopping": 0}
    started = Progress({**options, "records": "a", "aspp_rates": [6, 12]}, "fingerprint")
    assert not resume.changes("out", started, Progress({**options, "aspp_rates": (6, 12)}, "fingerprint"))
    changed = {**options, "epochs": 5, "early_stopping": 3, "records": "b", "aspp_rates": (6, 12)}
    found = resume.changes("out", started, Progress(changed, "fingerprint"))
    assert found == ["--early-stopping was 0, is 3", "--epochs was 2, is 5"]
    with pytest.raises(InputError, match="the records differ"):
        resume.changes("out", started, Progress(changed, "another"))


def test_a_training_that_an_older_version_began_is_resumed(finished, records):
    """It did not know every option, and knew others; what both know decides."""
    path = Path(finished, "checkpoints", "state.json")
    state = json.loads(path.read_text())
    del state["options"]["freeze_bn"], state["classes"]
    state["options"]["of_old"] = 1
    path.write_text(json.dumps(state))
    assert cli.main(train_flags(records, finished, *CONSTANT, "--epochs", "3")) == 0
    assert [row["epoch"] for row in history(finished)] == ["1", "2", "3"]


def test_a_former_default_of_an_option_that_only_a_later_version_has_is_left_to_the_check_of_the_options():
    progress = Progress({}, "fingerprint", older={"focal_loss": 2.0, "lovasz": 0.0})
    options = Options(records="r", output="o")
    assert resume.with_original_defaults(options, progress) == dataclasses.replace(options, lovasz=0.0)


def test_a_training_that_a_later_version_began_is_not_resumed_without_its_new_options():
    options = {"epochs": 2, "schedule": "plateau", "crop": 64}
    stored = Progress(options | {"focal_loss": 2.0}, "fingerprint", classes=("sky",))
    with pytest.raises(InputError, match=r"a later version .* --focal-loss 2\.0, which .*; update this program, "):
        resume.changes("out", stored, Progress(options, "fingerprint", classes=("sky",)))


OLD = {"epochs": 30, "head": "subpixel", "backbone": "mobilenet_v2", "decoder": None, "schedule": "poly", "crop": 64}
"""Options as version 0.3 recorded them."""


def test_defaults_of_an_older_version_hold_for_a_training_it_began(tmp_path):
    """Today they are 120 epochs, kernels and a decoder; and once resumed, the state says them as today."""
    options, state = (
        Options(records="records", output=str(tmp_path), recipe="from-scratch", epochs=120),
        tmp_path / "checkpoints/state.json",
    )
    state.parent.mkdir()
    said = {"recipe": "from-scratch", "subpixel": "logits", "subpixel_start": "nearest", "decoder": False}
    for recorded in (OLD, {**OLD, **said}):
        older = {"epochs": 30, "subpixel": "logits", "subpixel_start": "nearest", "decoder": False, "lovasz": 0.0}
        more = {"older": older} if "recipe" in recorded else {}
        state.write_text(json.dumps({"options": recorded, "data_fingerprint": "f", "history": [], **more}))
        stored = resume.load(str(tmp_path))
        begun = resume.with_original_defaults(options, stored)
        assert (begun.epochs, begun.subpixel, begun.subpixel_start) == (30, "logits", "nearest")
        assert not begun.decoder
        assert stored.older == older
        given = resume.with_original_defaults(dataclasses.replace(options, epochs=7, crop=32), stored)
        assert (given.epochs, given.decoder, given.crop) == (7, False, 32)


def test_a_training_of_version_0_5_keeps_its_loss(tmp_path):
    path = tmp_path / "checkpoints/state.json"
    path.parent.mkdir()
    recorded = {"recipe": "fine-tune", "epochs": 40, "max_ratio": 10.0, "lovasz": 0.0, "init_from": "weights"}
    path.write_text(json.dumps({"options": recorded, "data_fingerprint": "f", "history": []}))
    stored = resume.load(str(tmp_path))
    flags = {"records": "records", "output": str(tmp_path), "init_from": "weights", "recipe": "fine-tune"}
    begun = resume.with_original_defaults(Options(**flags, max_ratio=5.0, lovasz=1.0), stored)
    assert (begun.max_ratio, begun.lovasz) == (10.0, 0.0)
    given = resume.with_original_defaults(Options(**flags, max_ratio=4.0, lovasz=1.0), stored)
    assert (given.max_ratio, given.lovasz) == (4.0, 0.0)


def test_a_training_from_a_signed_address_resumes_with_another_signature(tmp_path):
    """Up to version 0.29 the state had the whole address."""
    options = Options(records="records", output=str(tmp_path), init_from="https://host/ok.h5?Signature=S3cret2")
    fresh = Progress(json.loads(json.dumps(to_json(options))), "f")
    for recorded in ("https://host/ok.h5?Signature=S3cret1", "https://host/ok.h5"):
        resume.begin(str(tmp_path), dataclasses.replace(fresh, options=fresh.options | {"init_from": recorded}))
        stored = resume.load(str(tmp_path))
        assert resume.changes(str(tmp_path), stored, fresh) == []
        assert "S3cret" not in repr(stored) + repr(fresh)
    other = dataclasses.replace(fresh, options=fresh.options | {"init_from": "https://host/other.h5"})
    with pytest.raises(InputError, match=r"--init-from was https://host/ok\.h5, is https://host/other\.h5"):
        resume.changes(str(tmp_path), stored, other)


def test_a_flag_given_to_an_older_version_does_not_count_as_its_default(tmp_path):
    path = tmp_path / "checkpoints/state.json"
    path.parent.mkdir()
    for recorded in (
        {**OLD, "epochs": 31, "decoder": True, "subpixel": "kernels", "subpixel_start": "bilinear", "max_ratio": 4.0}
        | {"lovasz": 0.5},
        {"recipe": "quick", "epochs": 30, "max_ratio": 9.0, "lovasz": 0.5},
    ):
        path.write_text(json.dumps({"options": recorded, "data_fingerprint": "f", "history": []}))
        assert resume.load(str(tmp_path)).older == {}


def test_a_training_that_an_older_version_began_needs_no_flags_for_its_defaults(
    records, tmp_path, tiny_network, capsys
):
    older = ["--subpixel", "logits", "--subpixel-start", "nearest", "--no-decoder"]
    output = str(tmp_path / "old")
    assert cli.main(train_flags(records, output, *CONSTANT, "--epochs", "1", *older)) == 0
    path = Path(output, "checkpoints", "state.json")
    state = json.loads(path.read_text())
    del state["options"]["subpixel"], state["options"]["subpixel_start"], state["older"]
    state["options"]["decoder"] = None
    path.write_text(json.dumps(state))
    message = refused(capsys, train_flags(records, output, *CONSTANT, "--head", "bilinear"))
    assert "--head was subpixel, is bilinear" in message and "the former options to resume it" in message
    assert cli.main(train_flags(records, output, *CONSTANT)) == 0
    said = f"resuming with the defaults of the version that began it: {' '.join(older)}"
    assert said in capsys.readouterr().out
    assert [row["epoch"] for row in history(output)] == ["1", "2"]
    assert json.loads(path.read_text())["options"]["decoder"] is False


@pytest.mark.parametrize(
    ("optimizer", "schedule"), [pytest.param("adam", "plateau", marks=pytest.mark.slow), ("momentum", "poly")]
)
def test_optimizer_schedule_and_dropout_states_survive_an_interruption(
    records, tmp_path, tiny_network, monkeypatch, optimizer, schedule
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ["--epochs", "3", "--steps-per-epoch", "3", "--optimizer", optimizer, "--schedule", schedule]
    more += ["--plateau-patience", "1", "--learning-rate", "0.1", "--weight-decay", "0.01"]
    assert cli.main(train_flags(records, str(whole), *more)) == 0
    save = resume.save

    def interrupted_save(output, model, progress):
        save(output, model, progress)
        if progress.epochs == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(resume, "save", interrupted_save)
    assert cli.main(train_flags(records, str(broken), *more)) == 130
    monkeypatch.setattr(resume, "save", save)
    assert cli.main(train_flags(records, str(broken), *more)) == 0
    assert_same_checkpoint(broken / "checkpoints/epoch-0003.npz", whole / "checkpoints/epoch-0003.npz")


def test_no_resume_trains_from_scratch(records, tmp_path, tiny_network):
    output = str(tmp_path / "model")
    short = ["--steps-per-epoch", "1"]
    assert cli.main(train_flags(records, output, *short)) == 0
    assert cli.main(train_flags(records, output, *short, "--epochs", "1", "--crop", "32", "--no-resume")) == 0
    assert len(history(output)) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_the_cure(damage, finished, records, capsys):
    more = [*CONSTANT, "--epochs", "3"]
    arrays = Path(finished, "checkpoints", "epoch-0002.npz")
    arrays.write_bytes(DAMAGES[damage](arrays.read_bytes()))
    message = refused(capsys, train_flags(records, finished, *more))
    assert "epoch-0002.npz cannot be read" in message and "--no-resume" in message


def test_a_checkpoint_that_storage_does_not_give_now_is_not_called_damaged(finished, records, capsys, monkeypatch):
    def unavailable(path: str) -> str:
        raise storage.Unavailable(f"{path}: no answer; run the same command again to continue")

    monkeypatch.setattr(storage, "localize", unavailable)
    assert cli.main(train_flags(records, finished, *CONSTANT, "--epochs", "3")) != 0
    message = capsys.readouterr().err
    assert "run the same command again" in message and "--no-resume" not in message


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"history": [1]},
        {"history": [{}]},
        {"history": {"a": 1}},
        {"classes": [3]},
        {"older": 3},
        {"step": float("inf")},
    ],
)
def test_a_state_that_train_did_not_write_is_refused_with_the_cure(change, finished, records, capsys):
    path = Path(finished, "checkpoints", "state.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change if change else {"options": {}}))
    message = refused(capsys, train_flags(records, finished, *CONSTANT))
    assert "state.json is damaged" in message and "--no-resume" in message


@pytest.mark.parametrize("flags", [{"seed": 2}, {"epochs": 50}])
def test_only_a_training_with_a_finished_epoch_is_said_to_have_weights_to_start_from(tmp_path, flags):
    """Before the first epoch is kept there is no model."""
    options = Options(records="records", output="out", epochs=40)
    fresh = Progress(json.loads(json.dumps(to_json(options))), "f")
    other = dataclasses.replace(fresh, options=fresh.options | flags)
    begun, kept = fresh.at(3, 0.001), fresh.after({"val_jaccard": 0.5})
    for stored, has_weights in ((begun, False), (kept, True)):
        with pytest.raises(InputError) as error:
            resume.changes("out", stored, other)
        assert ("--init-from out" in str(error.value)) == has_weights
        assert "another --output" in str(error.value)
