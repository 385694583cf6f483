"""Output folders in which lie files that `deeplab prepare` did not write: they stay, or the run is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.drawn.outputs import as_it_is
from tests.drawn.prepared import prepare_here, shard_bytes
from tests.drawn.rawset import write_rawset
from trainer.files import local
from trainer.formats.dataset import load_dataset
from trainer.options import InputError

SHARD = "train-00001-of-00004.tfrecord"


@pytest.fixture
def folder(prepared, tmp_path):
    """A copy of the prepared records to lay something into."""
    return Path(shutil.copytree(prepared, tmp_path / "records"))


@pytest.mark.parametrize("name", ["train-00001-of-00007.tfrecord", "coco_train-00000-of-00100.tfrecord", "a.tfrecord"])
def test_records_of_another_tool_are_never_removed(source, folder, name):
    (folder / name).write_bytes(b"theirs")
    (folder / "shards" / f"{name}.json").write_text('{"theirs": true}')
    assert prepare_here(source, folder, "--copies", "1", "--shards", "3") == 0
    assert prepare_here(source, folder, "--copies", "1", "--shards", "5", "--overwrite") == 0
    assert (folder / name).read_bytes() == b"theirs"
    assert (folder / "shards" / f"{name}.json").read_text() == '{"theirs": true}'


@pytest.mark.parametrize(
    "name",
    [SHARD, "dataset.json", "rejects.jsonl", f"shards/{SHARD}.json"],
)
@pytest.mark.parametrize("data", [b"theirs", b'{"version": 2, "shards": []}\n', b"\xff\xfe\n", b'{"key": "a"}\n'])
def test_a_file_of_another_program_is_not_replaced_but_by_overwrite(source, prepared, tmp_path, name, data):
    folder, flags = tmp_path / "records", ("--copies", "2", "--shards", "4")
    (folder / "shards").mkdir(parents=True)
    (folder / name).write_bytes(data)
    with pytest.raises(
        InputError, match=r"would be replaced and was not written by this command; .*--overwrite"
    ) as stop:
        prepare_here(source, folder, *flags)
    assert str(stop.value).startswith(str(folder / name))
    assert as_it_is(folder) == {name: data}
    assert prepare_here(source, folder, *flags, "--overwrite") == 0
    assert shard_bytes(folder) == shard_bytes(prepared)


def test_all_files_in_the_way_are_counted(source, tmp_path):
    for number in range(4):
        (tmp_path / f"train-0000{number}-of-00004.tfrecord").write_bytes(b"theirs")
    with pytest.raises(
        InputError, match=r"train-00000-of-00004\.tfrecord and 3 more files would be replaced and were not"
    ):
        prepare_here(source, tmp_path, "--copies", "2", "--shards", "4")


def test_rejects_of_another_command_are_not_replaced(source, tmp_path):
    (tmp_path / "rejects.jsonl").write_text(
        '{"key": "a", "path": "a", "stage": "segment", "reason": "", "records": 1}\n'
    )
    with pytest.raises(InputError, match="would be replaced"):
        prepare_here(source, tmp_path)


def test_shards_are_ours_by_dataset_json_where_their_work_area_was_deleted(source, prepared, folder):
    shutil.rmtree(folder / "shards")
    assert prepare_here(source, folder, "--copies", "2", "--shards", "4") == 0
    assert shard_bytes(folder) == shard_bytes(prepared)


@pytest.mark.parametrize("name", [f"shards/{SHARD}.json", "dataset.json"])
@pytest.mark.parametrize("more", [{}, {"unheard_of": ["a"]}])
def test_records_of_a_later_version_are_replaced_only_by_overwrite(source, prepared, folder, name, more):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 7, "version": 7} | more))
    before = as_it_is(folder)
    with pytest.raises(InputError, match=r"a later version of this program wrote the records; update this program"):
        prepare_here(source, folder, "--copies", "2", "--shards", "4")
    assert as_it_is(folder) == before
    assert prepare_here(source, folder, "--copies", "2", "--shards", "4", "--overwrite") == 0
    assert shard_bytes(folder) == shard_bytes(prepared)


def test_a_shard_that_a_killed_run_had_not_described_yet_is_ours(source, prepared, folder):
    (folder / "dataset.json").unlink()
    (folder / "shards" / f"{SHARD}.json").rename(folder / "shards" / f"plan-0123456789abcdef-{SHARD}.jsonl")
    assert prepare_here(source, folder, "--copies", "2", "--shards", "4") == 0
    assert shard_bytes(folder) == shard_bytes(prepared)
    assert not list((folder / "shards").glob("plan-*"))


def test_a_shard_that_another_file_took_the_place_of_is_written_again(source, prepared, folder):
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(bytes(len(data)))
    assert prepare_here(source, folder, "--copies", "2", "--shards", "4") == 0
    assert shard_bytes(folder) == shard_bytes(prepared)


def test_a_copied_folder_is_finished_though_its_times_are_others(source, prepared, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder, copy_function=shutil.copyfile)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}
    assert prepare_here(source, folder, "--copies", "2", "--shards", "4") == 0
    assert "5 of 5 shards are finished already and kept" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")} == before


def test_overwrite_writes_finished_shards_again(source, folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}
    assert prepare_here(source, folder, "--copies", "2", "--shards", "4", "--overwrite") == 0
    assert "27 records = 27 written + 0 rejected" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns != time for path, time in before.items())


def test_inputs_are_not_replaced_through_links_nor_with_overwrite(source, tmp_path):
    raw, link = write_rawset(tmp_path / "raw", {"train": 2}), tmp_path / "link"
    link.symlink_to(raw, target_is_directory=True)
    with pytest.raises(InputError, match="is the input folder"):
        prepare_here(raw, link, "--overwrite")
    manifest = raw / "rejects.jsonl"
    manifest.write_text('{"image": "images/train/a0.jpg", "label": "labels/train/a0.png"}\n')
    for output in (raw, link):
        with pytest.raises(InputError, match=r"rejects\.jsonl is one of the inputs and would be replaced"):
            prepare_here(manifest, output, "--overwrite")
    os.link(source / "palette.json", tmp_path / "dataset.json")
    with pytest.raises(InputError, match=r"dataset\.json is one of the inputs"):
        prepare_here(source, tmp_path, "--overwrite", "--palette", str(tmp_path / "dataset.json"))


def test_folders_of_others_in_the_output_are_not_looked_into(source, tmp_path, monkeypatch):
    """They may hold more names than there is memory for: with `--output /` all of the machine's."""
    (tmp_path / "others/deep").mkdir(parents=True)
    listed, entries = set(), local._entries
    monkeypatch.setattr(local, "_entries", lambda folder: listed.add(folder) or entries(folder))
    assert prepare_here(source, tmp_path, "--copies", "1") == 0
    assert prepare_here(source, tmp_path, "--copies", "1") == 0
    below = {Path(folder).relative_to(tmp_path).parts for folder in listed if Path(folder).is_relative_to(tmp_path)}
    assert () in below and ("shards",) in below and not any("others" in parts for parts in below)


def test_dataset_json_says_where_the_raw_set_is_from_anywhere(source, tmp_path, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert prepare_here(source.name, os.path.relpath(tmp_path / "records")) == 0
    assert load_dataset(str(tmp_path / "records")).options["input"] == str(source)
