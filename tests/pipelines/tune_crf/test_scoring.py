"""Counts of one image: written once, read for every metric, and missing where their file is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.masks.options import Views
from pipelines.scores.trimap import band_confusions
from pipelines.tune_crf import scoring
from pipelines.tune_crf.samples import Sample, choose
from pipelines.tune_crf.scoring import TuningJob
from tests.drawn.records import PALETTE
from tests.drawn.tuning import Colours, Smoothing, write_records
from trainer import storage
from trainer.formats.options import CrfOptions
from trainer.metrics import class_counts

POINTS = (None, CrfOptions(), CrfOptions(sxy=30))


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    return TuningJob("model", str(tmp_path / "records"), str(tmp_path / "work"), PALETTE, 0, Views(), "d", "f", 0)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    dataset = write_records(tmp_path / "records", 2)
    return choose(str(tmp_path / "records"), dataset, "val", 0)


def test_counts_are_those_of_the_masks_by_distance(
    job: TuningJob, samples: list[Sample], network: Colours, smoothing: Smoothing
) -> None:
    scoring.score(job, samples[0], POINTS)
    assert network.calls == 1 and smoothing.calls == 2
    image, label = job.load(samples[0])
    masks = list(scoring.make_masks(job, samples[0], image, POINTS))
    assert [(mask.shape, mask.dtype) for mask in masks] == [(label.shape, np.uint8)] * 3
    expected = class_counts(band_confusions(label, masks, 3, 255))
    for bands in (1, 3, 6):
        scores = scoring.read_scores(job, samples, bands, {})
        assert list(scores) == [job.name(sample) for sample in samples] and scores[job.name(samples[1])] == {}
        for point, counts in zip(POINTS, expected, strict=True):
            np.testing.assert_array_equal(scores[job.name(samples[0])][point], counts[:bands].sum(0))


def test_missing_scores_are_the_points_that_an_image_lacks(job: TuningJob, samples: list[Sample]) -> None:
    first, second = samples
    counts = np.zeros((3, 3), np.int64)
    scores = {job.name(first): dict.fromkeys(POINTS, counts), job.name(second): {POINTS[1]: counts}}
    assert scoring.missing(job, samples, POINTS, scores) == [(second, (POINTS[0], POINTS[2]))]
    assert scoring.missing(job, [first], POINTS, scores) == []


def test_counts_with_class_weights_are_told_from_those_without(
    job: TuningJob, samples: list[Sample], network: Colours
) -> None:
    weighted = CrfOptions(class_weights=(1, 0.25, 0))
    scoring.score(job, samples[0], (CrfOptions(), weighted, None))
    scoring.score(job, samples[0], (CrfOptions(sxy=30),))
    scores = scoring.read_scores(job, samples, 6, {})[job.name(samples[0])]
    assert set(scores) == {CrfOptions(), weighted, None, CrfOptions(sxy=30)}
    image, label = job.load(samples[0])
    for point, mask in zip(scores, scoring.make_masks(job, samples[0], image, list(scores)), strict=True):
        np.testing.assert_array_equal(scores[point], class_counts(band_confusions(label, [mask], 3, 255))[0].sum(0))


@pytest.mark.parametrize("size", [0, 100])
def test_a_damaged_file_holds_no_scores(
    job: TuningJob, samples: list[Sample], network: Colours, smoothing: Smoothing, size: int
) -> None:
    scoring.score(job, samples[0], POINTS)
    path = Path(job.result(samples[0], POINTS, scoring.RESULT))
    path.write_bytes(path.read_bytes()[:size])
    assert scoring.read_scores(job, samples, 6, {})[job.name(samples[0])] == {}


def test_a_file_is_read_again_only_if_it_was_damaged(
    job: TuningJob, samples: list[Sample], network: Colours, smoothing: Smoothing, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring.score(job, samples[0], POINTS[:2])
    whole, files, read, calls = scoring.read_scores(job, samples, 6, {}), {}, storage.read, []
    monkeypatch.setattr(storage, "read", lambda path: calls.append(path) or read(path))
    path = Path(job.result(samples[0], POINTS[:2], scoring.RESULT))
    data = path.read_bytes()
    path.write_bytes(data[:100])
    assert scoring.read_scores(job, samples, 6, files)[job.name(samples[0])] == {}
    path.write_bytes(data)
    for _ in range(2):
        scores = scoring.read_scores(job, samples, 6, files)
        np.testing.assert_equal(scores, whole)
    assert calls == [str(path)] * 2
    scoring.score(job, samples[0], POINTS[2:])
    assert set(scoring.read_scores(job, samples, 6, files)[job.name(samples[0])]) == set(POINTS)
    assert len(calls) == 3


def test_without_a_work_folder_there_are_no_scores(job: TuningJob, samples: list[Sample]) -> None:
    assert set(map(len, scoring.read_scores(job, samples, 6, {}).values())) == {0}


def test_the_width_of_the_trimap_chooses_the_distances() -> None:
    assert [scoring.bands_of(width) for width in (1, 2, 4, 8, 16, None)] == [1, 2, 3, 4, 5, 6]
