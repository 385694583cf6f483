"""No image ends `deeplab prepare`, and nothing that passes becomes a reject for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipelines.prepare import command, job, making, shards
from tests.drawn.places import ROOT
from tests.drawn.prepared import prepare_here, read_records, read_rejects, shard_bytes
from tests.drawn.rawset import write_rawset
from trainer import storage
from trainer.options import InputError

FLAGS = ("--copies", "1", "--shards", "2")


@pytest.fixture
def raw(tmp_path) -> Path:
    return write_rawset(tmp_path / "raw", {"train": 5, "val": 2})


@pytest.fixture
def whole(raw, tmp_path) -> dict[str, bytes]:
    """What becomes of the set when nothing happens."""
    assert prepare_here(raw, tmp_path / "whole", *FLAGS) == 0
    return shard_bytes(tmp_path / "whole")


@pytest.mark.parametrize("error", [MemoryError("no more"), TypeError("planted"), RuntimeError("planted")])
def test_what_an_image_raises_rejects_that_image_until_it_passes(raw, whole, tmp_path, monkeypatch, capsys, error):
    make_record, calls = making.make_record, []

    def planted(entry, *others):
        if entry.key == "train/a2":
            calls.append(entry)
            raise error
        return make_record(entry, *others)

    output = tmp_path / "records"
    with monkeypatch.context() as patch:
        patch.setattr(making, "make_record", planted)
        assert prepare_here(raw, output, *FLAGS) == 1
    assert len(calls) == 4  # the image and its copy, each of them once more alone
    (reject,) = read_rejects(output).values()
    assert (reject["key"], reject["path"], reject["records"]) == ("train/a2", str(raw / "images/train/a2.jpg"), 2)
    assert reject["reason"] == f"{type(error).__name__}: {error}; tried alone"
    assert {one.key for one in read_records(output, "train")} == {f"train/a{i}" for i in (0, 1, 3, 4)}
    capsys.readouterr()
    assert prepare_here(raw, output, *FLAGS) == 0
    assert "written again, since the cause of their rejects may have passed: 1 shard" in capsys.readouterr().out
    assert shard_bytes(output) == whole


def test_an_encoder_that_fails_rejects_that_image(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "encode", lambda made: 1 / 0 if made.key == "val/a1" else b"")
    assert prepare_here(raw, tmp_path / "records") == 1
    assert read_rejects(tmp_path / "records")["val/a1"]["reason"].startswith("ZeroDivisionError")


def test_storage_that_does_not_answer_ends_the_run_which_can_be_resumed(raw, whole, tmp_path, monkeypatch):
    read, calls = storage.read, []

    def flaky(path):
        calls.append(path)
        if len(calls) > 20 and path.endswith(".jpg"):
            raise storage.Unavailable(f"{path}: too many open files")
        return read(path)

    output = tmp_path / "records"
    with monkeypatch.context() as patch:
        patch.setattr(storage, "read", flaky)
        with pytest.raises((InputError, storage.Unavailable), match="too many open files"):
            prepare_here(raw, output, *FLAGS)
    assert not (output / "dataset.json").exists() and not (output / "rejects.jsonl").exists()
    assert prepare_here(raw, output, *FLAGS) == 0
    assert shard_bytes(output) == whole and read_rejects(output) == {}


def test_a_file_that_could_not_be_read_is_tried_again_though_nothing_of_it_changed(
    raw, whole, tmp_path, monkeypatch, capsys
):
    read, output = storage.read, tmp_path / "records"

    def denied(path):
        if path.endswith("labels/train/a1.png"):
            raise PermissionError(13, "Permission denied", path)
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "read", denied)
        for _ in range(2):
            assert prepare_here(raw, output, *FLAGS) == 1
            reject = read_rejects(output)["train/a1"]
            assert (reject["reason"], reject["records"]) == ("cannot be read: Permission denied", 2)
        assert "3 of 3 shards are finished already and kept" in capsys.readouterr().out
    assert prepare_here(raw, output, *FLAGS) == 0
    assert shard_bytes(output) == whole and read_rejects(output) == {}


PLANTED = """
    import os, signal
    from PIL import Image
    opened = Image.open
    def killing(file, *args, **kwargs):
        if b"planted" in file.getvalue():
            os.kill(os.getpid(), signal.SIGSEGV)
        return opened(file, *args, **kwargs)
    Image.open = killing
"""


def test_an_image_that_ends_the_process_is_found_by_the_rerun_and_the_set_finishes(raw, tmp_path):
    sound = tmp_path / "sound"
    assert prepare_here(raw, sound, *FLAGS) == 0
    image = raw / "images/train/a2.jpg"
    data = image.read_bytes()
    image.write_bytes(data[:-2] + b"planted" + data[-2:])
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted/sitecustomize.py").write_text(textwrap.dedent(PLANTED))
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "planted")}
    output = tmp_path / "records"
    command = [sys.executable, "-m", "pipelines", "prepare", "--input", str(raw), "--output", str(output), *FLAGS]
    run = lambda: subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert run().returncode == -signal.SIGSEGV
    assert not (output / "dataset.json").exists()
    rerun = run()
    assert rerun.returncode == 1, rerun.stderr
    (reject,) = read_rejects(output).values()
    assert (reject["key"], reject["path"], reject["records"]) == ("train/a2", str(image), 2)
    assert "(SIGSEGV)" in reject["reason"]
    expected = [one for one in read_records(sound) if one.key != "train/a2"]
    assert read_records(output) == expected
    assert run().returncode == 1
    assert read_records(output) == expected


PLANTED_HEADER = """
    import os, signal
    from trainer.formats import headers
    read = headers.read
    def killing(data, *args):
        if data.endswith(b"planted"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return read(data, *args)
    headers.read = killing
"""


@pytest.mark.slow
def test_a_label_that_ends_the_process_before_the_job_begins_is_found_by_the_rerun(raw, tmp_path):
    label = raw / "labels/train/a2.png"
    label.write_bytes(label.read_bytes() + b"planted")
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted/sitecustomize.py").write_text(textwrap.dedent(PLANTED_HEADER))
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'planted'}{os.pathsep}{ROOT}"}
    output = tmp_path / "records"
    command = [sys.executable, "-m", "pipelines", "prepare", "--input", str(raw), "--output", str(output), *FLAGS]
    first, rerun = (subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True) for _ in "12")
    assert first.returncode == -signal.SIGSEGV and not first.stdout
    assert rerun.returncode == 1, rerun.stderr
    (reject,) = read_rejects(output).values()
    assert (reject["key"], reject["path"], reject["records"]) == ("train/a2", str(raw / "images/train/a2.jpg"), 2)
    assert "(SIGSEGV)" in reject["reason"]


def test_a_set_that_cannot_be_prepared_leaves_nothing_in_the_output(raw, tmp_path):
    (tmp_path / "empty").mkdir()
    for output in (tmp_path / "new", tmp_path / "empty"):
        (raw / "palette.json").write_text("{}")
        with pytest.raises(InputError):
            prepare_here(raw, output, *FLAGS)
    assert not (tmp_path / "new").exists() and list((tmp_path / "empty").iterdir()) == []


def test_a_plan_that_another_run_changed_ends_the_run(raw, whole, tmp_path, monkeypatch):
    read, output = job.workarea.read_plan, tmp_path / "records"

    def meddle(folder, shard, digest):
        for path in (Path(folder) / "shards").glob(f"plan-*{shard}.jsonl"):
            path.write_text(path.read_text().replace("a1.jpg", "a2.jpg").replace("a0.jpg", "a3.jpg"))
        return read(folder, shard, digest)

    def lose(folder, shard, digest):
        for path in (Path(folder) / "shards").glob("plan-*"):
            path.unlink(missing_ok=True)  # the thread of another shard may have been faster
        return read(folder, shard, digest)

    for change, said in ((meddle, "was changed"), (lose, "is gone")):
        with monkeypatch.context() as patch:
            patch.setattr(job.workarea, "read_plan", change)
            with pytest.raises(InputError, match=f"{said}: another `deeplab prepare` is working on this folder"):
                prepare_here(raw, output, *FLAGS)
    assert prepare_here(raw, output, *FLAGS) == 0
    assert shard_bytes(output) == whole


def test_a_shard_that_another_run_replaced_is_not_described_by_this_one(raw, whole, tmp_path, monkeypatch):
    write, output = shards.workarea.write_sidecar, tmp_path / "records"

    def late(folder, outcome):
        """The other run's shard, of the same size, takes the place of ours before our sidecar is there."""
        path = Path(folder) / outcome.shard.name
        path.unlink()
        path.write_bytes(bytes(outcome.shard.bytes))
        write(folder, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(shards.workarea, "write_sidecar", late)
        with pytest.raises(InputError, match="was replaced by another `deeplab prepare`"):
            prepare_here(raw, output, *FLAGS)
    assert not (output / "dataset.json").exists()
    assert prepare_here(raw, output, *FLAGS) == 0
    assert shard_bytes(output) == whole


def begin(output: Path) -> None:
    """As another run with other options does, which is to write one of the shards."""
    name = "train-00000-of-00002.tfrecord"
    (output / f"shards/plan-0123456789abcdef-{name}.jsonl").write_text("")
    (output / f"shards/{name}.json").unlink()


def test_a_run_ends_where_another_one_has_begun_in_its_folder(raw, whole, tmp_path, monkeypatch):
    survey, output, surveys = command.survey, tmp_path / "records", []

    def late(folder, *expected):
        surveys.append(folder)
        if len(surveys) == 2:
            begin(output)
        return survey(folder, *expected)

    with monkeypatch.context() as patch:
        patch.setattr(command, "survey", late)
        with pytest.raises(InputError, match=r"train-00000-of-00002\.tfrecord .* was replaced by another"):
            prepare_here(raw, output, *FLAGS)
    assert not (output / "dataset.json").exists()
    assert prepare_here(raw, output, *FLAGS) == 0
    assert shard_bytes(output) == whole


def test_shards_are_neither_written_nor_described_when_another_run_has_ended_in_the_folder(
    raw, whole, tmp_path, monkeypatch
):
    make_record, output = making.make_record, tmp_path / "records"

    def slow(*arguments):
        """Meanwhile the other run ends, which removes the plans."""
        for path in (output / "shards").glob("plan-*"):
            path.unlink()
        return make_record(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(making, "make_record", slow)
        with pytest.raises(InputError, match="is gone: another `deeplab prepare` is working on this folder"):
            prepare_here(raw, output, *FLAGS)
    assert not list(output.glob("*.tfrecord")) and not list(output.glob(".*"))
    write = command.write_rejects

    def replaced(*arguments):
        """The other run writes its last shard after ours were looked at."""
        (output / "val-00000-of-00001.tfrecord").write_bytes(b"of the other run")
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(command, "write_rejects", replaced)
        with pytest.raises(InputError, match=r"val-00000-of-00001\.tfrecord .* was replaced by another"):
            prepare_here(raw, output, *FLAGS)
    assert not (output / "dataset.json").exists()
    assert prepare_here(raw, output, *FLAGS) == 0
    assert shard_bytes(output) == whole


def test_entries_and_rejects_keep_names_of_every_kind(tmp_path):
    names = ["a\u2028b", "a\u0085b", "a\nb", "a'b", 'a"b', "a%2Fb", "ä ö", "a.b.c", "\u202ea"]
    entries = [job.workarea.Entry(name, f"{name}.jpg", f"/x\udcff/{name}.jpg", "l.png", 0) for name in names]
    digest = job.workarea.write_plan(str(tmp_path), "train-00000-of-00001.tfrecord", entries)
    assert job.workarea.read_plan(str(tmp_path), "train-00000-of-00001.tfrecord", digest) == entries
    (plan,) = (tmp_path / "shards").iterdir()
    assert len(plan.read_bytes().split(b"\n")) == len(names) + 1
    assert all(json.loads(line) for line in plan.read_bytes().split(b"\n")[:-1])
