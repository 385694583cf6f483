"""The work of `deeplab tune-crf`: predicts an image once, refines it with many parameters, and counts pixels.

An image's probabilities stay on the disk of the worker that predicted them; other workers predict them again, so any
worker can score any point of the grid. Counts are written to small files in a work folder, each with all distances
from the label's boundaries, and are never computed twice: every metric is derived from the same files.

Everything in this module must be picklable, and importing it must not import TensorFlow.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipelines.crf import refine as crf
from pipelines.masks import network
from pipelines.masks.options import Views
from pipelines.masks.softmax import most_probable
from pipelines.masks.views import mean_softmax
from pipelines.runner import progress
from pipelines.runner.notes import InFlight
from pipelines.scores.trimap import BANDS, band_confusions
from pipelines.tune_crf.samples import Sample, digest, load
from trainer import storage
from trainer.accounts import REJECTS_FILE
from trainer.files import scratch
from trainer.formats import images, label_images
from trainer.formats.labels import Palette
from trainer.formats.options import CRF_BOUNDS, CrfOptions
from trainer.metrics import class_counts

READERS = 10
"""Number of files of the work folder that are read concurrently."""
NAMES_FILE = "images.json"
"""File with the name of every image in the work folder."""
OURS = re.compile(r"\.|[0-9a-f]{24}[-.]|pictures\.json$")
"""How names of files begin in a work folder without NAMES_FILE: leases and the like, ids, and that of version 0.1."""
RESULT, FAILURE, MASK = ".npz", ".failed", ".png"
"""Suffixes in the work folder: of the counts of a sample, the reason why it has none, and a mask for the page."""
NOTES_FOLDER = "in-flight"

Point = CrfOptions | None
"""A point of the grid: parameters of the CRF; None for no CRF."""
Task = tuple[Sample, tuple[Point, ...]]
"""A sample, and the points at which to score it."""
Scores = dict[str, dict[Point, np.ndarray]]
"""Name of a sample -> point -> int64 [3, C], see `trainer.metrics.class_counts`."""
Files = dict[str, dict[Point, np.ndarray]]
"""Path of a file of the work folder -> the same of its points."""


@dataclass(frozen=True)
class TuningJob:
    """The parameters of a tuning, sent to the workers.

    Attributes:
      model, records: the folders of the model and of the records.
      work: the folder of the counts.
      palette: the palette of model and records.
      max_side: longest side of the images that the network sees, in pixels; 0 for no limit.
      views: the views of the image, after shrinking, that the network sees.
      model_digest: SHA-256 of the model's weights.
      fingerprint: a digest of everything that the counts depend on, except the point.
      threads: maximum number of TensorFlow's threads, 0 for one per core.
    """

    model: str
    records: str
    work: str
    palette: Palette
    max_side: int
    views: Views
    model_digest: str
    fingerprint: str
    threads: int

    def name(self, sample: Sample) -> str:
        """An id of the sample with this job's model, for file names."""
        return digest(self.fingerprint, sample.shard, sample.offset, sample.key)

    def result(self, sample: Sample, points: Sequence[Point], suffix: str) -> str:
        """The path of the file in the work folder for a sample at these points."""
        return storage.join(self.work, f"{self.name(sample)}-{digest(_rows(points))}{suffix}")

    @property
    def notes(self) -> InFlight:
        """The notes of what the workers are working on."""
        return InFlight(storage.join(self.work, NOTES_FOLDER))

    @property
    def cache(self) -> str:
        """The folder in which this machine keeps probabilities."""
        return os.path.join(scratch.kept("probabilities"), self.fingerprint)

    def cached(self, sample: Sample) -> str:
        """The path of a sample's probabilities on this machine; the file need not exist."""
        return os.path.join(self.cache, f"{self.name(sample)}.float16")

    def load(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Image and label, see `samples.load`."""
        return load(self.records, self.palette, sample)


def _rows(points: Sequence[Point]) -> list[tuple[float, ...]]:
    """Points as rows of numbers, with class weights at the end if any of the points has them.

    0 iterations stand for no CRF, since they are not valid parameters.
    """
    classes = max((len(point.class_weights) for point in points if point), default=0)
    return [
        (*(getattr(point, name) for name in CRF_BOUNDS), *(point.class_weights or (1.0,) * classes))
        if point
        else (0.0,) * (len(CRF_BOUNDS) + classes)
        for point in points
    ]


def _point(row: np.ndarray) -> Point:
    """The inverse of `_rows`, for one row."""
    iterations, *numbers = row[: len(CRF_BOUNDS)].tolist()
    weights = tuple(row[len(CRF_BOUNDS) :].tolist())
    return CrfOptions(int(iterations), *numbers, class_weights=weights) if iterations else None


def predict(job: TuningJob, sample: Sample, image: np.ndarray) -> np.ndarray:
    """Predicts a sample's softmax, float32 [h, w, C], and keeps it on this disk as float16."""
    shared = network.shared_network(job.model, job.model_digest, job.threads)
    softmax = mean_softmax(shared, images.shrink(image, job.max_side)[None], job.views)[0]
    try:
        storage.write(job.cached(sample), softmax.astype(np.float16).tobytes())
    except OSError as error:
        logging.getLogger(__name__).warning("probabilities are predicted again when needed: %s", error)
    return softmax


def probabilities(job: TuningJob, sample: Sample, image: np.ndarray) -> np.ndarray:
    """The softmax rounded to float16, as float32 [h, w, C]: from this disk, or predicted if it is missing."""
    shape = (*images.shrunk_size(*image.shape[:2], job.max_side), job.palette.num_classes)
    try:
        # Not an .npy file: NumPy parses their headers with `ast`, which sometimes fails in threads of Python 3.11.
        return np.fromfile(job.cached(sample), np.float16).reshape(shape).astype(np.float32)
    except (OSError, ValueError):  # missing or truncated
        return predict(job, sample, image).astype(np.float16).astype(np.float32)


def make_masks(job: TuningJob, sample: Sample, image: np.ndarray, points: Sequence[Point]) -> Iterator[np.ndarray]:
    """Yields, per point, uint8 [H, W]: the class ids that `deeplab segment` gives the image with these parameters."""
    rounded = None
    for point in points:
        if point is None:
            softmax = predict(job, sample, image)
        else:
            rounded = probabilities(job, sample, image) if rounded is None else rounded
            softmax = crf.refine(images.shrink(image, job.max_side), rounded, point)
        yield most_probable(softmax, *image.shape[:2])[0]


def shown_mask(job: TuningJob, sample: Sample, image: np.ndarray, point: Point) -> np.ndarray:
    """The mask at a point, uint8 [H, W] class ids, for the page; kept in the work folder."""
    path = job.result(sample, [point], MASK)
    try:
        return label_images.decode_label(storage.read(path))
    except (FileNotFoundError, images.ImageError):
        (ids,) = make_masks(job, sample, image, [point])
        storage.write(path, job.palette.encode_mask(ids))
        return ids


def tidy(job: TuningJob) -> None:
    """Removes the probabilities on this machine, the workers' notes, and the unfinished files of killed runs.

    Called when the job is done.
    """
    shutil.rmtree(job.cache, ignore_errors=True)
    for file in storage.glob(storage.join(job.work, ".*")):
        whole = storage.unfinished(file.relative)
        if whole in (NAMES_FILE, REJECTS_FILE) or whole.endswith((RESULT, FAILURE, MASK)):
            storage.discard(file.path)
    job.notes.clear()
    progress.forget(job.work)


def is_kept(job: TuningJob, sample: Sample) -> bool:
    """Whether the sample's probabilities are on this disk."""
    return os.path.exists(job.cached(sample))


def keep(job: TuningJob, sample: Sample, points: Sequence[Point]) -> None:
    """Keeps the sample's probabilities on this disk; called as `score` is, but for no points."""
    image, _ = job.load(sample)
    probabilities(job, sample, image)


def score(job: TuningJob, sample: Sample, points: Sequence[Point]) -> None:
    """Counts the pixels of the sample's mask at every point, and writes them to the work folder."""
    image, label = job.load(sample)
    masks = list(make_masks(job, sample, image, points))
    confusions = band_confusions(label, masks, job.palette.num_classes, job.palette.ignore_id)
    rows = np.array(_rows(points), np.float64)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, points=rows, counts=class_counts(confusions))
    storage.write(job.result(sample, points, RESULT), buffer.getvalue())


def give_up(job: TuningJob, sample: Sample, reason: str) -> None:
    """Records in the work folder that the sample cannot be scored."""
    storage.write_json(storage.join(job.work, job.name(sample) + FAILURE), {"reason": reason})


def failures(job: TuningJob, samples: Iterable[Sample]) -> dict[str, str]:
    """Name of a sample -> the reason why it cannot be scored, for the samples that were given up."""
    names = {job.name(sample) for sample in samples}
    paths = {file.relative.removesuffix(FAILURE): file.path for file in _files(job) if file.relative.endswith(FAILURE)}
    return {name: storage.read_json(path)["reason"] for name, path in paths.items() if name in names}


def clear_failures(job: TuningJob) -> None:
    """Clears the records of samples that were given up, so that they are tried again."""
    for file in _files(job):
        if file.relative.endswith(FAILURE):
            storage.remove(file.path)


def _files(job: TuningJob) -> list[storage.File]:
    """All files of the work folder; none if it does not exist."""
    try:
        return storage.files(job.work)
    except FileNotFoundError:
        return []


def _counts(data: bytes) -> dict[Point, np.ndarray]:
    """The counts that `score` wrote, int64 [bands + 1, 3, C] each; empty if the file is damaged."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            points = map(_point, content["points"])
            return dict(zip(points, content["counts"], strict=True))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def read_scores(job: TuningJob, samples: Iterable[Sample], bands: int, files: Files) -> Scores:
    """All counts of these samples in the work folder, summed over the first `bands` distances.

    Args:
      files: what was read before with these `bands`, which is not read again; what is read is added.
    """
    scores: Scores = {job.name(sample): {} for sample in samples}
    results = [file for file in _files(job) if file.relative.endswith(RESULT)]
    ours = [(name, file.path) for file in results if (name := file.relative.partition("-")[0]) in scores]
    new = [path for _, path in ours if not files.get(path)]  # a damaged file is replaced
    with ThreadPoolExecutor(READERS) as pool:
        for path, data in zip(new, pool.map(storage.read, new), strict=True):
            files[path] = {point: values[:bands].sum(0) for point, values in _counts(data).items()}
    for name, path in ours:
        scores[name] |= files[path]
    return scores


def bands_of(trimap_width: int | None) -> int:
    """The number of distances to include: those up to that width in pixels, or all of them for None."""
    return len(BANDS) + 1 if trimap_width is None else BANDS.index(trimap_width) + 1


def missing(job: TuningJob, samples: Iterable[Sample], points: Sequence[Point], scores: Scores) -> list[Task]:
    """The samples that have no scores at some of `points`, each with these points."""
    tasks = [(one, tuple(point for point in points if point not in scores[job.name(one)])) for one in samples]
    return [task for task in tasks if task[1]]
