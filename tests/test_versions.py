"""What earlier versions wrote is read, recognised as theirs and continued.

`tests/data/version-*.tar.xz` were written by those versions' own commands: a drawn set, its records, a small model
with crf.json and the counts it came from, masks without and with CRF, and their evaluation; by 0.2, the checkpoint of
the finished training as well. The large arrays of the models are rounded, so that they compress.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipelines import cli
from tests.drawn.places import ROOT
from trainer.formats import label_images
from trainer.formats.examples import Record, decode
from trainer.formats.frames import scan_frames

VERSIONS = ("0.1", "0.2")


@pytest.fixture(params=VERSIONS)
def old(request, tmp_path, monkeypatch) -> Path:
    """The folder that everything of a version lies in; the commands were run there, with relative paths."""
    with tarfile.open(ROOT / "tests" / "data" / f"version-{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern)}


def run(*argv: str) -> None:
    assert cli.run(list(argv)) == 0


def records(folder: Path) -> dict[str, list[tuple[Record, list]]]:
    """The records of every shard, and the ids of their labels, which versions up to 0.9 encoded in another way."""
    shards = {
        path.name: [decode(frame.data) for frame in scan_frames(path.open("rb"))] for path in folder.glob("*-of-*")
    }
    ids = lambda record: label_images.decode_label(record.label).tolist()
    return {
        name: [(dataclasses.replace(record, label=b""), ids(record)) for record in of_shard]
        for name, of_shard in shards.items()
    }


def test_records_are_written_again_once_and_this_is_said(old, capsys):
    before = records(old / "records")
    command = ["prepare", "--input", "set", "--output", "records", "--copies", "1", "--shards", "2"]
    run(*command)
    text = capsys.readouterr().out
    assert "were written by an older version of this program, and may differ; all are written again" in text
    assert "19 records = 19 written + 0 rejected" in text
    # This set has none of what older versions read in another way.
    assert len(before) == 3 and records(old / "records") == before
    run(*command)
    text = capsys.readouterr().out
    assert "3 of 3 shards are finished already" in text and "older version" not in text
    dataset = json.loads((old / "records/dataset.json").read_text())
    assert dataset["version"] == 2 and dataset["splits"]["val"] == {"records": 11, "images": 11}


def test_the_same_records_are_written(old):
    run("prepare", "--input", "set", "--output", "new", "--copies", "1", "--shards", "2")
    assert records(old / "new") == records(old / "records")


def test_records_are_read_as_they_are(old, capsys):
    for verb in ("verify", "ls", "stats", "show"):
        run("records", verb, "records")
    run("records", "export", "records", "raw", "--originals")
    assert "15 images" in capsys.readouterr().out
    for split, count in (("train", 4), ("val", 11)):
        exported = content(old / "raw" / "images" / split, "*.jpg")
        assert len(exported) == count and exported == content(old / "set" / "images" / split, "*.jpg")


@pytest.mark.parametrize("old", ["0.2", pytest.param("0.1", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize(("folder", "flags"), [("masks", ["--overlays", "--confidence"]), ("masks-crf", ["--crf"])])
def test_masks_are_made_again_the_same_since_they_do_not_say_of_which_image_they_are(folder, flags, old, capsys):
    before = content(old / folder, "*.png")
    command = ["segment", "--input", "set/images/val", "--model", "small", "--output", folder, *flags]
    said = "masks from version 0.2 and earlier do not record their image"
    run(*command)
    out = capsys.readouterr().out
    assert said in out and "11 images = 11 written + 0 skipped + 0 rejected" in out
    run(*command)
    out = capsys.readouterr().out
    assert said not in out and "11 images = 0 written + 11 skipped + 0 rejected" in out
    masks = {name: data for name, data in before.items() if "/" not in name}
    assert len(masks) == 11
    for name, data in masks.items():
        mask, expected = (label_images.decode_label(png) for png in ((old / folder / name).read_bytes(), data))
        # Another processor rounds in another way, which can turn a pixel between two classes of equal probability.
        assert np.mean(mask == expected) > 0.99, name


@pytest.mark.parametrize("old", ["0.2", pytest.param("0.1", marks=pytest.mark.slow)], indirect=True)
def test_a_tuning_is_obeyed_and_its_counts_are_used_again(old, capsys):
    run("segment", "--input", "set/images/val", "--model", "small", "--output", "auto", "--crf", "auto")
    assert "small/crf.json advises against it" in capsys.readouterr().out
    before = json.loads((old / "small/crf.json").read_text())
    run("tune-crf", "--model", "small", "--records", "records", "--images", "0")
    out = capsys.readouterr().out
    assert "coarse grid: " not in out and "fine grid: " not in out, "only what later versions search besides is made"
    after = json.loads((old / "small/crf.json").read_text())
    # Version 0.1 calls the images pictures.
    images = [before[name] for name in ("pictures", "images") if name in before]
    assert after["format"] == 4 and [after["images"]] == images
    same = ("before", "metric", "trimap_width", "split", "scored", "rejects", "model_digest", "records_fingerprint")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert all(point | {"compat_gaussian": 3.0} in after["grid"] for point in before["grid"])
    ious = {name: change["before"] for name, change in after["per_class"].items()}
    assert ious == {name: without for name, (without, _) in before["per_class"].items()}


def test_masks_score_as_they_did(old):
    labels = ["--labels", "set/labels/val", "--model", "small"]
    before = json.loads((old / "report/evaluation.json").read_text())
    run("evaluate", "--masks", "masks", "masks-crf", *labels, "--output", "new")
    after = json.loads((old / "new/evaluation.json").read_text())
    for masks in (*before["masks"].values(), *after["masks"].values()):
        masks["folder"] = Path(masks["folder"]).name  # relative up to version 0.5
    # Up to version 0.33 those of single images had 24 bits.
    for entry in after["gallery"]:
        entry["miou"] = {name: float(np.float32(miou)) for name, miou in entry["miou"].items()}
    assert after["masks"] == before["masks"] and after["gallery"] == before["gallery"]


@pytest.mark.slow
def test_training_begins_with_an_old_model(old, capsys):
    shutil.rmtree(old / "set")
    flags = ["--alpha", "0.1", "--output-stride", "8", "--decoder", "--crop", "32", "--batch-size", "2"]
    flags += ["--subpixel", "logits"]
    start = ["--init-from", "small", "--epochs", "1", "--steps-per-epoch", "1", "--learning-rate", "1e-9"]
    # The fewer layers learn, the sooner their graph is traced.
    start += ["--freeze-bn", "--freeze-until", "decoder-decoder_conv1_pointwise-relu"]
    run("train", "--records", "records", "--output", "new", *flags, *start)
    assert "weights of small:" in capsys.readouterr().out
    scores = [json.loads((old / name).read_text()) for name in ("new/model.json", "report/evaluation.json")]
    # One step of no length; the new head interpolates what the old one repeated.
    assert scores[0]["scores"]["miou"] == pytest.approx(scores[1]["masks"]["masks"]["miou"], abs=0.02)


@pytest.mark.parametrize("old", ["0.2"], indirect=True)
def test_an_old_training_is_found_finished_where_its_head_is_named(old, capsys):
    state = json.loads((old / "small/checkpoints/state.json").read_text())
    flags = []
    for name in ("alpha", "output_stride", "batch_norm_momentum", "batch_size", "crop", "epochs", "learning_rate"):
        flags += ["--" + name.replace("_", "-"), str(state["options"][name])]
    flags += ["--decoder", "--optimizer", "momentum", "--seed", "3", "--steps-per-epoch", "120"]
    command = ["train", "--records", "records", "--output", "small", *flags]
    run(*command)
    said = capsys.readouterr().out
    older = "with the defaults of the version that began it: --subpixel logits --subpixel-start nearest"
    assert older in said and "model: small" in said
