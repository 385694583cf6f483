"""`deeplab records diff`: what differs between two sets, and the exit status."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.drawn.prepared import flip_bit, records
from tests.drawn.records import record, write_records
from trainer import storage
from trainer.formats.labels import Palette
from trainer.options import InputError

SET = {"train": [[record(0), record(1)], [record(2)]], "val": [[record(3)]]}


@pytest.fixture
def one(tmp_path) -> Path:
    write_records(tmp_path / "one", SET)
    return tmp_path / "one"


def differences(capsys, one: Path, other: Path, splits, *palette: Palette) -> list[str]:
    write_records(other, splits, *palette)
    capsys.readouterr()
    assert records("diff", one, other) == 1
    return capsys.readouterr().out.splitlines()


def test_the_same_records_in_other_shards_do_not_differ(prepared, tmp_path, capsys):
    assert records("reshard", prepared, tmp_path / "new", "--shards", 3) == 0
    capsys.readouterr()
    assert records("diff", prepared, tmp_path / "new") == 0
    assert capsys.readouterr().out == f"14 records, the same in {prepared} and {tmp_path}/new\n"


def test_records_of_one_set_alone_are_named(one, tmp_path, capsys):
    splits = {"train": [[record(0), record(1)]], "val": [[record(3)], [record(4), record(5)]]}
    assert differences(capsys, one, tmp_path / "b", splits) == [
        "1 record only in the first: 002",
        "2 records only in the second: 004, 005",
    ]


def test_images_labels_features_and_splits_are_compared(one, tmp_path, capsys):
    moved = {
        "train": [[dataclasses.replace(record(0), image=record(9).image)], [record(3)]],
        "val": [[dataclasses.replace(record(1), label=record(9).label)]],
        "test": [[dataclasses.replace(record(2), filename="other.jpeg")]],
    }
    assert differences(capsys, one, tmp_path / "b", moved) == [
        "1 record with another image: 000",
        "3 records in another split: 001 (train and val), 002 (train and test), 003 (val and train)",
        "1 record with another label: 001",
        "1 record with other features: 002",
    ]


def test_many_records_are_counted_and_the_first_named(one, tmp_path, capsys):
    found = differences(capsys, one, tmp_path / "b", {"train": [[*map(record, range(20))]], "val": [[record(30)]]})
    assert "18 records only in the second: 003, 004, 005, 006, 007 and 13 more" not in found
    assert any(line.startswith("17 records only in the second: 004, 005, 006, 007, 008 and 12 more") for line in found)


def test_classes_and_options_are_compared_but_not_places(one, tmp_path, capsys):
    names = ("ground", "disc", "pole")
    palette = Palette("drawn", names, ((40, 160, 60), (200, 40, 40), (40, 60, 220)), ignore_id=255)
    write_records(tmp_path / "b", SET, palette)
    for folder, options in ((one, {"output": "a", "copies": 1}), (tmp_path / "b", {"output": "b", "max_side": 9})):
        content = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(content | {"options": options}))
    assert records("diff", one, tmp_path / "b") == 1
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "palette: class 2 is bar (40, 60, 220) and pole (40, 60, 220)",
        "options: copies is 1 and None",
        "options: max_side is None and 9",
    ]


def test_damaged_records_are_refused_with_advice(one, tmp_path):
    write_records(tmp_path / "b", SET)
    flip_bit(tmp_path / "b/train-00000-of-00002.tfrecord", 100)
    with pytest.raises(InputError, match=r"`deeplab records verify .* lists all faults"):
        records("diff", one, tmp_path / "b")


def test_records_of_the_same_key_are_refused_rather_than_counted_as_one(one, tmp_path):
    write_records(tmp_path / "b", {"train": [[record(0), record(1)], [record(2), record(2)]], "val": [[record(3)]]})
    with pytest.raises(InputError, match=r"b: 1 record with the key and copy of another.*`deeplab records verify"):
        records("diff", one, tmp_path / "b")


def test_a_set_in_cloud_storage_is_compared_with_one_here(one, tmp_path, bucket, capsys):
    write_records(tmp_path / "other", {"train": [[record(0), record(1)]], "val": [[record(3)]]})
    for name in ("one", "other"):
        for path in (tmp_path / name).iterdir():
            storage.write(f"{bucket}/diff/{name}/{path.name}", path.read_bytes())
    assert records("diff", f"{bucket}/diff/one", one) == 0
    assert capsys.readouterr().out == f"4 records, the same in {bucket}/diff/one and {one}\n"
    assert records("diff", one, f"{bucket}/diff/other") == 1
    assert capsys.readouterr().out == "1 record only in the first: 002\n"
