"""Images that fail, that end processes, or that are replaced meanwhile, and files that are somebody else's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.crf import refine as crf
from pipelines.masks.options import Views
from pipelines.pages import gallery
from pipelines.runner.progress import Heartbeat
from pipelines.tune_crf import samples as choosing
from pipelines.tune_crf import scoring
from pipelines.tune_crf.job import PredictImage, RefinePoints
from pipelines.tune_crf.samples import Sample
from pipelines.tune_crf.scoring import TuningJob
from tests.drawn import records as drawn
from tests.drawn.records import PALETTE
from tests.drawn.tuning import SIZE, Colours, Smoothing, tune, write_records
from trainer.formats import images
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import load
from trainer.options import InputError

POINT = CrfOptions(sxy=30)


def pixels(number: int) -> int:
    """What tells the images of the records apart."""
    return int(images.decode_image(drawn.record(number, SIZE).image).sum())


def fails_for(number: int, work: Callable, error: Exception) -> Callable:
    """`work(image, ...)` that raises for one of the images."""

    def picky(image: np.ndarray, *arguments: object) -> object:
        if int(image.sum()) == pixels(number):
            raise error
        return work(image, *arguments)

    return picky


def test_an_image_that_the_crf_cannot_refine_is_a_reject(folders, network, smoothing, monkeypatch, capsys):
    model, records = folders
    monkeypatch.setattr(crf, "refine", fails_for(3, smoothing, MemoryError("no 9 GiB")))
    assert tune("--model", model, "--records", records) == 1
    tuning = load(str(model))
    (reject,) = tuning.rejects
    assert (reject["key"], reject["reason"], reject["records"]) == ("003", "MemoryError: no 9 GiB; tried alone", 1)
    assert (tuning.images, tuning.scored) == (12, 11)
    out = capsys.readouterr().out
    assert "val: 12 images = 11 usable + 1 rejected" in out and "--max-reject-rate" in out
    assert json.loads((model / "crf.tuning/rejects.jsonl").read_text()) == reject
    monkeypatch.setattr(crf, "refine", smoothing)
    assert tune("--model", model, "--records", records) == 0, "a further run tries it again"
    assert load(str(model)).scored == 12


def test_an_image_that_the_network_cannot_predict_is_a_reject(folders, network, smoothing, monkeypatch, capsys):
    model, records = folders
    monkeypatch.setattr(network, "softmax", fails_for(5, network.softmax, RuntimeError("ResourceExhausted\nOOM")))
    assert tune("--model", model, "--records", records, "--max-reject-rate", 0.1) == 0
    assert load(str(model)).rejects[0]["reason"] == "RuntimeError: ResourceExhausted OOM; tried alone"
    assert "masks to make, 0 known" in capsys.readouterr().out


def test_too_few_images_that_could_be_scored_are_refused(folders, network, smoothing, monkeypatch):
    model, records = folders
    for number in range(3):
        monkeypatch.setattr(crf, "refine", fails_for(number, crf.refine, ValueError("no lattice")))
    with pytest.raises(
        InputError,
        match=r"9 usable images in the split val of .*; expected 10 or more; give another --split, "
        r"or records.* --val-fraction",
    ):
        tune("--model", model, "--records", records)
    assert not (model / "crf.json").exists()


def test_an_image_that_cannot_be_drawn_is_left_out_of_the_page(folders, network, smoothing, monkeypatch, capsys):
    model, records = folders
    monkeypatch.setattr(gallery, "entry", lambda key, *rest: 1 / 0)
    assert tune("--model", model, "--records", records) == 0
    assert capsys.readouterr().out.count(" is not shown: ZeroDivisionError: division by zero; tried alone") == 6
    assert "<img" not in (model / "crf.html").read_text()


def end_process(job: TuningJob, sample: Sample, points: object) -> None:
    os._exit(9)


def end_score(job: TuningJob, sample: Sample, points: object) -> None:
    os._exit(7)


end_score.__name__ = "score"  # by which its notes are known


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    write_records(tmp_path / "records", 2)
    return TuningJob("model", str(tmp_path / "records"), str(tmp_path / "work"), PALETTE, 0, Views(), "d", "f", 0)


SAMPLE = Sample("000", "val-00000-of-00002.tfrecord", 0)


def test_an_image_that_ended_a_process_is_worked_on_in_another_one(job: TuningJob) -> None:
    step = RefinePoints(Heartbeat(), job)
    job.notes.start(f"end_process {job.result(SAMPLE, [POINT], '')}")  # as a process leaves it that ended
    assert not step.survives(end_process, SAMPLE, [POINT])
    (reason,) = scoring.failures(job, [SAMPLE]).values()
    assert reason == "the process that worked on it ended with status 9; tried alone"
    scoring.clear_failures(job)
    assert scoring.failures(job, [SAMPLE]) == {}


def test_a_process_that_ended_at_some_points_of_an_image_is_the_last_one_in_this_command(
    job: TuningJob, network: Colours, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its blocks, which may be others than those of the run before, all are worked on in other processes."""
    points = tuple(CrfOptions(sxy=float(sxy)) for sxy in range(10, 35))
    job.notes.start(f"score {job.result(SAMPLE, points[:3], '')}")
    blocks = list(PredictImage(Heartbeat(), job).process((SAMPLE, points)))
    assert [point for _, block in blocks for point in block] == list(points) and len(blocks) == 3
    monkeypatch.setattr(scoring, "score", end_score)
    refine, refined = RefinePoints(Heartbeat(), job), []
    monkeypatch.setattr(RefinePoints, "finish", lambda self, outcome, number: refined.append((outcome, number)))
    for block in blocks:
        refine.process(block)
    assert refined == [("rejected", len(block)) for _, block in blocks]
    (reason,) = scoring.failures(job, [SAMPLE]).values()
    assert "ended with status 7" in reason


def test_an_image_that_failed_is_not_refined(job: TuningJob, network: Colours, smoothing: Smoothing) -> None:
    network.softmax = lambda image: 1 / 0
    assert list(PredictImage(Heartbeat(), job).process((SAMPLE, (None, POINT)))) == []
    assert list(scoring.failures(job, [SAMPLE])) == [job.name(SAMPLE)] and smoothing.calls == 0
    assert list((Path(job.work) / "in-flight").iterdir()) == []


def test_a_decoder_that_ended_the_command_is_found_by_the_rerun(
    job: TuningJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.notes.start("images")
    monkeypatch.setattr(choosing, "look", end_at_once)
    usable, (reject,), _ = choosing.sift(job.records, PALETTE, [SAMPLE], job.notes)
    assert usable == [] and "ended with status 8" in reject.reason


def end_at_once(folder: str, palette: object, sample: Sample, at_boundary: bool) -> tuple[str, bool]:
    os._exit(8)


def test_records_that_were_replaced_meanwhile_end_the_run(folders, network, smoothing, monkeypatch, tmp_path):
    """Their counts would go under the name of the records that were there before."""
    model, records = folders
    drawn.write_records(tmp_path / "others", {"val": [[drawn.record(n, SIZE) for n in range(20, 32)]]})
    score = scoring.score

    def replace(*arguments: object) -> None:
        for path in (tmp_path / "others").glob("*.tfrecord"):
            for shard in records.glob("*.tfrecord"):
                shutil.copy(path, shard)
        score(*arguments)

    monkeypatch.setattr(scoring, "score", replace)
    with pytest.raises(InputError, match="were replaced while this command was running; run it again"):
        tune("--model", model, "--records", records)
    assert not (model / "crf.json").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("crf.json", "{}"),
        ("crf.json", '{"sxy": 3}'),
        ("crf.json", "not JSON"),
        ("crf.html", "<title>My CRF</title>"),
        ("crf.tuning/images.json", '["my", "images"]'),
        ("crf.tuning/images.json", '{"my": "images"}'),
        ("crf.tuning/run7.failed", "mine"),
    ],
)
def test_files_of_others_are_not_replaced(name, content, folders, network, smoothing):
    model, records = folders
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text(content)
    with pytest.raises(
        InputError,
        match=rf"{name.removesuffix('/run7.failed')} was not written by `deeplab tune-crf` .*; move it away",
    ):
        tune("--model", model, "--records", records)
    assert (model / name).read_text() == content and network.calls == 0


@pytest.mark.parametrize("name", ["model/model.json", "records/dataset.json"])
def test_inputs_are_not_replaced(name, folders, network, smoothing, tmp_path):
    model, records = folders
    before = (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match="was not written by"):
        tune("--model", model, "--records", records, "--output", tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
