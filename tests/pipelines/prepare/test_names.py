"""Raw sets with names of every kind: each file is a record or a reject, and comes back from export as it was."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from tests.drawn.prepared import prepare_here, read_records, read_rejects, records
from tests.drawn.rawset import write_rawset
from tests.drawn.records import draw_image
from trainer.formats.dataset import load_dataset
from trainer.options import InputError

NAMES = [
    "line\u2028separator",
    "next\u0085line",
    "new\nline",
    "quote's",
    'double"quotes',
    "percent%20%d%s",
    "hash#mark",
    " blanks ",
    "tab\tstop",
    "Grüße-日本-🙂",
    "e\u0301 and é",
    "set [2024]",
    "{braces}*?",
    "dots.in.1.5m",
    "Case",
    "case",
    "x" * 251,
    "\x1b[31mred",
    "\u202eright to left",
]


@pytest.fixture
def raw(tmp_path):
    folder = write_rawset(tmp_path / "raw", {"train": 1})
    for number, name in enumerate(NAMES):
        image, label = draw_image(number)
        Image.fromarray(image).save(folder / "images/train" / f"{name}.jpg")
        Image.fromarray(label).save(folder / "labels/train" / f"{name}.png")
    return folder


def test_names_of_every_kind_are_records_and_come_back(raw, tmp_path, capsys):
    folder = tmp_path / "records"
    assert prepare_here(raw, folder, "--val-fraction", "0", "--shards", "2") == 0
    assert {record.key for record in read_records(folder)} == {f"train/{name}" for name in ["a0", *NAMES]}
    assert {record.filename for record in read_records(folder)} == {
        f"images/train/{name}.jpg" for name in ["a0", *NAMES]
    }
    assert records("verify", folder) == records("export", folder, tmp_path / "export") == 0
    for kind in ("images", "labels"):
        names = sorted(path.name for path in (raw / kind / "train").iterdir())
        assert sorted(path.name for path in (tmp_path / "export" / kind / "train").iterdir()) == names
    capsys.readouterr()
    for name in NAMES:
        assert records("show", folder, "--record", f"train/{name}") == 0
        shown = capsys.readouterr().out
        assert "\x1b" not in shown and "\u202e" not in shown and shown.splitlines()[1].startswith("file ")


def test_names_that_are_not_utf8_are_rejects_and_the_rest_is_written(raw, tmp_path):
    for kind, suffix in (("images", b"jpg"), ("labels", b"png")):
        folder = os.fsencode(raw / kind / "train")
        os.rename(folder + b"/Case." + suffix, folder + b"/not \xff utf8." + suffix)
    folder = tmp_path / "records"
    assert prepare_here(raw, folder, "--val-fraction", "0") == 1
    (reject,) = read_rejects(folder).values()
    assert "not UTF-8" in reject["reason"] and reject["key"] == "train/not \udcff utf8"
    assert load_dataset(str(folder)).count("train") == len(NAMES)


def test_images_that_differ_in_their_suffix_alone_are_rejects_that_name_each_other(raw, tmp_path):
    Image.fromarray(draw_image(9)[0]).save(raw / "images/train/case.png")
    assert prepare_here(raw, tmp_path / "records") == 1
    rejects = read_rejects(tmp_path / "records")
    assert list(rejects) == ["train/case"] and "case.jpg, case.png" in rejects["train/case"]["reason"]


def test_a_raw_set_below_a_folder_whose_name_is_not_utf8_is_refused(tmp_path):
    parent = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(parent)
    os.rename(write_rawset(tmp_path / "raw", {"train": 2}), parent + b"/raw")
    with pytest.raises(InputError, match="is not UTF-8; rename"):
        prepare_here(os.fsdecode(parent + b"/raw"), tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_copies_of_the_longest_names_are_written_and_exported_where_they_fit(raw, tmp_path, capsys):
    folder = tmp_path / "records"
    assert prepare_here(raw, folder, "--val-fraction", "0", "--copies", "1") == 0
    assert records("export", folder, tmp_path / "export") == 1
    out = capsys.readouterr().out
    assert f"{2 * len(NAMES) + 2} records = {2 * len(NAMES) + 1} exported + 0 left out + 1 rejected" in out
    assert "copy1.jpg: cannot be written: File name too long" in out
    exported = tmp_path / "export/labels/train"
    np.testing.assert_array_equal(Image.open(exported / f"{'x' * 251}.png"), draw_image(NAMES.index("x" * 251))[1])
