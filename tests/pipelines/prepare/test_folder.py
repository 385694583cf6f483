"""Runs of `deeplab prepare` into a folder that holds records already, or the remains of a killed run."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from pipelines.prepare import command, plan, shards
from pipelines.runner import chunks
from pipelines.runner.remote import FOLLOWED
from tests.drawn.places import ROOT
from tests.drawn.prepared import prepare, prepare_here, read_records, shard_bytes
from tests.drawn.rawset import write_pair, write_rawset
from tests.drawn.records import draw_image
from trainer.formats.dataset import load_dataset
from trainer.options import InputError


def test_a_rerun_keeps_finished_shards(source, tmp_path, capsys):
    output = tmp_path / "records"
    prepare_here(source, output, "--shards", "2")
    times = {path: path.stat().st_mtime_ns for path in output.glob("*.tfrecord")}
    (output / "train-00001-of-00002.tfrecord").unlink()
    (output / "dataset.json").unlink()
    capsys.readouterr()
    assert prepare_here(source, output, "--shards", "2") == 0
    text = capsys.readouterr().out
    assert "2 of 3 shards are finished already and kept" in text
    changed = [path.name for path, before in times.items() if path.stat().st_mtime_ns != before]
    assert changed == ["train-00001-of-00002.tfrecord"]
    records = {shard.name: shard.records for shard in load_dataset(str(output)).shards}
    written = records["train-00001-of-00002.tfrecord"]
    assert f"11 records = {written} written + {11 - written} kept + 0 rejected" in text
    assert len(read_records(output)) == 11


def test_a_few_images_more_change_the_shards_they_fall_into_and_many_more_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chunks, "SHARD_RECORDS", 4)
    whole = ("--val-fraction", "0")
    source = write_rawset(tmp_path / "raw", {"train": 12}, 64)
    assert prepare_here(source, tmp_path / "records", *whole) == 0
    write_pair(source, "train", "new.jpg", *draw_image(0, 64, 64))  # the thirteenth, and there would be four shards
    assert prepare_here(source, tmp_path / "records", *whole) == 0
    assert "2 of 3 shards are finished already and kept" in capsys.readouterr().out
    assert prepare_here(source, tmp_path / "new", *whole) == 0
    assert len(shard_bytes(tmp_path / "new")) == 4
    for number in range(20):
        write_pair(source, "train", f"more{number}.jpg", *draw_image(number, 64, 64))
    assert prepare_here(source, tmp_path / "records", *whole) == 0
    assert len(shard_bytes(tmp_path / "records")) == 9


def test_shards_of_an_older_version_are_written_again_and_this_is_said_once(source, tmp_path, monkeypatch, capsys):
    output, flags = tmp_path / "records", ("--shards", "2")
    with monkeypatch.context() as older:
        for module in (plan, shards):
            older.setattr(module, "FORMAT_VERSION", 1)
        prepare_here(source, output, *flags)
    for path in (output / "shards").iterdir():
        content = json.loads(path.read_text())
        content["shard"]["pictures"] = content["shard"].pop("images")
        older = {name: content[name] for name in ("shard", "rejects")}
        path.write_text(json.dumps(older))
    capsys.readouterr()
    said = "3 shards in .* were written by an older version of this program, and may differ; all are written again"
    for kept in (0, 11):
        assert prepare_here(source, output, *flags) == 0
        text = capsys.readouterr().out
        assert bool(re.search(said, text)) == (kept == 0)
        assert ("11 records = 0 written + 11 kept" if kept else "11 records = 11 written + 0 rejected") in text
    prepare_here(source, tmp_path / "new", *flags)
    assert shard_bytes(output) == shard_bytes(tmp_path / "new")


def test_other_augmentation_rewrites_only_shards_with_copies(source, tmp_path):
    output = tmp_path / "records"
    flags = ("--copies", "1", "--shards", "1")
    prepare_here(source, output, *flags)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.glob("*.tfrecord")}
    assert prepare_here(source, output, *flags, "--gamma", "2", "2") == 0
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.glob("*.tfrecord")}
    assert after["val-00000-of-00001.tfrecord"] == before["val-00000-of-00001.tfrecord"]
    assert after["train-00000-of-00001.tfrecord"][1] != before["train-00000-of-00001.tfrecord"][1]


def test_a_changed_source_file_rewrites_its_shard(tmp_path):
    source, output = write_rawset(tmp_path / "raw", {"train": 8}), tmp_path / "records"
    prepare_here(source, output, "--shards", "4", "--copies", "0")
    before = shard_bytes(output)
    write_pair(source, "train", "a0.jpg", *draw_image(77))
    assert prepare_here(source, output, "--shards", "4") == 0
    assert sum(data != before[name] for name, data in shard_bytes(output).items()) == 1


def test_a_job_that_breaks_off_and_returns_to_old_options_gives_the_old_bytes(source, tmp_path, monkeypatch):
    output = tmp_path / "records"
    flags = ("--copies", "1", "--shards", "3", "--direct_num_workers", "1")
    prepare_here(source, output, *flags)
    before = shard_bytes(output)
    make, calls = shards.make_shard, []

    def full_disk(*args):
        calls.append(args)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return make(*args)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "make_shard", full_disk)
        with pytest.raises(InputError, match=r"OSError: \[Errno 28\] No space left on device"):
            prepare(source, output, *flags, "--gamma", "2", "2", "--seed", "3")
    assert not (output / "dataset.json").exists()
    assert shard_bytes(output) != before
    assert prepare_here(source, output, *flags) == 0
    assert shard_bytes(output) == before


def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(tmp_path):
    source = write_rawset(tmp_path / "raw", {"train": 6}, size=320)
    flags = ["--copies", "19", "--shards", "20", "--direct_num_workers", "2"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "pipelines", "prepare", "--input", str(source), "--output", str(killed)]
    with subprocess.Popen([*command, *flags], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as job:
        deadline = time.monotonic() + 60
        while not list(killed.glob("*.tfrecord")) and time.monotonic() < deadline:
            time.sleep(0.002)
        job.send_signal(signal.SIGKILL)
    left = len(list(killed.glob("*.tfrecord")))
    assert 0 < left < 20
    assert not (killed / "dataset.json").exists()
    (killed / ".progress").mkdir()  # as a command that followed a job elsewhere would have left it
    assert prepare_here(source, killed, *flags) == 0
    assert not (killed / ".progress").exists()
    assert prepare_here(source, whole, *flags) == 0
    assert shard_bytes(killed) == shard_bytes(whole)
    names = [path.name for path in [*killed.rglob("*"), *killed.rglob(".*")]]
    assert not [name for name in names if name.endswith(".tmp") or name.startswith("plan-")]


def test_shards_of_an_earlier_run_are_removed_and_nothing_else(source, tmp_path, capsys):
    output = tmp_path / "records"
    prepare_here(source, output, "--shards", "4")
    (output / "notes.txt").write_text("mine")
    (output / "shards" / "notes.json").write_text("mine")
    old = {path.name for path in output.glob("*.tfrecord")}
    capsys.readouterr()
    assert prepare_here(source, output, "--shards", "2") == 0
    removed = len(old - {path.name for path in output.glob("*.tfrecord")})
    assert removed >= 3
    assert f"removed {removed} shards of an earlier run" in capsys.readouterr().out
    names = {shard.name for shard in load_dataset(str(output)).shards}
    assert {path.name for path in output.iterdir()} == names | {"dataset.json", "rejects.jsonl", "shards", "notes.txt"}
    assert {path.name for path in (output / "shards").iterdir()} == {f"{name}.json" for name in names} | {"notes.json"}


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"version": 2'])
def test_the_cure_of_a_damaged_dataset_json_is_right(damage, source, tmp_path, capsys):
    path = tmp_path / "dataset.json"
    assert prepare_here(source, tmp_path) == 0
    before, times = path.read_bytes(), {shard: shard.stat().st_mtime_ns for shard in tmp_path.glob("*.tfrecord")}
    path.write_bytes(damage)
    with pytest.raises(
        InputError, match="remove it, and run the same `deeplab prepare` again, which keeps the shards"
    ):
        load_dataset(str(tmp_path))
    path.unlink()
    assert prepare_here(source, tmp_path) == 0
    assert path.read_bytes() == before and {shard: shard.stat().st_mtime_ns for shard in times} == times


def test_shards_of_a_job_that_was_followed_are_not_overwritten_again(tmp_path, monkeypatch, capsys):
    raw = write_rawset(tmp_path / "raw", {"train": 5, "val": 2})
    run = lambda: prepare_here(raw, tmp_path / "records", "--shards", "2", "--overwrite")
    assert run() == 0
    monkeypatch.setattr(command, "attach", lambda *_: FOLLOWED)
    monkeypatch.setattr(command, "run_job", None)
    assert run() == 0
    assert "shards are finished already and kept" in capsys.readouterr().out
