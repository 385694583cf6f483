"""`deeplab records export`: raw sets from records."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.records import command
from pipelines.records.target import Target
from tests.drawn.prepared import prepare_here, read_shard, records
from tests.drawn.records import PALETTE, record, write_records
from trainer.formats.dataset import DATASET_FILE
from trainer.formats.frames import frame
from trainer.options import InputError

TRAIN = "train-00000-of-00002.tfrecord"


def test_export_gives_the_very_files_back_and_prepare_reads_them_again(source, prepared, tmp_path, capsys):
    raw, again = tmp_path / "raw", tmp_path / "again"
    assert records("export", prepared, raw, "--originals") == 0
    assert capsys.readouterr().out.splitlines() == [
        "14 records = 8 exported + 6 left out + 0 rejected",
        f"8 images with labels written to {raw}",
    ]
    for path in (source / "images").rglob("*.jpg"):
        assert (raw / path.relative_to(source)).read_bytes() == path.read_bytes()
    for path in (source / "labels").rglob("*.png"):
        exported = np.asarray(Image.open(raw / path.relative_to(source)))
        np.testing.assert_array_equal(exported, np.asarray(Image.open(path)))
    assert prepare_here(raw, again, "--copies", "1", "--shards", "2") == 0
    for path in prepared.glob("*.tfrecord"):
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_export_writes_copies_beside_their_images(prepared, tmp_path):
    assert records("export", prepared, tmp_path / "raw") == 0
    names = {path.name for path in (tmp_path / "raw/images/train").iterdir()}
    assert names == {f"a{i}{copy}.jpg" for i in range(6) for copy in ("", ".copy1")}
    assert len(list((tmp_path / "raw/labels/train").iterdir())) == 12


def test_images_in_the_folder_that_are_not_of_the_records_are_warned_of(prepared, tmp_path, capsys):
    assert records("export", prepared, tmp_path) == 0
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "images/train/.hidden.jpg").write_bytes(b"")
    capsys.readouterr()
    assert records("export", prepared, tmp_path) == 0
    assert "warning" not in capsys.readouterr().out
    assert records("export", prepared, tmp_path, "--originals") == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        f"warning: {tmp_path} also holds files that are not of these records (12, such as images/train/a0.copy1.jpg), "
        "which `deeplab prepare` would take; remove them, or give another folder"
    ]


def test_a_rerun_removes_what_a_killed_export_was_writing_and_nothing_of_others(prepared, tmp_path):
    ours, theirs = ["labels/train/.a1.png", ".palette.json"], ["labels/train/.mine.png", ".a1.png"]
    for name in (*ours, *theirs):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.0123abcd.tmp").write_bytes(b"half")
    assert records("export", prepared, tmp_path) == 0
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.tmp")}
    assert left == {f"{name}.0123abcd.tmp" for name in theirs}


def test_an_exported_palette_reads_class_ids(tmp_path):
    palette = dataclasses.replace(PALETTE, source_ids=((7, 0), (8, 1), (9, 2)))
    write_records(tmp_path / "records", {"train": [[record(0)]]})
    path = tmp_path / "records" / DATASET_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"palette": palette.to_json()}))
    assert records("export", tmp_path / "records", tmp_path / "raw") == 0
    assert json.loads((tmp_path / "raw/palette.json").read_text())["source_ids"] == {}


@pytest.mark.parametrize("key", ["../../outside", "/outside", "a/../../../outside", "..\\outside", "c:/outside", ""])
def test_a_key_that_would_leave_the_folder_is_a_fault_to_every_verb(tmp_path, capsys, key):
    folder = tmp_path / "records"
    write_records(folder, {"train": [[record(0), dataclasses.replace(record(1), key=key, filename="a.jpg")]]})
    fault = (
        re.escape(f"record 1: the name {key!r} ")
        + "(is empty, .*|would leave the output folder|begins with a slash.*|has .*); expected a .*'train/a'"
    )
    for verb in ("export", "reshard"):
        with pytest.raises(InputError, match=f"^train-00000-of-00001.tfrecord: {fault}.*; `deeplab records verify"):
            records(verb, folder, tmp_path / "inside" / verb)
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name]
    assert records("verify", folder) == 1
    assert f"key {key}: the name {key!r} " in capsys.readouterr().out
    assert records("repair", folder) == 1
    assert re.search(f"cannot be made again: .*{re.escape(key)}: {fault}", capsys.readouterr().out)
    assert records("repair", folder, "--drop") == records("verify", folder) == 0
    assert records("export", folder, tmp_path / "raw") == 0
    assert [path.name for path in tmp_path.rglob("*.jpg")] == ["000.jpg"]


def test_records_of_the_same_files_are_refused(tmp_path):
    other = dataclasses.replace(record(1), key="000", copy=0)
    write_records(tmp_path / "records", {"train": [[record(0)], [other]]})
    with pytest.raises(InputError, match=r"two records would both be labels/train/000\.png; export without copies"):
        records("export", tmp_path / "records", tmp_path / "raw")


def test_a_shard_with_fewer_records_than_dataset_json_counts_is_an_error(folder, tmp_path):
    frames = read_shard(folder / TRAIN)
    (folder / TRAIN).write_bytes(b"".join(frame(one.data) for one in frames[:-1]))
    with pytest.raises(InputError, match=r"has \d records, but dataset.json says \d; `deeplab records verify"):
        records("export", folder, tmp_path / "raw")
    assert not (tmp_path / "raw/palette.json").exists()


@pytest.mark.parametrize(("step", "written"), [("refuse_raw_set", set()), ("write", {"a1", "a2", "a3", "a5"})])
def test_records_that_are_changed_meanwhile_are_noticed_before_the_next_shard(
    step, written, folder, tmp_path, monkeypatch
):
    true = getattr(Target, step)

    def overtaken(*arguments: object) -> None:
        (folder / DATASET_FILE).unlink(missing_ok=True)  # as `prepare` does before it writes shards
        true(*arguments)

    monkeypatch.setattr(Target, step, overtaken)
    monkeypatch.setattr(command, "cores", lambda: 1)
    with pytest.raises(InputError, match="were changed by another command since this one began"):
        records("export", folder, tmp_path / "raw", "--originals")
    assert {path.stem for path in Path(tmp_path / "raw").rglob("*.*")} == written, "none, and those of one shard"
