from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import cli
from pipelines.inputs import collection
from pipelines.inputs.coding import detect_palette
from pipelines.inputs.rawset import scan
from pipelines.plan import sample
from pipelines.prepare.plan import plan_shards
from pipelines.segment.plan import make_plan
from tests.drawn.networks import write_model
from tests.drawn.places import ROOT
from tests.drawn.rawset import write_rawset
from tests.drawn.records import PALETTE, record, write_records
from tests.drawn.segmenting import draw, save
from tests.drawn.training import SMALL, draw_records
from trainer.formats.dataset import load_dataset, save_dataset
from trainer.formats.label_images import encode_label
from trainer.options import InputError


@pytest.mark.parametrize("shards", [0, 1, 7, 40, 1000])
def test_shards_are_as_many_as_prepare_writes(tmp_path: Path, shards):
    source = write_rawset(tmp_path / "set", {"train": 24, "val": 12}, 64)
    flags = ["--input", source, "--output", tmp_path / "records", "--copies", "1", "--shards", shards]
    options = cli.read(["prepare", *map(str, flags)])[1]
    study = sample.of_prepare(options, str(tmp_path), 20, 2, [])
    palette, _, _ = detect_palette(raw := scan(str(source)), "auto")
    written = len(plan_shards(raw, palette, options).shards)
    assert (study.work.parts, study.work.writes) == (written, 4 * written)


def test_tiles_are_counted_as_records_whose_images_are_read_once_more(tmp_path: Path):
    source = write_rawset(tmp_path / "set", {"train": 24, "val": 12}, 100)
    flags = ["--input", source, "--output", tmp_path / "records", "--copies", "1", "--shards", 4]
    few, many = (
        sample.of_prepare(cli.read(["prepare", *map(str, (*flags, *more))])[1], str(tmp_path), 20, 2, [])
        for more in ([], ["--tile", "64"])
    )
    assert [study.parts[0].whole for study in (few, many)] == [24 * 2 + 12, 24 * 4 * 2 + 12]
    assert many.work.reads == few.work.reads + 24


def study_of_segment(tmp_path: Path, *flags: object) -> sample.Study:
    write_model(tmp_path / "model", PALETTE)
    flags = ["--input", tmp_path / "photos", "--model", tmp_path / "model", "--output", tmp_path / "masks", *flags]
    return sample.of_segment(cli.read(["segment", *map(str, flags)])[1], str(tmp_path), 20, 2, [])


def test_images_that_segment_rejects_do_not_end_its_plan(tmp_path: Path):
    for number in range(11):
        save(tmp_path / f"photos/{number:02d}.png", draw(40, 60, number))
    (tmp_path / "photos/11.png").symlink_to("nowhere")
    (tmp_path / "photos/12.png").write_bytes(b"no image")
    study = study_of_segment(tmp_path)
    assert (study.work.images, study.network[1:3]) == (13, (40, 60))


def test_the_network_sees_large_images_shrunk(tmp_path: Path):
    for number in range(10):
        save(tmp_path / f"photos/{number:02d}.png", draw(40, 60, number))
    study = study_of_segment(tmp_path, "--max-side", 30, "--max-pixels", 600)
    assert study.network[1:3] == (20, 30), "as in `segment`, the bound is on pixels after --max-side"
    assert study_of_segment(tmp_path, "--max-pixels", 600).network is None


def test_windows_overlap_so_the_network_sees_more_of_a_large_image(tmp_path: Path):
    for number in range(10):
        save(tmp_path / f"photos/{number:02d}.png", np.zeros((1024, 1536, 3), np.uint8))
    assert study_of_segment(tmp_path, "--flip").network[1:] == (1024, 1536, 2)
    assert study_of_segment(tmp_path, "--flip", "--window", 1024).network[1:] == (
        1024,
        1536,
        2 * (1536 + 4 * 256) / 1536,
    )


def test_trials_are_of_images_drawn_from_all_of_the_set(tmp_path: Path):
    source = write_rawset(tmp_path / "set", {"train": 30}, 64)
    flags = ["--input", str(source), "--output", str(tmp_path / "out"), "--val-fraction", "0"]
    options = cli.read(["prepare", *flags])[1]
    parts = sample.of_prepare(options, str(tmp_path), 20, 2, []).parts
    rows = [
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("few", "many")
    ]
    assert [len(row) for row in rows] == [4, 20] == [part.items for part in parts]
    assert all(Path(row["image"]).is_file() and row["split"] == "train" for row in rows[1])
    assert len({row["image"] for row in rows[1]}) == 20 and rows[0][0] in rows[1]


def test_a_plan_of_a_training_prints_nothing_of_tensorflow(tmp_path: Path):
    records = draw_records(tmp_path / "records")
    program = (
        "import sys; from pipelines import cli; from pipelines.plan import sample; "
        "study = sample.of_train(cli.read(sys.argv[2:])[1], sys.argv[1], 8, 1, ()); print(study.network[3])"
    )
    argv = [str(tmp_path / "plan"), "train", "--records", str(records), "--output", str(tmp_path / "model"), *SMALL]
    done = subprocess.run([sys.executable, "-c", program, *argv], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0 and done.stderr == ""


@pytest.mark.parametrize("lacking", ["train", "val"])
def test_records_without_a_split_of_a_training_are_refused_with_those_that_they_have(lacking, tmp_path: Path):
    splits = {split: [[record(0)]] for split in ("test", "train", "val") if split != lacking}
    write_records(tmp_path / "records", splits)
    options = cli.read(["train", "--records", str(tmp_path / "records"), "--output", str(tmp_path / "model")])[1]
    with pytest.raises(InputError, match=f"no records of split '{lacking}', only of {', '.join(splits)}; prepare"):
        sample.of_train(options, str(tmp_path / "plan"), 8, 1, [])


def study_of_prepare(tmp_path: Path, *flags: str) -> sample.Study:
    """Of forty images of the split train and one of val, of which the trials have but a few."""
    source = write_rawset(tmp_path / "set", {"train": 40, "val": 1}, 64)
    words = [
        "--input",
        str(source),
        "--output",
        str(tmp_path / "records"),
        "--copies",
        "2",
        "--augment-splits",
        *flags,
    ]
    return sample.of_prepare(cli.read(["prepare", *words])[1], str(tmp_path), 10, 2, [])


@pytest.mark.parametrize(
    ("splits", "copies", "augmented"),
    [(["val"], 0, ("train",)), (["train", "val"], 2, ("train",)), (["val", "train"], 2, ("train",))],
)
def test_trials_augment_the_splits_of_their_images(splits, copies, augmented, tmp_path: Path):
    for part in study_of_prepare(tmp_path, *splits).parts:
        _, options, _ = cli.read(list(part.arguments))
        assert "val" not in {row.split for row in scan(options.input).pairs}, "or the test shows nothing"
        assert (options.copies, options.augment_splits) == (copies, augmented)


def test_trials_read_labels_as_all_of_the_set_tells(tmp_path: Path):
    """The labels of a trial may hold 0 and 255 alone, like masks whose foreground is 255, though 255 is ignored."""
    source = write_rawset(tmp_path / "set", {"train": 60}, 64)
    two = replace(PALETTE, names=PALETTE.names[:2], colors=PALETTE.colors[:2])
    (source / "palette.json").write_text(json.dumps(two.to_json()))
    for number, path in enumerate(sorted(source.glob("labels/train/*"))):
        ids = np.uint8(np.arange(4096) % 2 * (1 if number == 1 else 255)).reshape(64, 64)
        ids[:9] = 255
        path.write_bytes(encode_label(ids))
    words = ["prepare", "--input", str(source), "--output", str(tmp_path / "records"), "--val-fraction", "0"]
    few, _ = sample.of_prepare(cli.read(words)[1], str(tmp_path), 60, 2, []).parts
    assert cli.main(list(few.arguments)) == 0, "as of the whole set"


def test_a_split_to_augment_that_the_set_lacks_is_refused_as_by_prepare(tmp_path: Path):
    with pytest.raises(InputError, match=r"--augment-splits: \S+set has no split test; it has train, val"):
        study_of_prepare(tmp_path, "train", "test")


def test_segment_writes_what_its_flags_say(tmp_path: Path):
    for number in range(10):
        save(tmp_path / f"photos/{number:02d}.png", draw(40, 60, number))
    flags = {(): 10, ("--no-masks",): 0, ("--no-masks", "--overlays"): 10, ("--overlays", "--confidence"): 30}
    studies = {given: study_of_segment(tmp_path, *given) for given in flags}
    # A chunk also writes its note and its part of the table.
    assert {given: study.work.writes - 2 * study.work.parts for given, study in studies.items()} == flags
    assert studies[()].work.reads == 10 + 3 * studies[()].work.parts


@pytest.mark.parametrize(("number", "batch"), [(10, 1), (23, 4), (80, 8)])
def test_chunks_are_as_many_as_segment_makes(tmp_path: Path, number: int, batch: int):
    for index in range(number):
        save(tmp_path / f"photos/{index:02d}.png", draw(8, 8, index))
    study = study_of_segment(tmp_path, "--batch-size", batch)
    flags = ["--input", tmp_path / "photos", "--model", tmp_path / "model", "--output", tmp_path / "masks"]
    options = cli.read(["segment", *map(str, flags), "--batch-size", str(batch)])[1]
    assert study.work.parts == len(make_plan(collection.find(options.input, options.output), options).chunks)


def test_trials_of_a_training_validate_on_a_shard_with_pixels_to_score(tmp_path: Path):
    write_records(tmp_path / "records", {"train": [[record(0)]], "val": [[record(1)], [record(2)]]})
    dataset = load_dataset(str(tmp_path / "records"))
    pixels = {"val-00000-of-00002.tfrecord": (0, 0, 0)}
    shards = tuple(replace(shard, class_pixels=pixels.get(shard.name, (9, 9, 9))) for shard in dataset.shards)
    save_dataset(str(tmp_path / "records"), replace(dataset, shards=shards))
    words = ["train", "--records", str(tmp_path / "records"), "--output", str(tmp_path / "model"), *SMALL]
    sample.of_train(cli.read(words)[1], str(tmp_path / "plan"), 8, 1, ())
    (copied,) = load_dataset(str(tmp_path / "plan" / "records")).of_split("val")
    assert any(copied.class_pixels)


def test_a_training_on_several_hosts_is_not_planned(tmp_path: Path):
    records = draw_records(tmp_path / "records")
    words = [
        "train",
        "--records",
        records,
        "--output",
        str(tmp_path / "model"),
        "--hosts",
        "2",
        "--coordinator",
        "h:1",
    ]
    with pytest.raises(InputError, match=r"--hosts 2: .*; omit --hosts, --host-id and --coordinator"):
        sample.of_train(cli.read(words)[1], str(tmp_path), 10, 1, [])


def test_a_backend_of_keras_that_does_not_exist_ends_the_plan_of_a_training(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensrflow")
    words = ["train", "--records", draw_records(tmp_path / "records"), "--output", str(tmp_path / "model")]
    with pytest.raises(InputError, match="KERAS_BACKEND is 'tensrflow'; expected one of"):
        sample.of_train(cli.read(words)[1], str(tmp_path), 10, 1, [])
