"""Only the images of a split of records, or of a list, are segmented."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.inputs import selection
from tests.drawn.records import record, write_records
from tests.drawn.segmenting import draw, report_of, save, segment
from trainer.options import InputError


def test_training_images_are_kept_out(model, tmp_path, capsys):
    for seed, name in enumerate("abcd"):
        save(tmp_path / f"set/{name}.jpg", draw(24, 32, seed))
    parts = {
        split: [[dataclasses.replace(record(0), key=key, filename=f"set/{key}.jpg") for key in keys]]
        for split, keys in {"train": "ab", "val": "cd"}.items()
    }
    write_records(tmp_path / "records", parts)
    (tmp_path / "list.txt").write_text("d\n")
    run = ("--input", tmp_path / "set", "--model", model, "--output", tmp_path / "masks")
    assert segment(*run, "--list", tmp_path / "list.txt") == 0
    assert "selection: 1 of 4 files" in capsys.readouterr().out
    assert segment(*run, "--records", tmp_path / "records") == 0
    assert "2 images = 1 written + 1 skipped + 0 rejected" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == ["c.png", "d.png"]
    assert report_of(tmp_path / "masks")["options"]["records"] == str(tmp_path / "records")


@pytest.mark.parametrize("shards", [1, 3])
def test_records_that_are_written_again_meanwhile_are_not_called_damaged(tmp_path, monkeypatch, shards):
    """Nor is a split of before mixed with one of now."""
    folder = tmp_path / "records"
    write_records(folder, {"val": [[record(0)], [record(1)]]})
    read = selection.read_records

    def overtaken(*arguments):
        monkeypatch.undo()
        for path in folder.glob("*.tfrecord"):
            path.unlink()
        write_records(folder, {"val": [[record(2 + number)] for number in range(shards)]})
        return read(*arguments)

    monkeypatch.setattr(selection, "read_records", overtaken)
    with pytest.raises(InputError, match="were changed by another command since this one began"):
        selection.load(str(folder), "val", "")
