"""`deeplab tune-crf` as a user runs it: what it finds, reruns, damage, the page; and `segment` that obeys it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.cli import main
from pipelines.crf import refine as crf
from pipelines.crf.refine import CrfOptions
from pipelines.masks import segmenter as masks
from pipelines.pages import tuning as tune_report
from pipelines.scores.trimap import trimap_distance
from pipelines.segment import command as segment
from pipelines.segment.job import SegmentOptions
from pipelines.tune_crf import scoring as tune_job
from pipelines.tune_crf import search as crf_search
from pipelines.tune_crf.search import Gain, Tuning
from tests.drawn import chromium
from tests.drawn import records as drawn_records
from trainer import metrics, storage
from trainer.formats import images
from trainer.formats.cards import WEIGHTS, ModelCard, save_card, weights_digest
from trainer.formats.labels import Palette
from trainer.formats.records import Dataset
from trainer.options import InputError

PALETTE = drawn_records.PALETTE
SIZE = (56, 64)
PLANTED = CrfOptions(sxy=47.5, srgb=3.75, compat=5.25)
EVIL = "<script>alert(1)</script>\"'&"


def tune(*argv: object) -> int:
    return main(["tune-crf", *map(str, argv)])


class Colours:
    """Stands in for a network: every pixel is of the class whose colour it has, most of the time."""

    def __init__(self, noise: float):
        self.noise, self.calls, self._lock = noise, 0, threading.Lock()

    def __call__(self, pictures: np.ndarray, what: str) -> np.ndarray:
        with self._lock:
            self.calls += len(pictures)
        return np.stack([self.softmax(picture) for picture in pictures])

    def softmax(self, picture: np.ndarray) -> np.ndarray:
        """float32 [H, W, 3]; the noise is that of the picture, whenever it is asked for."""
        rng = np.random.default_rng(int(picture.sum()))
        distance = np.abs(picture[:, :, None].astype(np.float32) - np.float32(PALETTE.colors)).sum(-1)
        logits = -distance / 100 + rng.normal(0, self.noise, distance.shape)
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        return (odds / odds.sum(-1, keepdims=True)).astype(np.float32)


class Smoothing:
    """Stands in for the CRF: averages over neighbours, the more the nearer the parameters are to PLANTED."""

    def __init__(self):
        self.calls, self._lock = 0, threading.Lock()

    def __call__(self, image: np.ndarray, probabilities: np.ndarray, options: CrfOptions) -> np.ndarray:
        assert image.shape[:2] == probabilities.shape[:2] and probabilities.dtype == np.float32
        with self._lock:
            self.calls += 1
        away = abs(options.sxy - PLANTED.sxy) / 70 + sum(
            abs(getattr(options, name) - getattr(PLANTED, name)) / 3 for name in ("srgb", "compat")
        )
        return cv2.GaussianBlur(probabilities, (0, 0), 2 / (1 + away))


@pytest.fixture
def network(monkeypatch) -> Colours:
    network = Colours(noise=2.5)
    monkeypatch.setattr(masks, "shared_network", lambda folder, digest, threads: network)
    return network


@pytest.fixture
def smoothing(monkeypatch) -> Smoothing:
    smoothing = Smoothing()
    monkeypatch.setattr(crf, "refine", smoothing)
    return smoothing


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch) -> Path:
    """The machine's folder of temporary files, for this test alone."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write_model(folder: Path, weights: bytes = b"weights", **card: object) -> Path:
    save_card(str(folder), ModelCard({"num_classes": PALETTE.num_classes, "head": "bilinear"}, PALETTE, **card))
    (folder / WEIGHTS).write_bytes(weights)
    return folder


def write_records(folder: Path, pictures: int = 12) -> Dataset:
    parts = [[drawn_records.record(number, SIZE) for number in range(start, pictures, 2)] for start in (0, 1)]
    return drawn_records.write_records(folder, {"val": parts})


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """A model folder and a folder of records with twelve pictures."""
    write_records(tmp_path / "records")
    return write_model(tmp_path / "model"), tmp_path / "records"


def test_the_planted_parameters_are_found_stored_and_said(folders, network, smoothing, scratch, capsys):
    model, records = folders
    assert tune("--model", model, "--records", records) == 0
    tuning = crf_search.load(str(model))
    assert tuning.options == PLANTED
    assert tuning.gain.low > 0.02 and tuning.after == pytest.approx(tuning.before + tuning.gain.value)
    assert (tuning.pictures, tuning.scored, tuning.rejects, tuning.split) == (12, 12, (), "val")
    assert tuning.model_digest == weights_digest(str(model)) and tuning.records_fingerprint == "drawn-2"
    assert len(tuning.grid) == len({(p["compat"], p["sxy"], p["srgb"]) for p in tuning.grid}) > 30
    out = capsys.readouterr().out
    assert (
        f"val, 12 pictures: mIoU {tuning.before:.3f} without, {tuning.after:.3f} with (cross-fitted); "
        f"gain {tuning.gain.value:+.3f}, 95 % between {tuning.gain.low:+.3f} and {tuning.gain.high:+.3f}"
    ) in out
    assert f"on: sxy 47.5, srgb 3.75, compat 5.25 -> {model / 'crf.json'}" in out
    html = (model / "crf.html").read_text()
    assert "Use the CRF, with sxy 47.5, srgb 3.75, compat 5.25." in html and html.count("<img") == 6 * 6
    # One prediction per picture and those of the gallery; nothing stays on the machine's disk.
    assert network.calls == 12 + 6
    assert list(scratch.rglob("*.float16")) == []


def test_scores_are_those_of_the_masks(folders, network, smoothing):
    model, records = folders
    assert tune("--model", model, "--records", records, "--metric", "trimap", "--trimap-width", 2) == 0
    tuning = crf_search.load(str(model))
    assert (tuning.metric, tuning.trimap_width) == ("trimap", 2)
    before, after = np.zeros((3, 3), np.int64), np.zeros((3, 3), np.int64)
    for number in range(12):
        record = drawn_records.record(number, SIZE)
        image, label = images.decode_image(record.image), images.decode_label(record.label)
        label = np.where(trimap_distance(label, 255) <= 2, label, 255)
        softmax = network.softmax(image)
        before += metrics.confusion(label, softmax.argmax(-1), 3, 255)
        refined = smoothing(image, softmax.astype(np.float16).astype(np.float32), CrfOptions())
        after += metrics.confusion(label, refined.argmax(-1), 3, 255)
    assert tuning.before == pytest.approx(metrics.mean_iou(metrics.class_counts(before)), abs=1e-12)
    (default,) = [p for p in tuning.grid if (p["sxy"], p["srgb"], p["compat"]) == (49, 5, 4)]
    assert default["score"] == pytest.approx(metrics.mean_iou(metrics.class_counts(after)), abs=1e-12)


def test_a_rerun_only_reads_and_another_metric_reads_the_same_counts(folders, network, smoothing, capsys):
    model, records = folders
    assert tune("--model", model, "--records", records) == 0
    first, page = (model / "crf.json").read_bytes(), (model / "crf.html").read_bytes()
    network.calls = smoothing.calls = 0
    assert tune("--model", model, "--records", records) == 0
    assert (network.calls, smoothing.calls) == (0, 0)
    assert ((model / "crf.json").read_bytes(), (model / "crf.html").read_bytes()) == (first, page)
    capsys.readouterr()
    assert tune("--model", model, "--records", records, "--metric", "trimap") == 0
    assert "coarse grid" not in capsys.readouterr().out
    assert "(4 px)" not in (model / "crf.html").read_text()
    assert "mIoU within 4 pixels of borders" in (model / "crf.html").read_text()


def test_damaged_results_and_lost_probabilities_are_made_again(folders, network, smoothing, monkeypatch):
    model, records = folders
    assert tune("--model", model, "--records", records) == 0
    first = (model / "crf.json").read_bytes()
    results = sorted((model / "crf.tuning").glob("*.npz"))
    results[0].write_bytes(results[0].read_bytes()[:100])
    results[5].unlink()
    points = [len(np.load(path)["points"]) for path in results[6:7]]
    assert points[0] > 0
    # A disk on which nothing can be kept only costs time.
    monkeypatch.setattr(tune_job.Job, "cached", lambda job, picture: "/proc/nowhere/x")
    network.calls = smoothing.calls = 0
    assert tune("--model", model, "--records", records) == 0
    assert 0 < network.calls <= 2 + 2 * tune_job.BLOCK and smoothing.calls <= 2 * tune_job.BLOCK
    assert (model / "crf.json").read_bytes() == first


def test_another_model_is_not_given_the_old_ones_counts(folders, network, smoothing):
    model, records = folders
    assert tune("--model", model, "--records", records) == 0
    (model / WEIGHTS).write_bytes(b"other weights")
    network.noise, network.calls = 1.5, 0
    before = crf_search.load(str(model)).before
    assert tune("--model", model, "--records", records) == 0
    assert network.calls == 18 and crf_search.load(str(model)).before > before


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
    assert tune("--model", model, "--records", records, "--pictures", 10) == 0
    tuning = crf_search.load(str(model))
    assert tuning.options is not None and tuning.gain.low > 0.05 and tuning.pictures == 10


def test_pictures_are_shrunk_for_network_and_crf_and_scored_at_their_own_size(tmp_path, network, smoothing):
    write_records(tmp_path / "records", 10)
    model = write_model(tmp_path / "model", max_side=32)
    assert tune("--model", model, "--records", tmp_path / "records") == 0
    (path, *_) = (tmp_path / "model/crf.tuning").glob("*.npz")
    counts = np.load(path)["counts"]
    assert set(counts.sum((1, 3))[:, 1]) == {(SIZE[0] - 4) * (SIZE[1] - 4)}, "pixels of the label without its frame"


def damage(path: Path, index: int, place: int) -> None:
    """Flips a byte of the TFRecord of that number; place 0 is its length, 20 and above its payload."""
    data, offset = bytearray(path.read_bytes()), 0
    for _ in range(index):
        offset += 16 + int.from_bytes(data[offset : offset + 8], "little")
    data[offset + place] ^= 0x55
    path.write_bytes(bytes(data))


def test_damaged_records_are_rejected_and_the_others_tuned_on(tmp_path, network, smoothing, capsys):
    parts = [[drawn_records.record(number, SIZE) for number in range(start, start + 7)] for start in (0, 7, 14)]
    parts[2][0] = dataclasses.replace(parts[2][0], image=parts[2][0].image[:-200])
    parts[2][1] = dataclasses.replace(parts[2][1], label=images.encode_png(np.full(SIZE, 9, np.uint8)))
    drawn_records.write_records(tmp_path / "records", {"val": parts})
    damage(tmp_path / "records/val-00000-of-00003.tfrecord", 2, 500)
    damage(tmp_path / "records/val-00001-of-00003.tfrecord", 5, 0)
    model = write_model(tmp_path / "model")
    assert tune("--model", model, "--records", tmp_path / "records") == 1
    out = capsys.readouterr().out
    assert "val: 21 pictures = 16 usable + 5 rejected" in out and "--max-reject-rate" in out
    tuning = crf_search.load(str(model))
    assert (tuning.pictures, tuning.scored) == (21, 16)
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
    assert tune("--model", model, "--records", tmp_path / "records", "--max-reject-rate", 0.3) == 0


def test_augmented_copies_are_not_tuned_on(tmp_path):
    originals = [drawn_records.record(number, SIZE) for number in range(4)]
    pairs = [[one, dataclasses.replace(one, copy=1)] for one in originals]
    dataset = drawn_records.write_records(tmp_path, {"val": [[record for pair in pairs for record in pair]]}, copies=1)
    usable, rejects = tune_job.sample(str(tmp_path), dataset, "val", 0)
    assert (sorted(picture.key for picture in usable), rejects) == (["000", "001", "002", "003"], [])
    _, label = tune_job.load(str(tmp_path), PALETTE, usable[0])
    np.testing.assert_array_equal(label, drawn_records.picture(int(usable[0].key), *SIZE)[1])


def test_a_sample_is_spread_over_the_split_and_holds_every_smaller_one(tmp_path):
    dataset = write_records(tmp_path, 40)
    keys = {n: [p.key for p in tune_job.sample(str(tmp_path), dataset, "val", n)[0]] for n in (10, 20, 0)}
    assert keys[0][:20] == keys[20] and keys[20][:10] == keys[10] and len(set(keys[0])) == 40
    assert min(keys[10]) < "020" < max(keys[10])
    assert keys[10] == [p.key for p in tune_job.sample(str(tmp_path), dataset, "val", 10)[0]]


def test_input_that_cannot_work_is_an_error_of_one_line(folders, tmp_path, network, smoothing, capsys):
    model, records = folders
    write_records(tmp_path / "few", 9)
    drawn_records.write_records(
        tmp_path / "other", {"val": [[drawn_records.record(0)]]}, Palette("x", ("a",), ((1, 2, 3),))
    )
    gap = tmp_path / "gap"
    shutil.copytree(records, gap)
    (gap / "val-00001-of-00002.tfrecord").unlink()
    (tmp_path / "file").write_text("x")
    wrong = {
        "not a model folder": (tmp_path, records),
        "holds no records": (model, tmp_path),
        "9 usable pictures": (model, tmp_path / "few"),
        "not those of": (model, tmp_path / "other"),
        "is missing": (model, gap),
        "no split 'test'; it has val": (model, records, "--split", "test"),
        "10 or more": (model, records, "--pictures", 5),
        "a .json file": (model, records, "--output", tmp_path / "x.html"),
        "cannot write": (model, records, "--output", tmp_path / "file/crf.json"),
        "must be 0 to 1": (model, records, "--max-reject-rate", 2),
        "neither this command nor Apache Beam": (model, records, "--no-such-flag", 1),
    }
    for message, (folder, source, *flags) in wrong.items():
        assert tune("--model", folder, "--records", source, *flags) == 2, message
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, error
    (tmp_path / "dir.json").mkdir()
    assert tune("--model", model, "--records", records, "--output", tmp_path / "dir.json") == 2
    assert network.calls == 0


def test_in_cloud_storage(bucket, folders, network, smoothing):
    for name, folder in zip(("model", "records"), folders, strict=True):
        for path in folder.iterdir():
            storage.write(f"{bucket}/{name}/{path.name}", path.read_bytes())
    assert tune("--model", f"{bucket}/model", "--records", f"{bucket}/records") == 0
    assert crf_search.load(f"{bucket}/model").options == PLANTED
    network.calls = smoothing.calls = 0
    assert tune("--model", f"{bucket}/model", "--records", f"{bucket}/records") == 0
    assert (network.calls, smoothing.calls) == (0, 0)
    assert storage.exists(f"{bucket}/model/crf.html")


def test_a_killed_run_goes_on_in_processes_with_a_real_network(tmp_path, capsys):
    pytest.importorskip("tensorflow")
    from trainer.network.deeplab import deeplab_v3_plus, save_model

    architecture = {"num_classes": 3, "alpha": 0.35, "head": "bilinear"}
    save_model(str(tmp_path / "model"), deeplab_v3_plus(**architecture), ModelCard(architecture, PALETTE))
    write_records(tmp_path / "records", 10)
    command = ["tune-crf", "--model", tmp_path / "model", "--records", tmp_path / "records"]
    whole = list(map(str, [*command, "--direct_running_mode", "multi_processing", "--direct_num_workers", 2]))
    work = tmp_path / "model/crf.tuning"
    environment = {**os.environ, "TMPDIR": str(tmp_path / "scratch")}
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *whole],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    ) as process:
        while len(list(work.glob("*.npz"))) < 14:
            assert process.poll() is None, "the job ended before it could be killed"
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
    done = {path.name: path.read_bytes() for path in work.glob("*.npz")}
    known = sum(len(np.load(work / name)["points"]) for name in done)
    assert not (tmp_path / "model/crf.json").exists()
    assert main(list(map(str, command))) == 0
    assert f"coarse grid: {10 * 29 - known} masks to make, {known} known" in capsys.readouterr().out
    assert {name: (work / name).read_bytes() for name in done} == done
    assert crf_search.load(str(tmp_path / "model")).scored == 10


def some_tuning(**changes) -> Tuning:
    rng = np.random.default_rng(0)
    points = dict.fromkeys(
        [*crf_search.coarse_points(), *crf_search.fine_points(CrfOptions(sxy=30, srgb=3, compat=3))]
    )
    names = ("compat", "sxy", "srgb")
    grid = tuple({n: getattr(p, n) for n in names} | {"score": 0.6 + rng.normal(0, 0.02)} for p in points)
    tuning = Tuning(
        options=CrfOptions(sxy=40, srgb=4, compat=3.5),
        metric="miou",
        trimap_width=None,
        before=0.6,
        after=0.63,
        gain=Gain(0.03, 0.021, 0.038),
        per_class={"sky": (0.9, 0.91), EVIL: (0.3, 0.35), "ghost": (None, None), "fog": (None, 0.0)},
        grid=grid,
        split="val",
        pictures=101,
        rejects=({"key": EVIL, "path": "p", "stage": "tune-crf", "reason": "damaged", "records": 1},),
        model_digest="d",
        records_fingerprint="f",
    )
    return dataclasses.replace(tuning, **changes)


PAGE_PALETTE = Palette("page", ("sky", EVIL, "ghost", "fog"), ((1, 2, 3), (4, 50, 6), (7, 8, 9), (90, 90, 90)))


@pytest.mark.parametrize(
    ("gain", "kind"),
    [
        (Gain(0.03, 0.021, 0.038), "good"),
        (Gain(0.001, -0.002, 0.003), "unsure"),
        (Gain(-0.2, -0.3, -0.1), "bad"),
        (Gain(0.0, 0.0, 0.0), "unsure"),
    ],
)
def test_the_interval_is_drawn_to_scale_with_zero_on_its_axis(gain, kind):
    drawn = tune_report._interval(some_tuning(gain=gain))
    ticks = {tick["text"]: tick["x"] for tick in drawn["ticks"]}
    assert 3 <= len(ticks) <= 9 and ticks["0"] == drawn["zero"] and drawn["kind"] == kind
    scale = (drawn["ticks"][1]["x"] - drawn["ticks"][0]["x"]) / (
        float(drawn["ticks"][1]["text"]) - float(drawn["ticks"][0]["text"])
    )
    for name in ("low", "value", "high"):
        assert drawn[name] - drawn["zero"] == pytest.approx(scale * getattr(gain, name), abs=0.5)
        assert 30 <= drawn[name] <= 610


def test_the_grid_shows_every_point_once_and_outlines_the_best():
    tuning = some_tuning()
    html = tune_report.render(tuning, PAGE_PALETTE, "out/model", [])
    cells = re.findall(r'<td class="(right|wrong)( strong)?( best)?" style="--v: ([\d.]+)" title="([^"]+)">', html)
    assert len(cells) == len(tuning.grid)
    (best,) = [title for _, _, best, _, title in cells if best]
    assert best == f"{tune_report.parameters(tuning.best)}: {tuning.best['score']:.4f}"
    for kind, _, _, _, title in cells:
        assert (float(title.rpartition(" ")[2]) > tuning.before) == (kind == "right")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    if chromium.executable() is None:
        pytest.skip("there is no Chromium here: how a browser shows the page is not tested")
    with chromium.browse(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False)])
def test_a_browser_shows_the_page(browser, tmp_path, width, dark):
    path = tmp_path / "crf.html"
    path.write_text(tune_report.render(some_tuning(), PAGE_PALETTE, f"out/{EVIL}", []), encoding="utf-8")
    browser.open(path, width, 800, dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.body.innerText").count("<script>alert(1)</script>") >= 3
    assert browser.evaluate("document.querySelectorAll('td.best').length") == 1
    assert browser.evaluate("document.querySelectorAll('svg[aria-label] circle').length") == 1
    colours = browser.evaluate(
        "['right', 'wrong'].map(k => getComputedStyle(document.querySelector(`td.${k}`)).backgroundColor)"
    )
    assert len(set(colours)) == 2
    asked = [event["request"]["url"].partition(":")[0] for event in browser.events_of("Network.requestWillBeSent")]
    assert set(asked) <= {"file", "data"} and asked.count("file") == 1
    assert browser.events_of("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []


def in_force(model: Path, **flags: object) -> CrfOptions | None:
    options = SegmentOptions(input="photos", model=str(model), output="masks", **flags)
    return segment.crf_in_force(options, weights_digest(str(model)))


def test_segment_takes_the_tuned_parameters_and_obeys_the_verdict(tmp_path, capsys):
    model = write_model(tmp_path / "model")
    assert in_force(model) is None and in_force(model, crf="on") == CrfOptions()
    assert in_force(model, crf="on", crf_sxy=20.0) == CrfOptions(sxy=20)
    with pytest.raises(InputError, match=r"crf\.json is missing; make it with `deeplab tune-crf"):
        in_force(model, crf="auto")

    def store(**changes: object) -> None:
        tuning = some_tuning(model_digest=weights_digest(str(model)), **changes)
        (model / "crf.json").write_text(json.dumps(tuning.to_json()))

    store()
    tuned = CrfOptions(sxy=40, srgb=4, compat=3.5)
    assert in_force(model) is None
    assert in_force(model, crf="on") == in_force(model, crf="auto") == tuned
    assert in_force(model, crf="auto", crf_srgb=7.0) == dataclasses.replace(tuned, srgb=7)
    assert "sxy 40, srgb 7, compat 3.5" in capsys.readouterr().out
    store(options=None)
    assert in_force(model, crf="auto", crf_srgb=7.0) is None
    assert "no CRF" in capsys.readouterr().out
    assert in_force(model, crf="on", crf_srgb=7.0) == CrfOptions(srgb=7)
    assert "warning" in capsys.readouterr().out
    (model / WEIGHTS).write_bytes(b"trained again")
    assert in_force(model) is None
    for asked in ("on", "auto"):
        with pytest.raises(InputError, match="other weights; run `deeplab tune-crf` again, or delete"):
            in_force(model, crf=asked)
