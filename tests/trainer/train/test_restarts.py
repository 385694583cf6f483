"""What a training finds in its output folder, and leaves there when something is wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from pipelines import cli
from tests.drawn.records import record, write_records
from tests.drawn.training import history, refused, train_colour_network, train_flags
from trainer import leases
from trainer.train import command, resume

SHORT = ["--steps-per-epoch", "1"]


def contents(folder) -> dict[str, bytes]:
    """All files of a model folder but the logs, which grow."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.parent.name != "logs"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def once_trained(records, tmp_path_factory):
    return train_colour_network(records, tmp_path_factory.mktemp("once") / "trained", *SHORT)


@pytest.fixture
def trained(once_trained, tmp_path, tiny_network):
    """The folder of a training of two epochs of one step, with the rate falling to 0."""
    return str(shutil.copytree(once_trained, tmp_path / "trained"))


@pytest.mark.parametrize("epochs", ["1", "3"])
def test_other_epochs_under_a_rate_that_falls_to_zero_are_refused_with_what_to_do(trained, records, capsys, epochs):
    before = contents(trained)
    message = refused(capsys, train_flags(records, trained, *SHORT, "--epochs", epochs))
    assert f"--epochs was 2, is {epochs}" in message and "--schedule poly" in message
    assert f"--init-from {trained}" in message and "constant" in message
    assert contents(trained) == before


def test_a_training_that_ends_while_another_waits_for_the_folder_is_not_replaced(
    trained, records, tmp_path, capsys, monkeypatch
):
    output = str(tmp_path / "model")
    monkeypatch.setattr(leases, "acquire", lambda folder, name: shutil.copytree(trained, folder))
    message = refused(capsys, train_flags(records, output, *SHORT, "--learning-rate", "1"))
    assert "--learning-rate was 0.02, is 1.0" in message and contents(output) == contents(trained)


@pytest.mark.parametrize("schedule", ["plateau", pytest.param("constant", marks=pytest.mark.slow)])
def test_epochs_can_be_added_under_other_schedules(records, tmp_path, tiny_network, capsys, schedule):
    output = str(tmp_path / "model")
    assert cli.main(train_flags(records, output, *SHORT, "--schedule", schedule)) == 0
    assert cli.main(train_flags(records, output, *SHORT, "--schedule", schedule, "--epochs", "3")) == 0
    assert "resuming with other options: --epochs was 2, is 3" in capsys.readouterr().out
    assert len(history(output)) == 3


def test_stopping_options_can_change_on_resuming_and_are_reported(
    records, tmp_path, tiny_network, monkeypatch, capsys
):
    def save(output, model, progress, save=resume.save):
        save(output, model, progress)
        raise KeyboardInterrupt

    output = str(tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setattr(resume, "save", save)
        assert cli.main(train_flags(records, output, *SHORT)) == 130
    assert cli.main(train_flags(records, output, *SHORT, "--early-stopping", "2", "--plateau-patience", "1")) == 0
    said = "resuming with other options: --early-stopping was 0, is 2; --plateau-patience was 3, is 1"
    assert said in capsys.readouterr().out
    assert json.loads(Path(output, "checkpoints", "state.json").read_text())["options"]["early_stopping"] == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "8"], "--batch-size was 4, is 8"),
        (["--learning-rate", "1"], "--learning-rate was 0.02, is 1.0"),
        (["--aspp-rates", "6", "12"], "--aspp-rates was not given, is 6 12"),
        (["--init-from", "voc"], "--init-from was not given, is voc"),
        (["--no-flip"], "--flip was on, is off"),
    ],
)
def test_changed_options_that_affect_the_result_are_refused_with_the_reason(trained, records, capsys, flags, message):
    found = refused(capsys, train_flags(records, trained, *SHORT, *flags))
    assert message in found and "determine the course of a training" in found and "--no-resume" in found


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("ground", "bar", "disc"), "class 1 was disc, is bar; class 2 was bar, is disc"),
        (("ground", "disc", "pole"), "class 2 was bar, is pole"),
        (("ground", "disc", "bar", "pole"), "class 3 was none, is pole"),
        (("ground", "disc"), "class 2 was bar, is none"),
    ],
)
def test_records_whose_classes_have_changed_are_refused_with_the_classes(
    trained, records, tmp_path, capsys, names, found
):
    """Shards do not tell: they are the same bytes, since they hold ids."""
    changed = shutil.copytree(records, tmp_path / "records")
    content = json.loads((changed / "dataset.json").read_text())
    classes = [{"name": name, "color": [number, 0, 0]} for number, name in enumerate(names)]
    for shard in content["shards"]:
        shard["class_pixels"] = [*shard["class_pixels"], 0][: len(names)]
    content["palette"]["classes"] = classes
    (changed / "dataset.json").write_text(json.dumps(content))
    before = contents(trained)
    message = refused(capsys, train_flags(changed, trained, *SHORT))
    assert f"of the records, {found}." in message and "--no-resume" in message
    assert contents(trained) == before


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (["--init-from", "nowhere.ckpt"], 2),
        (["--freeze-until", "no-such-layer"], 2),
        (["--batch-size", "1"], 2),
        (["--learning-rate", "1e38", "--steps-per-epoch", "5"], 1),
    ],
)
def test_a_failed_start_with_no_resume_leaves_the_existing_training(trained, records, flags, status):
    before = contents(trained)
    assert cli.main(train_flags(records, trained, *SHORT, "--no-resume", *flags)) == status
    assert contents(trained) == before


def test_unusable_records_with_no_resume_leave_the_existing_training(trained, tmp_path):
    before = contents(trained)
    assert cli.main(train_flags(tmp_path / "none", trained, *SHORT, "--no-resume")) == 2
    broken = dataclasses.replace(record(0), image=record(0).image[:200])
    write_records(tmp_path / "broken", {"train": [[broken]], "val": [[record(1)]]})
    assert cli.main(train_flags(tmp_path / "broken", trained, *SHORT, "--no-resume")) == 2
    assert contents(trained) == before


FOREIGN = [["model.keras", "model.json"], ["model.keras"], ["history.csv"], ["checkpoints/epoch-0007.npz"]]


@pytest.mark.parametrize("names", FOREIGN)
def test_a_model_that_train_did_not_write_is_replaced_only_with_overwrite(
    records, tmp_path, tiny_network, capsys, names
):
    output = tmp_path / "model"
    (output / "checkpoints").mkdir(parents=True)
    for name in names:
        (output / name).write_bytes(b"not of a training")
    before = contents(output)
    for more in ([], ["--no-resume"]):
        message = refused(capsys, train_flags(records, output, *SHORT, *more))
        assert f"holds {' and '.join(names)}, but no training to resume" in message and "--overwrite" in message
        assert contents(output) == before
    assert cli.main(train_flags(records, output, *SHORT, "--overwrite", "--epochs", "1")) == 0
    assert len(history(output)) == 1


def test_event_files_of_others_are_kept_where_no_training_was(records, tmp_path, tiny_network):
    file = tmp_path / "model/logs/events.out.tfevents.123.other"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"curves of another program")
    assert cli.main(train_flags(records, tmp_path / "model", *SHORT, "--epochs", "1")) == 0
    assert file.read_bytes() == b"curves of another program"


FILES = ["model.keras", "model.json", "history.csv", "checkpoints/state.json", "checkpoints/epoch-0001.npz"]


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_found_before_the_first_step(records, tmp_path, tiny_network, capsys, name):
    (tmp_path / "model" / name).mkdir(parents=True)
    for more in ([], ["--no-resume", "--overwrite"]):
        message = refused(capsys, train_flags(records, tmp_path / "model", *SHORT, *more))
        assert f"{name} is a folder, where a file is to be written; move it away" in message


@pytest.mark.parametrize("name", ["checkpoints", "logs"])
def test_a_file_in_the_place_of_a_folder_is_found_before_the_first_step(records, tmp_path, tiny_network, capsys, name):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_bytes(b"")
    message = refused(capsys, train_flags(records, tmp_path / "model", *SHORT))
    assert f"{name} is not a folder; give another one, or move that away" in message


@pytest.mark.parametrize("content", ['{"step": 3}', '{"step": 3', ""])
def test_an_unreadable_training_state_is_replaced_only_with_overwrite(
    records, tmp_path, tiny_network, capsys, content
):
    state = tmp_path / "model" / "checkpoints" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text(content)
    for more in ([], ["--no-resume"]):
        message = refused(capsys, train_flags(records, tmp_path / "model", *SHORT, *more))
        assert "state.json is damaged, or `deeplab train` did not write it" in message and "--overwrite" in message
    assert state.read_text() == content
    assert cli.main(train_flags(records, tmp_path / "model", *SHORT, "--no-resume", "--overwrite")) == 0


def test_a_training_killed_within_its_first_epoch_needs_no_flag_to_start_again(
    records, tmp_path, tiny_network, monkeypatch
):
    output = str(tmp_path / "model")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "history_csv", killed)  # after the model was written, before its checkpoint
        assert cli.main(train_flags(records, output, *SHORT)) == 130
    assert "model.keras" in contents(output)
    assert cli.main(train_flags(records, output, *SHORT, "--max-ratio", "5")) == 0
    assert len(history(output)) == 2


def test_leftovers_of_a_killed_training_are_removed_and_other_files_kept(trained, records):
    before = contents(trained)
    ours = [".model.keras", ".model.json", ".history.csv", "checkpoints/.epoch-0001.npz", "checkpoints/.state.json"]
    for name in (*ours, ".notes", "checkpoints/.model.keras"):
        Path(trained, f"{name}.0123abcd.tmp").write_bytes(b"half")
    Path(trained, "checkpoints/epoch-0001.npz").write_bytes(b"of the epoch before")
    assert cli.main(train_flags(records, trained, *SHORT, "--no-resume")) == 0
    others = {f"{name}.0123abcd.tmp" for name in (".notes", "checkpoints/.model.keras")}
    assert contents(trained).keys() == before.keys() | others


def test_arrays_of_the_epoch_before_are_removed_where_the_training_is_over(trained, records):
    before = contents(trained)
    Path(trained, "checkpoints/epoch-0001.npz").write_bytes(b"of the epoch before")
    assert cli.main(train_flags(records, trained, *SHORT)) == 0
    assert contents(trained) == before


def test_the_model_that_a_training_starts_from_is_never_replaced(trained, records, tmp_path, capsys):
    before = contents(trained)
    link = tmp_path / "link"
    link.symlink_to(trained)
    more = ["--no-resume", "--overwrite", "--init-from", trained]
    message = refused(capsys, train_flags(records, link, *SHORT, *more))
    assert "is the model of --init-from and would be replaced" in message
    assert contents(trained) == before
