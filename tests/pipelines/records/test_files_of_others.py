"""What `deeplab records` writes into folders with files in them: those of others stay, those of the raw set always."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.drawn.outputs import as_it_is
from tests.drawn.prepared import prepare_here, records
from tests.drawn.rawset import write_rawset
from tests.drawn.records import record, write_records
from trainer.options import InputError


@pytest.fixture
def own(tmp_path) -> tuple[Path, Path]:
    """A raw set, and its records with a copy of every image."""
    raw = write_rawset(tmp_path / "raw", {"train": 3, "val": 1})
    assert prepare_here(raw, tmp_path / "records", "--copies", "1") == 0
    return raw, tmp_path / "records"


def test_export_again_into_the_same_folder_writes_nothing_anew(prepared, tmp_path):
    assert records("export", prepared, tmp_path) == 0
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert records("export", prepared, tmp_path, "--originals") == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == times


@pytest.mark.parametrize("name", ["labels/val/a0.png", "images/train/a3.jpg", "palette.json"])
def test_export_replaces_no_other_file_but_with_overwrite(prepared, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"drawn by hand")
    (tmp_path / "notes.txt").write_text("mine")
    before = as_it_is(tmp_path)
    with pytest.raises(InputError, match="would be replaced by other contents; give another folder, or --overwrite"):
        records("export", prepared, tmp_path)
    assert as_it_is(tmp_path) == before
    assert records("export", prepared, tmp_path, "--overwrite") == 0
    assert records("export", prepared, tmp_path / "elsewhere") == 0
    for file, data in as_it_is(tmp_path / "elsewhere").items():
        assert (tmp_path / file).read_bytes() == data
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("way", ["itself", "through a link", "through links to its folders"])
def test_export_never_goes_into_the_raw_set_of_the_records(own, tmp_path, way):
    raw, folder = own
    before, output = as_it_is(raw), raw
    if way == "through a link":
        output = tmp_path / "link"
        output.symlink_to(raw)
    elif way == "through links to its folders":
        output = tmp_path / "linked"
        output.mkdir()
        for kind in ("images", "labels"):
            (output / kind).symlink_to(raw / kind)
    for flags in ([], ["--originals"], ["--overwrite"]):
        with pytest.raises(InputError, match="is, or leads into, the raw set that the records were made from"):
            records("export", folder, output, *flags)
    assert as_it_is(raw) == before


def test_files_of_a_manifest_are_inputs_wherever_they_are(own, tmp_path):
    raw, _ = own
    (raw / "palette.json").rename(tmp_path / "palette.json")
    rows = [{"image": f"raw/images/train/a{i}.jpg", "label": f"raw/labels/train/a{i}.png"} for i in range(3)]
    rows = [row | {"split": "train"} for row in rows]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert prepare_here(tmp_path / "list.jsonl", tmp_path / "listed", "--max-side", "50") == 0
    output = tmp_path / "output"
    (output / "images/train/raw/images").mkdir(parents=True)
    (output / "images/train/raw/images/train").symlink_to(raw / "images/train")
    before = as_it_is(raw)
    with pytest.raises(InputError, match="belongs to the raw set that the records were made from"):
        records("export", tmp_path / "listed", output, "--overwrite")
    assert as_it_is(raw) == before


def test_show_saves_over_no_other_file_but_with_overwrite(prepared, tmp_path):
    (tmp_path / "train_a3-label.png").write_bytes(b"drawn by hand")
    show = ("show", prepared, "--record", "train/a3", "--save", tmp_path)
    with pytest.raises(InputError, match=r"train_a3-label\.png would be replaced"):
        records(*show)
    assert as_it_is(tmp_path) == {"train_a3-label.png": b"drawn by hand"}
    for flags in (["--overwrite"], []):
        assert records(*show, *flags) == 0
    assert len(as_it_is(tmp_path)) == 3


@pytest.mark.parametrize("is_refused", [False, True])
def test_show_never_saves_over_the_raw_set(own, tmp_path, is_refused):
    raw, folder = own
    (raw / "images/train/a1.jpg").rename(raw / "images/train/train_a0.jpg")
    (raw / "labels/train/a1.png").rename(raw / "labels/train/train_a0.png")
    if is_refused:
        (raw / "labels").rename(raw / "drawn")
    before = as_it_is(raw)
    expected = (
        "whether they belong to .*raw, .*, is unknown: " if is_refused else r"train_a0\.jpg belongs to the raw set"
    )
    with pytest.raises(InputError, match=expected):
        records("show", folder, "--record", "train/a0", "--save", raw / "images/train", "--overwrite")
    assert as_it_is(raw) == before
    (tmp_path / "train_a0.jpg").write_bytes(b"other")
    assert records("show", folder, "--record", "train/a0", "--save", tmp_path, "--overwrite") == 0


def test_files_whose_names_are_too_long_are_rejects_and_the_rest_is_exported(tmp_path, capsys):
    long = dataclasses.replace(record(1), key="x" * 252)
    write_records(tmp_path / "records", {"train": [[record(0), long, record(2)]]})
    assert records("export", tmp_path / "records", tmp_path / "raw") == 1
    text = capsys.readouterr().out
    assert "3 records = 2 exported + 0 left out + 1 rejected" in text
    assert f"{'x' * 252}.jpg: cannot be written: File name too long" in text
    assert sorted(path.stem for path in (tmp_path / "raw").rglob("*.*g")) == ["000", "000", "002", "002"]


@pytest.mark.parametrize("keys", [("a", "A"), ("a.b", "a.c"), ("a", "a.png"), ("a\u2028b", "a\nb"), ("%2F", "'\"")])
def test_keys_that_differ_in_anything_have_files_of_their_own(tmp_path, keys):
    one, other = (dataclasses.replace(record(i), key=key) for i, key in enumerate(keys))
    write_records(tmp_path / "records", {"train": [[one], [other]]})
    assert records("export", tmp_path / "records", tmp_path / "raw") == 0
    for expected in (one, other):
        assert (tmp_path / "raw/images/train" / f"{expected.key}.jpg").read_bytes() == expected.image


def test_where_case_does_not_tell_files_apart_no_record_replaces_another(tmp_path, monkeypatch):
    one, other = (dataclasses.replace(record(i), key=key) for i, key in enumerate("aA"))
    write_records(tmp_path / "records", {"train": [[one], [other]]})
    monkeypatch.setattr("trainer.storage.folds_case", lambda folder: True)
    with pytest.raises(InputError, match=r"two records would both be labels/train/[aA]\.png"):
        records("export", tmp_path / "records", tmp_path / "raw")
    assert len(list((tmp_path / "raw/images/train").iterdir())) == 1
