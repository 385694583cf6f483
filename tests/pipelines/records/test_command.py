"""deeplab records: ls, show, verify, stats, export, on sets from `deeplab prepare` and on sets spoilt by hand."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import cli
from tests.drawn.rawset import write_pair, write_rawset
from tests.drawn.records import PALETTE, record, write_records
from trainer.formats import images, records

TRAIN = "train-00000-of-00002.tfrecord"


def tool(*argv: object) -> int:
    return cli.main(["records", *map(str, argv)])


def prepare(source: Path, folder: Path, *flags: str) -> int:
    return cli.main(["prepare", "--input", str(source), "--output", str(folder), *flags])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_rawset(tmp_path_factory.mktemp("raw"), {"train": 6, "val": 2})


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "records"
    assert (
        cli.main(["prepare", "--input", str(source), "--output", str(folder), "--copies", "1", "--shards", "2"]) == 0
    )
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    """A copy to be spoilt."""
    return Path(shutil.copytree(prepared, tmp_path / "records"))


def frames(path: Path) -> list[records.Frame]:
    with open(path, "rb") as file:
        return list(records.read_frames(file))


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_ls_lists_every_shard_and_their_sums(prepared, capsys):
    assert tool("ls", prepared) == 0
    lines = capsys.readouterr().out.splitlines()
    size = (prepared / TRAIN).stat().st_size
    count = len(frames(prepared / TRAIN))
    row = next(line.split() for line in lines if line.startswith(TRAIN))
    assert (row[1], row[2], row[4]) == ("train", str(count), f"{size:,}")
    total = next(line.split() for line in lines if line.startswith("3 in all"))
    assert total[3:5] == ["14", "8"]
    assert any("palette drawn: 3 classes, 255 is ignored" in line for line in lines)


@pytest.mark.parametrize("command", ["ls", "show", "verify", "stats"])
def test_a_folder_without_records_is_said(tmp_path, capsys, command):
    assert tool(command, tmp_path) == 2
    assert "dataset.json is missing" in capsys.readouterr().err


def test_an_unknown_command_is_said(capsys):
    assert tool("list", "x") == 2
    assert "expected one of ls, show, verify, stats, export, got 'list'" in capsys.readouterr().err
    assert tool() == 2
    assert tool("--help") == 0


def test_show_tells_a_record_and_saves_its_pictures(prepared, source, tmp_path, capsys):
    assert tool("show", prepared, "--record", "train/a3", "--save", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "train/a3 (the picture itself)" in said
    assert "jpeg, 96 x 96, RGB" in said
    assert "disc" in said
    saved = tmp_path / "out"
    assert (saved / "train_a3.jpg").read_bytes() == (source / "images/train/a3.jpg").read_bytes()
    expected = np.asarray(Image.open(source / "labels/train/a3.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(saved / "train_a3-label.png")), expected)
    overlay = images.decode_image((saved / "train_a3-overlay.png").read_bytes())
    photo = images.decode_image((source / "images/train/a3.jpg").read_bytes())
    np.testing.assert_array_equal(overlay, PALETTE.overlay(photo, expected))


def test_show_finds_records_by_number_and_copies_by_key(prepared, capsys):
    first = records.decode(frames(prepared / TRAIN)[1].data)
    assert tool("show", prepared, "--record", 1) == 0
    assert f"key       {first.key} (" in capsys.readouterr().out
    assert tool("show", prepared, "--record", 13) == 0
    assert "val-00000-of-00001.tfrecord, record 1" in capsys.readouterr().out
    assert tool("show", prepared, "--record", "train/a2", "--copy", 1) == 0
    assert "train/a2 (augmented copy 1)" in capsys.readouterr().out


@pytest.mark.parametrize("wanted", ["train/zebra", "14", "val/a0.jpg"])
def test_show_says_what_there_is_instead(prepared, capsys, wanted):
    assert tool("show", prepared, "--record", wanted) == 2
    assert f"has no record '{wanted}'" in (said := capsys.readouterr().err)
    assert "a number from 0 to 13" in said


def test_verify_passes_what_prepare_wrote(prepared, capsys):
    assert tool("verify", prepared) == 0
    assert "14 records in 3 shards, every checksum and every record is good" in capsys.readouterr().out


def test_verify_reports_a_flipped_byte_with_shard_number_offset_and_key(folder, capsys):
    frame = frames(folder / TRAIN)[2]
    damaged = records.decode(frame.data)
    place = frame.data.index(damaged.image) + len(damaged.image) // 2
    flip(folder / TRAIN, frame.offset + 12 + place)
    assert tool("verify", folder) == 1
    said = capsys.readouterr().out
    copy = f" copy {damaged.copy}" if damaged.copy else ""
    assert f"{TRAIN}: record 2 at byte {frame.offset}, key {damaged.key}{copy}: checksum of the data is wrong" in said
    assert "1 fault found" in said


@pytest.mark.parametrize("where", ["message", "data checksum"])
def test_the_key_is_told_even_when_the_message_cannot_be_parsed(folder, capsys, where):
    frame = frames(folder / TRAIN)[0]
    key = records.decode(frame.data).key
    flip(folder / TRAIN, frame.offset + (12 if where == "message" else 12 + len(frame.data)))
    assert tool("verify", folder) == 1
    assert f"record 0 at byte 0, key {key}" in capsys.readouterr().out


def test_a_damaged_length_loses_the_rest_and_says_so(folder, capsys):
    before = frames(folder / TRAIN)
    flip(folder / TRAIN, before[1].offset + 1)
    assert tool("verify", folder) == 1
    said = capsys.readouterr().out
    assert f"record 1 at byte {before[1].offset}, key unreadable: checksum of the length is wrong" in said
    assert f"{TRAIN}: 2 records found, expected {len(before)}" in said


def test_verify_misses_shards_and_finds_strange_ones(folder, capsys):
    (folder / TRAIN).rename(folder / "train-00007-of-00009.tfrecord")
    assert tool("verify", folder) == 1
    said = capsys.readouterr().out
    assert f"{TRAIN}: the shard is missing" in said
    assert "train-00007-of-00009.tfrecord: is not in dataset.json" in said


def test_a_truncated_shard_is_found(folder, capsys):
    data = (folder / TRAIN).read_bytes()
    (folder / TRAIN).write_bytes(data[:-5])
    assert tool("verify", folder) == 1
    said = capsys.readouterr().out
    assert f"has {len(data) - 5} bytes, expected {len(data)}" in said
    assert "the shard ends after" in said


def test_whole_records_of_another_shard_are_found_by_their_count_and_checksum(folder, capsys):
    path = folder / "val-00000-of-00001.tfrecord"
    first, second = frames(path)
    path.write_bytes(records.frame(second.data) + records.frame(first.data))
    assert tool("verify", folder) == 1
    assert "checksum of the file is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": images.encode_png(np.full([96, 96], 9, np.uint8))}, "unknown class id 9 in 9216 pixels"),
        ({"label": images.encode_png(np.zeros([96, 90], np.uint8))}, "label 90x96, but the record says 96x96"),
        ({"height": 95}, "but the record says 96x95"),
        ({"image": b"\xff\xd8nothing"}, "picture"),
        ({"image_format": "png"}, "picture is jpeg of orientation 1, expected upright png"),
    ],
)
def test_records_that_contradict_themselves_are_found(tmp_path, capsys, change, said):
    jpeg = images.encode_jpeg(images.decode_image(record(0).image))
    good = dataclasses.replace(record(0), image=jpeg, image_format="jpeg")
    write_records(tmp_path, {"train": [[good, dataclasses.replace(good, key="bad", **change)]]})
    assert tool("verify", tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("record 1 at byte" in line and "key bad" in line and said in line for line in lines)


def test_a_picture_in_two_splits_or_twice_is_found(tmp_path, capsys):
    write_records(tmp_path, {"train": [[record(0)], [record(1), record(1)]], "val": [[record(0)]]})
    assert tool("verify", tmp_path) == 1
    said = capsys.readouterr().out
    assert f"key {record(0).key} is in split train as well" in said
    assert f"key {record(1).key} copy 0 is there more than once" in said


def test_stats_show_the_share_of_every_class(tmp_path, capsys):
    label = np.zeros([10, 10], np.uint8)
    label[:2] = 1
    label[9] = PALETTE.ignore_id
    raw = write_rawset(tmp_path / "raw", {})
    write_pair(raw, "train", "a.png", np.zeros([10, 10, 3], np.uint8), label)
    prepare(raw, tmp_path / "records")
    capsys.readouterr()
    assert tool("stats", tmp_path / "records") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0", "ground", "70", "70.0%", "█" * 30] in rows
    assert ["1", "disc", "20", "20.0%", "█" * 9] in rows
    assert ["2", "bar", "0", "0.0%"] in rows
    assert ["255", "(ignored)", "10", "10.0%", "█" * 5] in rows


def test_export_gives_the_very_files_back_and_prepare_reads_them_again(source, prepared, tmp_path, capsys):
    raw, again = tmp_path / "raw", tmp_path / "again"
    assert tool("export", prepared, raw, "--originals") == 0
    assert "8 pictures with labels written" in (said := capsys.readouterr().out)
    assert "6 augmented copies left out" in said
    for path in (source / "images").rglob("*.jpg"):
        assert (raw / path.relative_to(source)).read_bytes() == path.read_bytes()
    for path in (source / "labels").rglob("*.png"):
        exported = np.asarray(Image.open(raw / path.relative_to(source)))
        np.testing.assert_array_equal(exported, np.asarray(Image.open(path)))
    assert prepare(raw, again, "--copies", "1", "--shards", "2") == 0
    for path in prepared.glob("*.tfrecord"):
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_export_writes_copies_beside_their_pictures(prepared, tmp_path):
    assert tool("export", prepared, tmp_path / "raw") == 0
    names = {path.name for path in (tmp_path / "raw/images/train").iterdir()}
    assert names == {f"a{i}{copy}.jpg" for i in range(6) for copy in ("", ".copy1")}
    assert len(list((tmp_path / "raw/labels/train").iterdir())) == 12


def test_an_exported_palette_reads_class_ids(tmp_path):
    palette = dataclasses.replace(PALETTE, source_ids=((7, 0), (8, 1), (9, 2)))
    write_records(tmp_path / "records", {"train": [[record(0)]]})
    path = tmp_path / "records" / records.DATASET_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"palette": palette.to_json()}))
    assert tool("export", tmp_path / "records", tmp_path / "raw") == 0
    assert json.loads((tmp_path / "raw/palette.json").read_text())["source_ids"] == {}


@pytest.mark.parametrize("key", ["../../outside", "/outside", "a/../../../outside", "..\\outside", "c:/outside"])
def test_export_never_leaves_its_folder(tmp_path, capsys, key):
    write_records(tmp_path / "records", {"train": [[dataclasses.replace(record(0), key=key)]]})
    assert tool("export", tmp_path / "records", tmp_path / "inside/raw") == 2
    assert "would leave the output folder" in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name]


@pytest.mark.parametrize("command", [["show", "--record", "nowhere"], ["export"]])
def test_damaged_shards_stop_the_other_commands_with_advice(folder, tmp_path, capsys, command):
    flip(folder / TRAIN, 200)
    target = [tmp_path / "raw"] if command == ["export"] else []
    assert tool(command[0], folder, *target, *command[1:]) == 2
    said = capsys.readouterr().err
    assert f"{TRAIN}: record 0 at byte 0: checksum of the data is wrong" in said
    assert "deeplab records verify" in said
