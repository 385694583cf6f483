"""Only the images of a split of records, or of a list, are evaluated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import cli
from tests.drawn.evaluating import run
from tests.drawn.records import PALETTE, record, write_records
from trainer import storage
from trainer.formats import images
from trainer.formats.cards import ModelCard, save_card
from trainer.formats.dataset import load_dataset
from trainer.options import InputError

LABEL = np.repeat(np.uint8([[0, 1, 2, 2]]), 4, axis=0)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Labels of four images without split folders, and masks that are right for the two training images alone."""
    for key in "abcd":
        mask = LABEL if key in "ab" else np.zeros_like(LABEL)
        for folder, ids in (("labels", LABEL), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{key}.png").write_bytes(images.encode_png(ids))
    one = record(0)
    parts = {
        split: [[replace(one, key=key, filename=f"images/{key}.jpg") for key in keys]]
        for split, keys in {"train": "ab", "val": "cd"}.items()
    }
    write_records(tmp_path / "records", parts)
    (tmp_path / "palette.json").write_text(json.dumps(PALETTE.to_json()))
    return tmp_path


def evaluate(folder: Path, *flags: str) -> tuple[int, dict]:
    command = ["--masks", str(folder / "masks"), "--labels", str(folder / "labels")]
    command += ["--palette", str(folder / "palette.json"), "--output", str(folder / "out"), "--gallery", "0"]
    status = run([*command, *flags])
    return status, json.loads((folder / "out/evaluation.json").read_text())


def test_for_labels_of_other_names_records_export_is_named_which_writes_them_like_the_masks(trained: Path) -> None:
    for key in "abcd":
        (trained / f"labels/{key}.png").rename(trained / f"labels/of {key}!.png")
    with pytest.raises(InputError, match=r"no file has the name .*: `deeplab records export` writes the labels"):
        evaluate(trained, "--records", str(trained / "records"))
    assert cli.run(["records", "export", str(trained / "records"), str(trained / "raw")]) == 0
    assert [path.name for path in sorted((trained / "raw/labels/val").iterdir())] == ["c.png", "d.png"]


def test_training_images_are_kept_out_by_the_records(trained: Path, capsys: pytest.CaptureFixture) -> None:
    status, scores = evaluate(trained)
    assert status == 0 and scores["images"] == 4 and scores["selection"] is None
    assert scores["masks"]["masks"]["pixel_accuracy"] == 0.625
    status, scores = evaluate(trained, "--records", str(trained / "records"))
    assert status == 0 and scores["images"] == 2
    assert scores["masks"]["masks"]["pixel_accuracy"] == 0.25
    note = f"selection: 2 of 4 files, by split val of {trained / 'records'}"
    assert scores["selection"] == note and note in capsys.readouterr().out
    assert scores["masks"]["masks"]["without_label"] == 0


def test_training_images_are_kept_out_by_a_list(trained: Path) -> None:
    (trained / "val.txt").write_text("c\r\nd\r\n")
    status, scores = evaluate(trained, "--list", str(trained / "val.txt"))
    assert status == 0 and scores["images"] == 2 and scores["masks"]["masks"]["pixel_accuracy"] == 0.25


def test_selected_images_without_label_or_mask_are_rejects(trained: Path, capsys: pytest.CaptureFixture) -> None:
    (trained / "labels/c.png").unlink()
    (trained / "val.txt").write_text("a\nb\nc\n")
    (trained / "masks/b.png").unlink()
    status, scores = evaluate(trained, "--list", str(trained / "val.txt"))
    assert status == 1 and (scores["images"], scores["rejected"]) == (1, 2)
    text = capsys.readouterr().out
    assert "3 labels = 1 evaluated + 2 rejected" in text
    assert "there is no file of that name" in text and "no mask b.png" in text


def test_more_labels_than_the_model_was_validated_with_are_said(trained: Path, capsys: pytest.CaptureFixture) -> None:
    fingerprint = load_dataset(str(trained / "records")).fingerprint
    card = ModelCard({"num_classes": 3}, PALETTE, training={"records": str(trained / "records")})
    save_card(str(trained / "model"), replace(card, data_fingerprint=fingerprint))
    command = ["evaluate", "--gallery", "0", "--model", str(trained / "model"), "--masks", str(trained / "masks")]
    command += ["--labels", str(trained / "labels"), "--output", str(trained / "out")]
    warning = f"warning: 4 labels, but split val of {trained / 'records'}, with which the model was trained, has 2 "
    assert cli.run(command) == 0 and warning in capsys.readouterr().out
    assert cli.run([*command, "--records", str(trained / "records")]) == 0
    assert "warning" not in capsys.readouterr().out
    save_card(str(trained / "model"), replace(card, data_fingerprint="of other records"))
    assert cli.run(command) == 0 and "warning" not in capsys.readouterr().out


def test_selection_works_in_cloud_storage(trained: Path, bucket: str) -> None:
    remote = f"{bucket}/set [1]"
    for path in trained.rglob("*"):
        if path.is_file():
            storage.write(f"{remote}/{path.relative_to(trained).as_posix()}", path.read_bytes())
    folders = ["--masks", f"{remote}/masks", "--labels", f"{remote}/labels", "--records", f"{remote}/records"]
    command = ["evaluate", *folders, "--palette", f"{remote}/palette.json", "--gallery", "0"]
    assert cli.run([*command, "--output", f"{remote}/out"]) == 0
    scores = storage.read_json(f"{remote}/out/evaluation.json")
    assert scores["images"] == 2 and scores["masks"]["masks"]["pixel_accuracy"] == 0.25
    names = {file.relative for file in storage.files(f"{remote}/out")}
    assert names == {"evaluation.json", "report.html", "rejects.jsonl"}
    with pytest.raises(InputError, match="is an input folder"):
        cli.run([*command, "--output", f"{remote}/masks/"])


def test_a_split_of_which_only_copies_are_left_selects_nothing_and_says_so(trained: Path) -> None:
    """`deeplab records repair --drop` drops damaged images, and keeps their copies."""
    write_records(trained / "records", {"val": [[replace(record(0), copy=1)]]}, copies=1)
    with pytest.raises(InputError, match="records: its split val holds no image, only augmented copies; run "):
        evaluate(trained, "--records", str(trained / "records"))
