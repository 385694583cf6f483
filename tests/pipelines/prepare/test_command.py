"""`deeplab prepare` from a raw set to records: what is written, counted, rejected and printed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from pipelines import cli
from pipelines.prepare import command, job
from pipelines.runner import partners
from pipelines.runner.run import run
from tests.drawn.prepared import prepare, prepare_here, read_records, read_rejects, shard_bytes
from tests.drawn.rawset import write_pair, write_rawset
from tests.drawn.records import draw_image
from trainer import storage
from trainer.accounts import UnbalancedError
from trainer.formats import images, label_images
from trainer.formats.dataset import load_dataset
from trainer.options import InputError


def test_every_image_and_copy_is_written_once(prepared):
    dataset = load_dataset(str(prepared))
    names = [(record.key, record.copy) for record in read_records(prepared)]
    expected = [(f"train/a{i}", copy) for i in range(8) for copy in range(3)] + [(f"val/a{i}", 0) for i in range(3)]
    assert sorted(names) == sorted(expected)
    assert (dataset.count("train"), dataset.images("train")) == (24, 8)
    assert (dataset.count("val"), dataset.images("val")) == (3, 3)
    assert dataset.rejected == 0


def test_the_accounts_are_printed(source, tmp_path, capsys):
    assert prepare(source, tmp_path / "records", "--copies", "1", "--shards", "2") == 0
    text = capsys.readouterr()
    assert text.out.splitlines() == [
        "camvid: images/{train,val} with labels/{train,val}, 8 train + 3 val images",
        f"palette drawn of 3 classes, from {source}/palette.json",
        "19 records = 19 written + 0 rejected",
        "  train: 8 images + 8 copies = 16 records in 2 shards",
        "  val: 3 images + 0 copies = 3 records in 1 shard",
        f"11 images + 8 copies = 19 records in 3 shards, written to {tmp_path}/records",
    ]
    assert "prepare: 19/19 records" in text.err


def test_originals_go_in_untouched_and_copies_do_not(source, prepared):
    for record in read_records(prepared):
        raw = (source / "images" / f"{record.key}.jpg").read_bytes()
        assert (record.image == raw) == (record.copy == 0)
        assert record.filename == f"images/{record.key}.jpg"
        assert (record.image_format, record.height, record.width, record.channels) == ("jpeg", 96, 96, 3)
        label = label_images.decode_label(record.label)
        assert label.shape == (96, 96)
        if not record.copy:
            expected = np.asarray(Image.open(source / "labels" / f"{record.key}.png"))
            np.testing.assert_array_equal(label, expected)


def test_dataset_json_counts_the_pixels_of_every_class(prepared):
    for split in ("train", "val"):
        labels = [label_images.decode_label(record.label) for record in read_records(prepared, split)]
        counts = sum(np.bincount(label.ravel(), minlength=256) for label in labels)
        shards = load_dataset(str(prepared)).of_split(split)
        assert np.sum([shard.class_pixels for shard in shards], axis=0).tolist() == counts[:3].tolist()
        assert sum(shard.ignored_pixels for shard in shards) == counts[255]


@pytest.mark.parametrize(
    "flags",
    [
        ["--direct_num_workers", "2"],
        ["--direct_num_workers", "2", "--direct_running_mode", "multi_processing"],
        ["--direct_running_mode", "in_memory", "--direct_num_workers", "1"],
    ],
    ids=["threads", "processes", "in memory"],
)
def test_the_bytes_do_not_depend_on_the_workers(source, prepared, tmp_path, flags):
    output = tmp_path / "elsewhere"
    assert prepare(source, output, "--copies", "2", "--shards", "4", *flags) == 0
    assert shard_bytes(output) == shard_bytes(prepared)
    fingerprints = [load_dataset(str(folder)).fingerprint for folder in (output, prepared)]
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize(
    ("many", "flags", "number"),
    [
        (27, ["--direct_num_workers", "3"], 3),
        (28, ["--direct_num_workers", "3"], 0),
        (27, ["--direct_num_workers", "1"], 0),
        (27, ["--direct_num_workers", "3", "--direct_running_mode", "multi_processing"], 0),
    ],
    ids=["long", "short", "one worker", "processes"],
)
def test_the_workers_of_a_long_job_have_partners(source, prepared, tmp_path, monkeypatch, many, flags, number):
    monkeypatch.setattr(partners, "MANY", many)
    numbers = []

    def run_job(job, beam, **settings):
        crew = partners.running()
        numbers.append(crew.number if crew else 0)
        return run(job, beam, **settings)

    monkeypatch.setattr(command, "run_job", run_job)
    assert prepare(source, tmp_path / "records", "--copies", "2", "--shards", "4", *flags) == 0
    assert numbers == [number] and partners.running() is None
    assert shard_bytes(tmp_path / "records") == shard_bytes(prepared)


def test_unusable_images_are_rejected_with_reasons_and_the_job_continues(spoilt, tmp_path, capsys):
    flags = ("--copies", "1", "--max-pixels", "100000", "--shards", "2", "--val-fraction", "0")
    assert prepare(spoilt, tmp_path / "records", *flags) == 1
    rejects = read_rejects(tmp_path / "records")
    for name, reason in {
        "truncated": "truncated",
        "empty": "the file is empty",
        "text": "begins with b'this is not ",
        "unknown": "unknown class id 37 in 5 pixels",
        "size": "label is 96x50, its image 96x96",
        "large": "400x300 is 120,000 pixels, over the limit of 100,000",
        "label": "image without a label",
    }.items():
        assert reason in rejects[f"train/{name}"]["reason"]
    assert len(rejects) == 7
    # Copies of one unusable image are one reject that says how many records are missing.
    assert rejects["train/text"]["records"] == 2
    assert rejects["train/unknown"]["path"].endswith("labels/train/unknown.png")
    assert rejects["train/empty"]["path"].endswith("images/train/empty.jpg")
    text = capsys.readouterr().out
    assert "17 records = 4 written + 13 rejected" in text
    assert "2 images + 2 copies = 4 records" in text
    assert "2 more, see " in text
    assert "13 of 17 records rejected, more than --max-reject-rate 0.01 allows" in text
    assert {record.key for record in read_records(tmp_path / "records")} == {"train/a0", "train/a1"}
    assert load_dataset(str(tmp_path / "records")).rejected == sum(r["records"] for r in rejects.values()) == 13


def test_the_reject_rate_can_be_allowed(spoilt, tmp_path):
    assert prepare_here(spoilt, tmp_path / "records", "--max-reject-rate", "1") == 0


def test_a_set_of_rejects_alone_gives_no_records(tmp_path, capsys):
    source = write_rawset(tmp_path / "raw", {"train": 2})
    for path in (source / "images/train").iterdir():
        path.write_bytes(b"")
    assert prepare_here(source, tmp_path / "records") == 1
    assert "none of 2 images could be used; no dataset.json was written" in capsys.readouterr().out
    assert not (tmp_path / "records/dataset.json").exists()
    assert list((tmp_path / "records").glob("*.tfrecord")) == []
    assert len(read_rejects(tmp_path / "records")) == 2


def test_a_set_of_one_image_is_counted_in_the_singular_and_cannot_be_trained_on(tmp_path, capsys):
    source = write_rawset(tmp_path / "raw", {"val": 1})
    assert prepare_here(source, tmp_path / "records") == 0
    out = capsys.readouterr().out
    assert "1 record = 1 written + 0 rejected" in out
    assert "1 image + 0 copies = 1 record in 1 shard" in out
    assert cli.main(["train", "--records", str(tmp_path / "records"), "--output", str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert "no records of split 'train', only of val; prepare it again from a set with train and val images" in error
    assert "--val-fraction" not in error


def test_a_split_of_rejects_alone_is_left_out_and_named(tmp_path, capsys):
    source = write_rawset(tmp_path / "raw", {"train": 2, "val": 1})
    (source / "images/val/a0.jpg").write_bytes(b"")
    assert prepare_here(source, tmp_path / "records") == 1
    assert load_dataset(str(tmp_path / "records")).splits == ("train",)
    assert "split val is left out" in capsys.readouterr().out


def test_a_job_that_loses_a_shard_is_an_error(source, tmp_path, monkeypatch):
    deal_out = job.distribute
    monkeypatch.setattr(job, "distribute", lambda pipeline, specs, unit: deal_out(pipeline, list(specs)[1:], unit))
    output = tmp_path / "records"
    with pytest.raises(UnbalancedError, match=r"records of (train|val)-.* != 0 written \+ 0 rejected; \d+ lost"):
        prepare(source, output, "--shards", "2")
    assert not (output / "dataset.json").exists()
    monkeypatch.undo()
    assert prepare(source, output, "--shards", "2") == 0


def test_a_worker_that_loses_a_record_is_an_error(source, tmp_path, monkeypatch, capsys):
    read_plan = job.workarea.read_plan
    monkeypatch.setattr(job.workarea, "read_plan", lambda *names: list(read_plan(*names))[1:])
    assert cli.main(["prepare", "--input", str(source), "--output", str(tmp_path / "records"), "--shards", "1"]) == 1
    assert "8 records of train-00000-of-00001.tfrecord != 7 written + 0 rejected; 1 lost" in capsys.readouterr().err


def test_turned_images_are_upright_in_the_record(tmp_path):
    source, output = write_rawset(tmp_path / "raw", {"train": 1}), tmp_path / "records"
    image, label = draw_image(3, 80, 60)  # as one sees it
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # stored turned a quarter to the left
    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(stored, "JPEG", exif=exif, quality=95)
    write_pair(source, "train", "turned.jpg", image, label)
    (source / "images/train/turned.jpg").write_bytes(stored.getvalue())
    assert prepare_here(source, output) == 0
    record = next(record for record in read_records(output) if record.key == "train/turned")
    assert (record.height, record.width) == (80, 60)
    assert images.header(record.image).orientation == 1
    np.testing.assert_array_equal(label_images.decode_label(record.label), label)
    sideways = np.asarray(Image.open(stored))
    assert record.image == images.encode_jpeg(np.ascontiguousarray(np.rot90(sideways, -1)), quality=95)


def test_max_side_shrinks_images_and_labels_alike(tmp_path):
    source, output = write_rawset(tmp_path / "raw", {"train": 1}), tmp_path / "records"
    write_pair(source, "train", "wide.png", *draw_image(2, 100, 200))
    assert prepare_here(source, output, "--max-side", "96", "--image-format", "png") == 0
    by_key = {record.key: record for record in read_records(output)}
    assert (by_key["train/wide"].height, by_key["train/wide"].width) == (48, 96)
    assert label_images.decode_label(by_key["train/wide"].label).shape == (48, 96)
    assert by_key["train/wide"].image_format == "png"
    assert by_key["train/a0"].image == (source / "images/train/a0.jpg").read_bytes()
    dataset = load_dataset(str(output))
    assert dataset.max_side == 96
    assert (dataset.shards[0].min_size, dataset.shards[0].max_size) == ((48, 96), (96, 96))


def test_missing_and_equal_folders_are_refused(source, tmp_path):
    with pytest.raises(InputError, match="nowhere not found; expected a folder"):
        prepare_here(tmp_path / "nowhere", tmp_path / "records")
    with pytest.raises(InputError, match="is the input folder; give a folder of its own"):
        prepare_here(source, source)


def test_an_unknown_palette_is_refused_before_anything_is_written(source, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json"):
        prepare_here(source, tmp_path / "records", "--palette", "nowhere.json")
    assert not (tmp_path / "records").exists()


def test_split_names_that_are_no_file_names_are_refused(source, tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"image,label,split\n{source}/images/train/a0.jpg,{source}/labels/train/a0.png,../out\n")
    with pytest.raises(InputError, match=r"a split is one word, got '\.\./out'"):
        prepare_here(manifest, tmp_path / "records", "--palette", str(source / "palette.json"))
    assert list(tmp_path.glob("**/*.tfrecord")) == []


def test_from_bucket_to_bucket_gives_the_local_bytes_and_a_rerun_keeps_them(source, prepared, bucket, capsys):
    for file in storage.files(str(source)):
        storage.write(storage.join(bucket, "raw", *file.relative.split("/")), storage.read(file.path))
    output = storage.join(bucket, "records")
    for _ in range(2):
        assert prepare_here(f"{bucket}/raw", output, "--copies", "2", "--shards", "4") == 0
    assert "27 records = 0 written + 27 kept + 0 rejected" in capsys.readouterr().out
    for name, data in shard_bytes(prepared).items():
        assert storage.read(storage.join(output, name)) == data
    left = [file.relative for file in storage.files(output) if "plan-" in file.relative or ".started" in file.relative]
    assert not left
    shard = storage.join(output, "train-00000-of-00004.tfrecord")
    whole = storage.read(shard)
    storage.write(shard, bytes(len(whole)))
    assert prepare_here(f"{bucket}/raw", output, "--copies", "2", "--shards", "4") == 0
    assert storage.read(shard) == whole
    storage.write(storage.join(output, "train-00000-of-00007.tfrecord"), b"theirs")
    assert prepare_here(f"{bucket}/raw", output, "--copies", "1", "--shards", "2") == 0
    assert storage.read(storage.join(output, "train-00000-of-00007.tfrecord")) == b"theirs"
