"""`deeplab tune-crf` as a user runs it: what it decides, writes, prints and refuses."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.scores.trimap import trimap_distance
from pipelines.tune_crf import command, scoring, search
from tests.drawn import records as drawn
from tests.drawn.counts import two_classes
from tests.drawn.faults import impatient, of_the_system
from tests.drawn.held import held
from tests.drawn.tuning import PLANTED, SIZE, tune, write_model, write_records
from trainer import leases, metrics, storage
from trainer.formats import images, label_images
from trainer.formats.cards import weights_digest
from trainer.formats.labels import Palette
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import Tuning, load
from trainer.options import InputError


def test_the_planted_parameters_are_found_stored_and_printed(folders, network, smoothing, scratch, capsys):
    model, records = folders
    assert tune("--model", model, "--records", records) == 0
    tuning = load(str(model))
    assert tuning.options == PLANTED
    assert tuning.gain.low > 0.02 and tuning.after == pytest.approx(tuning.before + tuning.gain.value)
    assert (tuning.images, tuning.scored, tuning.rejects, tuning.split) == (12, 12, (), "val")
    assert tuning.model_digest == weights_digest(str(model)) and tuning.records_fingerprint == "drawn-2"
    points = {tuple(point[name] for name in search.RANGES) for point in tuning.grid}
    assert len(tuning.grid) == len(points) > 30
    out = capsys.readouterr().out
    assert (
        f"val, 12 images: mIoU {tuning.before:.3f} without, {tuning.after:.3f} with (cross-fitted); "
        f"gain {tuning.gain.value:+.3f}, 95 % between {tuning.gain.low:+.3f} and {tuning.gain.high:+.3f}"
    ) in out
    assert f"on: sxy 47.5, srgb 3.75, compat 5.25 -> {model / 'crf.json'}" in out
    html = (model / "crf.html").read_text()
    assert "Use the CRF, with sxy 47.5, srgb 3.75, compat 5.25." in html and html.count("<img") == 6 * 6
    # One prediction per image and those of the gallery; nothing stays on the machine's disk.
    assert network.calls == 12 + 6
    assert list(scratch.rglob("*.float16")) == []


def test_scores_are_those_of_the_masks(folders, network, smoothing):
    model, records = folders
    assert tune("--model", model, "--records", records, "--metric", "trimap", "--trimap-width", 2) == 0
    tuning = load(str(model))
    assert (tuning.metric, tuning.trimap_width) == ("trimap", 2)
    before, after = np.zeros((3, 3), np.int64), np.zeros((3, 3), np.int64)
    for number in range(12):
        record = drawn.record(number, SIZE)
        image, label = images.decode_image(record.image), label_images.decode_label(record.label)
        label = np.where(trimap_distance(label, 255) <= 2, label, 255)
        softmax = network.softmax(image)
        before += metrics.confusion(label, softmax.argmax(-1), 3, 255)
        refined = smoothing(image, softmax.astype(np.float16).astype(np.float32), CrfOptions())
        after += metrics.confusion(label, refined.argmax(-1), 3, 255)
    assert tuning.before == pytest.approx(metrics.mean_iou(metrics.class_counts(before)), abs=1e-12)
    (default,) = [p for p in tuning.grid if (p["sxy"], p["srgb"], p["compat"]) == (49, 5, 4)]
    assert default["score"] == pytest.approx(metrics.mean_iou(metrics.class_counts(after)), abs=1e-12)


def test_a_crf_without_gain_is_left_off(folders, network, smoothing, capsys):
    model, records = folders
    network.noise = 0.0
    assert tune("--model", model, "--records", records, "--output", model.parent / "x/found.json") == 0
    tuning = Tuning.from_json(json.loads((model.parent / "x/found.json").read_text()))
    assert tuning.options is None and tuning.gain.low <= 0
    assert "leave it off: " in capsys.readouterr().out
    assert "Leave the CRF off" in (model.parent / "x/found.html").read_text()
    assert not (model / "crf.json").exists() and not (model / "crf.tuning").exists()


def test_the_real_crf_cleans_noisy_masks(folders, network):
    model, records = folders
    assert tune("--model", model, "--records", records, "--images", 10) == 0
    tuning = load(str(model))
    assert tuning.options is not None and tuning.gain.low > 0.05 and tuning.images == 10


def test_images_are_shrunk_for_network_and_crf_and_scored_at_their_own_size(tmp_path, network, smoothing):
    write_records(tmp_path / "records", 10)
    model = write_model(tmp_path / "model", max_side=32)
    assert tune("--model", model, "--records", tmp_path / "records") == 0
    (path, *_) = (tmp_path / "model/crf.tuning").glob("*.npz")
    counts = np.load(path)["counts"]
    assert set(counts.sum((1, 3))[:, 1]) == {(SIZE[0] - 4) * (SIZE[1] - 4)}, "pixels of the label without its frame"


def test_the_page_shows_each_image_once_and_none_without_a_labelled_pixel():
    before, after = two_classes(np.array([500, 500, 0, 500, 500])), two_classes(np.array([600, 400, 0, 500, 700]))
    before[2], after[2] = 0, 0
    assert command.extremes(before, after) == [(4, "best"), (0, "best"), (3, "best"), (1, "worst")]


@pytest.mark.parametrize(("fingerprint", "known"), [("drawn-1", "was trained on"), ("", "may have been trained on")])
def test_tuning_on_the_images_of_the_training_is_warned_of(
    fingerprint, known, tmp_path, network, smoothing, monkeypatch, capsys
):
    records = [drawn.record(number, SIZE) for number in range(10)]
    dataset = drawn.write_records(tmp_path / "records", {"train": [records], "val": [records[:1]]})
    model = write_model(tmp_path / "model", data_fingerprint=fingerprint and dataset.fingerprint)
    monkeypatch.setattr(command, "choose", lambda *rest: 1 / 0)
    for split in ("train", "val"):
        with pytest.raises(ZeroDivisionError):
            tune("--model", model, "--records", tmp_path / "records", "--split", split)
        assert (f"the model {known} the split train" in capsys.readouterr().out) is (split == "train")


def damage(path: Path, index: int, place: int) -> None:
    """Flips a byte of the TFRecord of that number; place 0 is its length, 20 and above its payload."""
    data, offset = bytearray(path.read_bytes()), 0
    for _ in range(index):
        offset += 16 + int.from_bytes(data[offset : offset + 8], "little")
    data[offset + place] ^= 0x55
    path.write_bytes(bytes(data))


def test_damaged_records_are_rejected_and_the_others_tuned_on(tmp_path, network, smoothing, capsys):
    parts = [[drawn.record(number, SIZE) for number in range(start, start + 7)] for start in (0, 7, 14)]
    parts[2][0] = dataclasses.replace(parts[2][0], image=parts[2][0].image[:-200])
    parts[2][1] = dataclasses.replace(parts[2][1], label=images.encode_png(np.full(SIZE, 9, np.uint8)))
    drawn.write_records(tmp_path / "records", {"val": parts})
    damage(tmp_path / "records/val-00000-of-00003.tfrecord", 2, 500)
    damage(tmp_path / "records/val-00001-of-00003.tfrecord", 5, 0)
    model = write_model(tmp_path / "model")
    assert tune("--model", model, "--records", tmp_path / "records") == 1
    out = capsys.readouterr().out
    assert "val: 21 images = 16 usable + 5 rejected" in out and "--max-reject-rate" in out
    tuning = load(str(model))
    assert (tuning.images, tuning.scored) == (21, 16)
    reasons = {reject["key"]: reject["reason"] for reject in tuning.rejects}
    assert set(reasons) == {
        "014",
        "015",
        "val-00000-of-00003.tfrecord record 2",
        "val-00001-of-00003.tfrecord record 5",
        "val-00001-of-00003.tfrecord lost 6",
    }
    assert "truncated" in reasons["014"] and "class id 9" in reasons["015"]
    assert "checksum of the data" in reasons["val-00000-of-00003.tfrecord record 2"]
    assert all("rest of the shard is lost" in reasons[key] for key in reasons if "00001-of" in key)
    assert "val-00001-of-00003.tfrecord lost 6" in (model / "crf.html").read_text()
    work = model / "crf.tuning"
    listed = [json.loads(line) for line in (work / "rejects.jsonl").read_text().splitlines()]
    assert {reject["key"]: reject["reason"] for reject in listed} == reasons
    assert f"see {work / 'rejects.jsonl'}" in out and out.count("rejected: ") == 5
    names = json.loads((work / "images.json").read_text())
    assert len(names) == 16 and set(names) == {path.name.partition("-")[0] for path in work.glob("*.npz")}
    assert tune("--model", model, "--records", tmp_path / "records", "--max-reject-rate", 0.3) == 0


@pytest.mark.parametrize(("flags", "where"), [((), ""), (("--metric", "trimap"), " within 4 pixels of a boundary")])
def test_images_whose_labels_are_ignored_as_a_whole_do_not_count(flags, where, folders, monkeypatch):
    """Else the interval would be of as few images as are refused."""
    monkeypatch.setattr(command, "run_job", lambda *_, **__: pytest.fail("it predicts before it refuses"))
    model, folder = folders
    ignored = label_images.encode_label(np.full(SIZE, drawn.PALETTE.ignore_id, np.uint8))
    records = [
        dataclasses.replace(drawn.record(number, SIZE), **({"label": ignored} if number > 8 else {}))
        for number in range(12)
    ]
    drawn.write_records(folder, {"val": [records]})
    expected = (
        f"of 12 usable images in the split val of .*, 9 have a labelled pixel{where}; expected 10 or more; give "
    )
    with pytest.raises(InputError, match=f"{expected}another --split"):
        tune("--model", model, "--records", folder, *flags)
    with pytest.raises(InputError, match="give --images 0 for more than 10 of the split, another --split"):
        tune("--model", model, "--records", folder, "--images", 10, *flags)
    assert not (model / "crf.json").exists()


def test_input_that_cannot_work_is_refused(folders, tmp_path, network, smoothing):
    model, good = folders
    write_records(tmp_path / "few", 9)
    drawn.write_records(tmp_path / "other", {"val": [[drawn.record(0)]]}, Palette("x", ("a",), ((1, 2, 3),)))
    gap = tmp_path / "gap"
    shutil.copytree(good, gap)
    (gap / "val-00001-of-00002.tfrecord").unlink()
    (tmp_path / "file").write_text("x")
    for name in ("dir.json", "page.html", "table.tuning/rejects.jsonl", "names.tuning/images.json"):
        (tmp_path / name).mkdir(parents=True)
    wrong = {
        "not a model folder": (tmp_path, good),
        "holds no records": (model, tmp_path),
        "9 usable images in the split val": (model, tmp_path / "few"),
        "not those of": (model, tmp_path / "other"),
        "is missing": (model, gap),
        "no split 'test'; it has val": (model, good, "--split", "test"),
        "10 or more": (model, good, "--images", 5),
        "a .json file": (model, good, "--output", tmp_path / "x.html"),
        "is a folder; expected the file to write": (model, good, "--output", tmp_path / "dir.json"),
        "page.html is a folder, where a file": (model, good, "--output", tmp_path / "page.json"),
        "rejects.jsonl is a folder, where a file": (model, good, "--output", tmp_path / "table.json"),
        "images.json is a folder, where a file": (model, good, "--output", tmp_path / "names.json"),
        "cannot be written to": (model, good, "--output", tmp_path / "file/crf.json"),
        "--max-reject-rate must be 0 to 1": (model, good, "--max-reject-rate", 2),
        "neither this command nor Apache Beam": (model, good, "--no-such-flag", 1),
    }
    for message, (folder, source, *flags) in wrong.items():
        with pytest.raises(InputError) as refusal:
            tune("--model", folder, "--records", source, *flags)
        assert message in str(refusal.value)
    assert network.calls == 0


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (errno.EACCES, InputError, "model/crf.json cannot be written to: Permission denied; give another"),
        (errno.EROFS, storage.Unavailable, "model/.crf.json.*: Read-only file system; make it writable"),
    ],
)
def test_a_model_folder_that_cannot_be_written_to_is_refused_before_the_search(
    number, error, message, folders, network, smoothing, monkeypatch
):
    """Though crf.tuning, a link to another disk, can be."""
    model, records = folders
    (model.parent / "fast").mkdir()
    (model / "crf.tuning").symlink_to(model.parent / "fast")
    impatient(monkeypatch)
    of_the_system(monkeypatch, number, 99, name="model/.crf")
    with pytest.raises(error, match=message):
        tune("--model", model, "--records", records)
    assert network.calls == 0 and not (model / "crf.json").exists()


def test_a_work_folder_that_another_job_holds_is_refused(folders, network, smoothing):
    """As one of version 0.34, or one for another model whose crf.tuning is a link to the same folder."""
    model, records = folders
    with held(model / "crf.tuning", "tune-crf"), pytest.raises(InputError, match=r"crf\.tuning is being written by"):
        tune("--model", model, "--records", records)
    assert network.calls == 0


def test_a_work_folder_that_is_taken_away_during_the_search_is_named(folders, network, smoothing, monkeypatch):
    model, records = folders
    monkeypatch.setattr(leases, "BEAT", 3600.0)  # a renewal would find it as well, and end this process
    true = scoring.score

    def late(*arguments: object) -> None:
        (model / "crf.tuning").rename(model / f"taken-{network.calls}")
        true(*arguments)

    monkeypatch.setattr(scoring, "score", late)
    with pytest.raises(
        InputError, match=r"crf\.tuning was removed, renamed or replaced .*; run the same command again"
    ):
        tune("--model", model, "--records", records)


def test_in_cloud_storage(bucket, folders, network, smoothing):
    for name, folder in zip(("model", "records"), folders, strict=True):
        for path in folder.iterdir():
            storage.write(f"{bucket}/{name}/{path.name}", path.read_bytes())
    assert tune("--model", f"{bucket}/model", "--records", f"{bucket}/records") == 0
    assert load(f"{bucket}/model").options == PLANTED
    network.calls = smoothing.calls = 0
    assert tune("--model", f"{bucket}/model", "--records", f"{bucket}/records") == 0
    assert (network.calls, smoothing.calls) == (0, 0)
    assert storage.exists(f"{bucket}/model/crf.html")
