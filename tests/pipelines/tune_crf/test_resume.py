"""Reruns of `deeplab tune-crf`: what is used again, what is made again, and counts that get lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pipelines import cli
from pipelines.masks.options import Views
from pipelines.tune_crf.job import BLOCK, PredictImage, RefinePoints
from pipelines.tune_crf.samples import Sample
from pipelines.tune_crf.scoring import Task, TuningJob
from tests.drawn.records import PALETTE
from tests.drawn.tuning import tune, weights_file, write_records
from trainer.accounts import UnbalancedError
from trainer.formats.cards import WEIGHTS, ModelCard
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import load


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
    assert "mIoU within 4 pixels of boundaries" in (model / "crf.html").read_text()


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
    monkeypatch.setattr(TuningJob, "cached", lambda job, sample: "/proc/nowhere/x")
    network.calls = smoothing.calls = 0
    assert tune("--model", model, "--records", records) == 0
    assert 0 < network.calls <= 2 + 2 * BLOCK and smoothing.calls <= 2 * BLOCK
    assert (model / "crf.json").read_bytes() == first


def test_what_a_killed_run_was_writing_is_removed_and_files_of_others_are_not(folders, network, smoothing):
    model, records = folders
    work = model / "crf.tuning"
    work.mkdir()
    ours = [".ab-cd.npz", ".ab-cd.png", ".images.json", ".rejects.jsonl"]
    for name in (*(f"{name}.0123abcd.tmp" for name in ours), ".mine.tmp", ".mine.npz"):
        (work / name).write_bytes(b"half")
    for name in (".crf.json", ".crf.html", ".notes"):
        (model / f"{name}.0123abcd.tmp").write_bytes(b"half")
    (work / ".progress").mkdir()
    (work / ".progress/0123.count").write_bytes(b"...")
    assert tune("--model", model, "--records", records) == 0
    assert {path.name for path in work.glob(".*")} == {".mine.tmp", ".mine.npz"}
    assert {path.name for path in model.glob(".*")} == {".notes.0123abcd.tmp"}


def test_another_model_is_not_given_the_old_ones_counts(folders, network, smoothing):
    model, records = folders
    assert tune("--model", model, "--records", records) == 0
    (model / WEIGHTS).write_bytes(weights_file(b"other weights"))
    network.noise, network.calls = 1.5, 0
    before = load(str(model)).before
    assert tune("--model", model, "--records", records) == 0
    assert network.calls == 18 and load(str(model)).before > before


@pytest.mark.slow
def test_a_killed_run_resumes_in_processes_with_a_real_network(tmp_path, capsys):
    pytest.importorskip("tensorflow")
    from trainer.network.deeplab import deeplab_v3_plus
    from trainer.network.folder import save_model

    architecture = {"num_classes": 3, "alpha": 0.35, "head": "bilinear"}
    save_model(str(tmp_path / "model"), deeplab_v3_plus(**architecture), ModelCard(architecture, PALETTE))
    write_records(tmp_path / "records", 10)
    command = ["tune-crf", "--model", tmp_path / "model", "--records", tmp_path / "records"]
    whole = list(map(str, [*command, "--direct_running_mode", "multi_processing", "--direct_num_workers", 2]))
    work = tmp_path / "model/crf.tuning"
    environment = {**os.environ, "TMPDIR": str(tmp_path / "scratch")}
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines", *whole],
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
    assert cli.run(list(map(str, command))) == 0
    assert f"coarse grid: {10 * 29 - known} masks to make, {known} known" in capsys.readouterr().out
    assert {name: (work / name).read_bytes() for name in done} == done
    assert load(str(tmp_path / "model")).scored == 10


def test_masks_that_get_lost_are_an_error_and_the_next_run_makes_them(folders, network, smoothing, monkeypatch):
    model, records = folders
    process, withheld = RefinePoints.process, []

    def some(self: RefinePoints, task: Task) -> None:
        if task[0].key in ("003", "007"):
            withheld.extend(task[1])
        else:
            process(self, task)

    with monkeypatch.context() as patch:
        patch.setattr(RefinePoints, "process", some)
        with pytest.raises(UnbalancedError, match=r"348 masks != 0 known \+ 292 scored \+ 0 rejected; 56 lost"):
            tune("--model", model, "--records", records)
    assert len(withheld) == 56 and not (model / "crf.json").exists()
    smoothing.calls = 0
    assert tune("--model", model, "--records", records) == 0
    fine = len(load(str(model)).grid) - 28
    assert smoothing.calls == 56 + 12 * fine + 6, "the masks that were lost, the fine grid and the page's"


def test_a_job_that_loses_everything_is_an_error(folders, network, monkeypatch):
    model, records = folders
    monkeypatch.setattr(PredictImage, "process", lambda self, task: [])
    with pytest.raises(UnbalancedError, match=r"348 masks != 0 known \+ 0 scored \+ 0 rejected; 348 lost"):
        tune("--model", model, "--records", records)


def test_counts_are_found_under_the_names_that_version_0_1_gave_them():
    job = TuningJob("m", "r", "w", PALETTE, 0, Views(), "d", "f", 0)
    sample = Sample("000", "val-00000-of-00002.tfrecord", 0)
    path = job.result(sample, [None, CrfOptions()], ".npz")
    assert path == "w/3f64c11235d5868d64a46c2c-fa0014e271c352db87c66a2c.npz"
