"""deeplab prepare: counts, bytes, rejects, reruns. Pictures are drawn; commands run through the real `main`."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import cli
from pipelines.inputs import rawset
from pipelines.prepare import shards
from pipelines.prepare.command import PrepareOptions, plan
from tests.drawn.places import ROOT
from tests.drawn.rawset import write_pair, write_rawset
from tests.drawn.records import PALETTE, picture
from trainer import storage
from trainer.formats import images, records


def prepare(source: Path | str, output: Path | str, *flags: str) -> int:
    return cli.main(["prepare", "--input", str(source), "--output", str(output), *flags])


def read(output: Path, split: str = "") -> list[records.Record]:
    """All records of a split, or of all, in the order of the shards."""
    found = []
    for shard in records.load_dataset(str(output)).shards:
        if split in ("", shard.split):
            with open(output / shard.name, "rb") as file:
                found += [records.decode(frame.data) for frame in records.read_frames(file)]
    return found


def shard_bytes(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("*.tfrecord"))}


def rejects(output: Path) -> dict[str, dict]:
    lines = (output / "rejects.jsonl").read_text().splitlines()
    return {json.loads(line)["key"]: json.loads(line) for line in lines}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_rawset(tmp_path_factory.mktemp("raw"), {"train": 8, "val": 3})


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared") / "records"
    assert prepare(source, output, "--copies", "2", "--shards", "4", "--direct_num_workers", "1") == 0
    return output


def test_every_picture_and_copy_is_written_once(prepared):
    dataset = records.load_dataset(str(prepared))
    names = [(record.key, record.copy) for record in read(prepared)]
    expected = [(f"train/a{i}", copy) for i in range(8) for copy in range(3)] + [(f"val/a{i}", 0) for i in range(3)]
    assert sorted(names) == sorted(expected)
    assert (dataset.count("train"), dataset.pictures("train")) == (24, 8)
    assert (dataset.count("val"), dataset.pictures("val")) == (3, 3)
    assert dataset.rejected == 0


def test_the_accounts_are_said(source, tmp_path, capsys):
    assert prepare(source, tmp_path / "records", "--copies", "1", "--shards", "2") == 0
    said = capsys.readouterr()
    assert "8 train + 3 val pictures" in said.out
    assert "11 pictures + 8 copies = 19 records in 3 shards, 0 rejected" in said.out
    assert "prepare: 19/19 records" in said.err


def test_originals_go_in_untouched_and_copies_do_not(source, prepared):
    for record in read(prepared):
        raw = (source / "images" / f"{record.key}.jpg").read_bytes()
        assert (record.image == raw) == (record.copy == 0)
        assert record.filename == f"images/{record.key}.jpg"
        assert (record.image_format, record.height, record.width, record.channels) == ("jpeg", 96, 96, 3)
        label = images.decode_label(record.label)
        assert label.shape == (96, 96)
        if not record.copy:
            expected = np.asarray(Image.open(source / "labels" / f"{record.key}.png"))
            np.testing.assert_array_equal(label, expected)


def test_a_copy_follows_from_seed_key_and_number_alone(prepared, source):
    options = PrepareOptions(input=str(source), output=str(prepared), copies=2)
    record = next(record for record in read(prepared) if (record.key, record.copy) == ("train/a3", 2))
    entry = shards.Entry(
        "train/a3", record.filename, f"{source}/images/train/a3.jpg", f"{source}/labels/train/a3.png", 2
    )
    assert shards.make_record(entry, PALETTE, options)[0] == record


def test_dataset_json_counts_the_pixels_of_every_class(prepared):
    for split in ("train", "val"):
        counts = sum(np.bincount(images.decode_label(r.label).ravel(), minlength=256) for r in read(prepared, split))
        told = records.load_dataset(str(prepared)).of_split(split)
        assert np.sum([shard.class_pixels for shard in told], axis=0).tolist() == counts[:3].tolist()
        assert sum(shard.ignored_pixels for shard in told) == counts[255]


def test_keys_are_shuffled_over_shards_and_inside_them(prepared):
    per_shard = {}
    for shard in records.load_dataset(str(prepared)).of_split("train"):
        with open(prepared / shard.name, "rb") as file:
            found = [records.decode(frame.data) for frame in records.read_frames(file)]
        per_shard[shard.name] = [(record.key, record.copy) for record in found]
    assert any(names != sorted(names) for names in per_shard.values())
    homes = {name for name, found in per_shard.items() for key, _ in found if key == "train/a0"}
    assert len(homes) > 1


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
    fingerprints = [records.load_dataset(str(folder)).fingerprint for folder in (output, prepared)]
    assert fingerprints[0] == fingerprints[1]


def test_a_rerun_keeps_finished_shards(source, tmp_path, capsys):
    output = tmp_path / "records"
    prepare(source, output, "--shards", "2")
    times = {path: path.stat().st_mtime_ns for path in output.glob("*.tfrecord")}
    (output / "train-00001-of-00002.tfrecord").unlink()
    (output / "dataset.json").unlink()
    capsys.readouterr()
    assert prepare(source, output, "--shards", "2") == 0
    assert "2 of 3 shards are finished already and kept" in capsys.readouterr().out
    changed = [path.name for path, before in times.items() if path.stat().st_mtime_ns != before]
    assert changed == ["train-00001-of-00002.tfrecord"]
    assert len(read(output)) == 11


def test_other_augmentation_rewrites_only_shards_with_copies(source, tmp_path):
    output = tmp_path / "records"
    flags = ("--copies", "1", "--shards", "1")
    prepare(source, output, *flags)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.glob("*.tfrecord")}
    assert prepare(source, output, *flags, "--gamma", "2", "2") == 0
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.glob("*.tfrecord")}
    assert after["val-00000-of-00001.tfrecord"] == before["val-00000-of-00001.tfrecord"]
    assert after["train-00000-of-00001.tfrecord"][1] != before["train-00000-of-00001.tfrecord"][1]


def test_a_changed_source_file_rewrites_its_shards(tmp_path):
    source, output = write_rawset(tmp_path / "raw", {"train": 8}), tmp_path / "records"
    prepare(source, output, "--shards", "4", "--copies", "0")
    before = shard_bytes(output)
    write_pair(source, "train", "a0.jpg", *picture(77))
    assert prepare(source, output, "--shards", "4") == 0
    assert sum(data != before[name] for name, data in shard_bytes(output).items()) == 1


def test_a_new_picture_changes_only_the_shards_it_falls_into(tmp_path):
    source = write_rawset(tmp_path / "raw", {"train": 30})
    options = PrepareOptions(input=str(source), output=str(tmp_path / "records"), shards=6)

    def fingerprints():
        raw = rawset.scan(str(source))
        return {item.spec.name: item.spec.fingerprint for item in plan(raw, PALETTE, options, raw.root)["train"][1]}

    before = fingerprints()
    write_pair(source, "train", "new.jpg", *picture(0))
    after = fingerprints()
    assert len(before) == 6
    assert sum(after[name] != value for name, value in before.items()) == 1


def test_a_job_that_breaks_off_and_goes_back_to_old_options_gives_the_old_bytes(source, tmp_path, monkeypatch, capsys):
    output = tmp_path / "records"
    flags = ("--copies", "1", "--shards", "3", "--direct_num_workers", "1")
    prepare(source, output, *flags)
    before = shard_bytes(output)
    write, calls = shards.write_shard, []

    def full_disk(*args):
        calls.append(args)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", full_disk)
        assert prepare(source, output, *flags, "--gamma", "2", "2", "--seed", "3") == 2
    assert "OSError: [Errno 28] No space left on device" in capsys.readouterr().err
    assert not (output / "dataset.json").exists()
    assert shard_bytes(output) != before
    assert prepare(source, output, *flags) == 0
    assert shard_bytes(output) == before


def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(tmp_path):
    source = write_rawset(tmp_path / "raw", {"train": 6}, size=320)
    flags = ["--copies", "19", "--shards", "20", "--direct_num_workers", "2"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "pipelines.cli", "prepare", "--input", str(source), "--output", str(killed)]
    with subprocess.Popen([*command, *flags], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as job:
        deadline = time.monotonic() + 60
        while not list(killed.glob("*.tfrecord")) and time.monotonic() < deadline:
            time.sleep(0.002)
        job.send_signal(signal.SIGKILL)
    left = len(list(killed.glob("*.tfrecord")))
    assert 0 < left < 20
    assert not (killed / "dataset.json").exists()
    assert prepare(source, killed, *flags) == 0
    assert prepare(source, whole, *flags) == 0
    assert shard_bytes(killed) == shard_bytes(whole)
    names = [path.name for path in [*killed.rglob("*"), *killed.rglob(".*")]]
    assert not [name for name in names if name.endswith(".tmp") or name.startswith("plan-")]


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """Two good pictures and one of each kind of trouble."""
    source = write_rawset(tmp_path_factory.mktemp("spoilt"), {"train": 2})
    for name in ("truncated", "empty", "text", "unknown", "size", "large", "label"):
        write_pair(source, "train", f"{name}.jpg", *picture(5))
    photo = source / "images/train"
    (photo / "truncated.jpg").write_bytes((photo / "truncated.jpg").read_bytes()[:900])
    (photo / "empty.jpg").write_bytes(b"")
    (photo / "text.jpg").write_text("this is not a picture")
    label = np.zeros([96, 96], np.uint8)
    label[3, 4:9] = 37
    Image.fromarray(label).save(source / "labels/train/unknown.png")
    Image.fromarray(label[:50] * 0).save(source / "labels/train/size.png")
    Image.new("RGB", (400, 300)).save(photo / "large.jpg")
    (source / "labels/train/label.png").unlink()
    return source


def test_bad_pictures_are_rejected_with_reasons_and_the_job_goes_on(spoilt, tmp_path, capsys):
    flags = ("--copies", "1", "--max-pixels", "100000", "--shards", "2")
    assert prepare(spoilt, tmp_path / "records", *flags) == 1
    found = rejects(tmp_path / "records")
    for name, reason in {
        "truncated": "truncated",
        "empty": "the file is empty",
        "text": "not a picture",
        "unknown": "unknown class id 37 in 5 pixels",
        "size": "label is 96x50, its picture 96x96",
        "large": "400x300 is 120,000 pixels, over the bound of 100,000",
        "label": "without a label",
    }.items():
        assert reason in found[f"train/{name}"]["reason"]
    assert len(found) == 7
    # Copies of one bad picture are one reject that says how many records are missing.
    assert found["train/text"]["records"] == 2
    assert found["train/unknown"]["path"].endswith("labels/train/unknown.png")
    assert found["train/empty"]["path"].endswith("images/train/empty.jpg")
    said = capsys.readouterr().out
    assert "2 pictures + 2 copies = 4 records" in said
    assert "more than --max-reject-rate 1.0%" in said
    assert {record.key for record in read(tmp_path / "records")} == {"train/a0", "train/a1"}
    assert records.load_dataset(str(tmp_path / "records")).rejected == sum(r["records"] for r in found.values())


def test_the_reject_rate_can_be_allowed(spoilt, tmp_path):
    assert prepare(spoilt, tmp_path / "records", "--max-reject-rate", "1") == 0


def test_a_set_of_rejects_alone_gives_no_records(tmp_path, capsys):
    source = write_rawset(tmp_path / "raw", {"train": 2})
    for path in (source / "images/train").iterdir():
        path.write_bytes(b"")
    assert prepare(source, tmp_path / "records") == 1
    assert "none of 2 pictures could be used" in capsys.readouterr().out
    assert not (tmp_path / "records/dataset.json").exists()
    assert list((tmp_path / "records").glob("*.tfrecord")) == []
    assert len(rejects(tmp_path / "records")) == 2


def test_a_split_of_rejects_alone_is_left_out_and_said(tmp_path, capsys):
    source = write_rawset(tmp_path / "raw", {"train": 2, "val": 1})
    (source / "images/val/a0.jpg").write_bytes(b"")
    assert prepare(source, tmp_path / "records") == 1
    assert records.load_dataset(str(tmp_path / "records")).splits == ("train",)
    assert "split val is left out" in capsys.readouterr().out


def test_turned_pictures_are_upright_in_the_record(tmp_path):
    source, output = write_rawset(tmp_path / "raw", {"train": 1}), tmp_path / "records"
    image, label = picture(3, 80, 60)  # as one sees it
    exif = Image.Exif()
    exif[images.ORIENTATION_TAG] = 6  # stored turned a quarter to the left
    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(stored, "JPEG", exif=exif, quality=95)
    write_pair(source, "train", "turned.jpg", image, label)
    (source / "images/train/turned.jpg").write_bytes(stored.getvalue())
    assert prepare(source, output) == 0
    record = next(record for record in read(output) if record.key == "train/turned")
    assert (record.height, record.width) == (80, 60)
    assert images.header(record.image).orientation == 1
    np.testing.assert_array_equal(images.decode_label(record.label), label)
    sideways = np.asarray(Image.open(stored))
    assert record.image == images.encode_jpeg(np.ascontiguousarray(np.rot90(sideways, -1)), quality=95)


@pytest.mark.parametrize(
    ("name", "mode", "image_format", "channels", "untouched"),
    [
        ("a.png", "RGB", "png", 3, True),
        ("a.png", "L", "png", 1, True),
        ("a.jpg", "L", "jpeg", 1, True),
        ("a.png", "RGBA", "png", 3, False),
        ("a.bmp", "RGB", "png", 3, False),
        ("a.jpg", "CMYK", "jpeg", 3, False),
    ],
)
def test_only_plain_jpegs_and_pngs_stay_as_they_are(tmp_path, name, mode, image_format, channels, untouched):
    image, label = picture(1)
    write_pair(tmp_path, "train", name, image, label)
    path = tmp_path / "images/train" / name
    Image.fromarray(image).convert(mode).save(path)
    entry = shards.Entry("train/a", f"images/train/{name}", str(path), str(tmp_path / "labels/train/a.png"), 0)
    record, _ = shards.make_record(entry, PALETTE, shards.RecordOptions())
    assert (record.image_format, record.channels) == (image_format, channels)
    assert (record.image == path.read_bytes()) == untouched
    if image_format == "png" and mode != "L":
        np.testing.assert_array_equal(images.decode_image(record.image), image)


def test_max_side_shrinks_pictures_and_labels_alike(tmp_path):
    source, output = write_rawset(tmp_path / "raw", {"train": 1}), tmp_path / "records"
    write_pair(source, "train", "wide.png", *picture(2, 100, 200))
    assert prepare(source, output, "--max-side", "96", "--image-format", "png") == 0
    found = {record.key: record for record in read(output)}
    assert (found["train/wide"].height, found["train/wide"].width) == (48, 96)
    assert images.decode_label(found["train/wide"].label).shape == (48, 96)
    assert found["train/wide"].image_format == "png"
    assert found["train/a0"].image == (source / "images/train/a0.jpg").read_bytes()
    dataset = records.load_dataset(str(output))
    assert dataset.max_side == 96
    assert (dataset.shards[0].min_size, dataset.shards[0].max_size) == ((48, 96), (96, 96))


def test_shards_of_an_earlier_run_are_removed_and_nothing_else(source, tmp_path, capsys):
    output = tmp_path / "records"
    prepare(source, output, "--shards", "4")
    (output / "notes.txt").write_text("mine")
    (output / "shards" / "notes.json").write_text("mine")
    old = {path.name for path in output.glob("*.tfrecord")}
    capsys.readouterr()
    assert prepare(source, output, "--shards", "2") == 0
    removed = len(old - {path.name for path in output.glob("*.tfrecord")})
    assert removed >= 3
    assert f"removed {removed} shards of an earlier run" in capsys.readouterr().out
    names = {shard.name for shard in records.load_dataset(str(output)).shards}
    assert {path.name for path in output.iterdir()} == names | {"dataset.json", "rejects.jsonl", "shards", "notes.txt"}
    assert {path.name for path in (output / "shards").iterdir()} == {f"{name}.json" for name in names} | {"notes.json"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--copies", "-1"], "--copies must be 0 or more, got -1"),
        (["--jpeg-quality", "101"], "--jpeg-quality must be 1 to 100, got 101"),
        (["--max-reject-rate", "2"], "--max-reject-rate must be 0 to 1, got 2.0"),
        (["--shards", "-2"], "--shards must be 0 (automatic) to 99999, got -2"),
        (["--seed", "-1"], "--seed must be 0 or more"),
        (["--copis", "2"], "--copis"),
        (["--palette", "nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_options_are_refused(source, tmp_path, capsys, flags, said):
    assert prepare(source, tmp_path / "records", *flags) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "records").exists()


def test_missing_and_equal_folders_are_refused(source, tmp_path, capsys):
    assert prepare(tmp_path / "nowhere", tmp_path / "records") == 2
    assert "nowhere" in capsys.readouterr().err
    assert prepare(source, source) == 2
    assert "is the input folder" in capsys.readouterr().err


def test_split_names_that_are_no_file_names_are_refused(source, tmp_path, capsys):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"image,label,split\n{source}/images/train/a0.jpg,{source}/labels/train/a0.png,../out\n")
    assert prepare(manifest, tmp_path / "records", "--palette", str(source / "palette.json")) in (1, 2)
    assert list(tmp_path.glob("**/*.tfrecord")) == []
    assert "../out" in "".join(capsys.readouterr())


def test_from_bucket_to_bucket_gives_the_local_bytes(source, prepared, bucket):
    for file in storage.files(str(source)):
        storage.write(storage.join(bucket, "raw", *file.relative.split("/")), storage.read(file.path))
    output = storage.join(bucket, "records")
    for _ in range(2):
        assert prepare(f"{bucket}/raw", output, "--copies", "2", "--shards", "4") == 0
    for name, data in shard_bytes(prepared).items():
        assert storage.read(storage.join(output, name)) == data
    assert not [file.relative for file in storage.files(output) if "plan-" in file.relative]


def test_prepare_needs_no_tensorflow():
    code = "import sys, pipelines.prepare, pipelines.records; print({'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == "set()", done.stderr
