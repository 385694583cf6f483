"""What the workers do in `deeplab tune-crf`: predict a picture once, refine it with many parameters, count pixels.

A picture's probabilities stay on the disk of the worker that predicted them; whoever does not find them there predicts
them again, so the points of the grid may land on any worker. What was counted goes into small files of a work folder,
each with all distances from the label's borders, and is never counted again: every metric is read from the same files.

Everything in here must pickle, and importing it must not import TensorFlow.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass

import apache_beam as beam
import cv2
import numpy as np

from pipelines.crf import refine as crf
from pipelines.crf.refine import CrfOptions
from pipelines.masks import segmenter as masks
from pipelines.runner import run as runner
from pipelines.scores.trimap import BANDS, band_confusions
from pipelines.tune_crf import search as crf_search
from trainer import storage
from trainer.formats import images, records
from trainer.formats.palettes import Palette
from trainer.formats.records import CorruptRecord, Dataset, Record, Reject

BLOCK = 10
"""Points of the grid in one element: enough to share the distances to the borders, few enough to share out."""
READERS = 10
RESULT = ".npz"

Point = CrfOptions | None
"""A point of the grid: parameters of the CRF; None: no CRF."""
Scores = dict[str, dict[Point, np.ndarray]]
"""Picture id -> point -> int64 [bands + 1, 3, C]: `crf_search.class_counts` by distance from the label's borders."""


@dataclass(frozen=True)
class Picture:
    """A picture of the records: its `key`, and the byte `offset` of its record in the file `shard`.

    `reason` says why it cannot be used; empty for one that can.
    """

    key: str
    shard: str
    offset: int
    reason: str = ""


@dataclass(frozen=True)
class Job:
    """What a worker must know.

    Attributes: folders of `model` and `records`, and the `work` folder; the `palette` of both; `max_side` of the
    network's pictures; `digest` of the model's weights; `fingerprint` of all that the counts depend on besides the
    point; `threads` for TensorFlow, 0 for one per core.
    """

    model: str
    records: str
    work: str
    palette: Palette
    max_side: int
    digest: str
    fingerprint: str
    threads: int

    def name(self, picture: Picture) -> str:
        """Id of a picture under this job's model, for names of files."""
        return _digest(self.fingerprint, picture.shard, picture.offset, picture.key)

    def result(self, picture: Picture, points: Sequence[Point], suffix: str) -> str:
        """Where in the work folder lies what was found at these points."""
        return storage.join(self.work, f"{self.name(picture)}-{_digest(_rows(points))}{suffix}")

    @property
    def cache(self) -> str:
        """Where this machine keeps probabilities."""
        return os.path.join(tempfile.gettempdir(), f"deeplab-probabilities-{os.getuid()}", self.fingerprint)

    def cached(self, picture: Picture) -> str:
        """The file of a picture's probabilities on this machine, which need not be there."""
        return os.path.join(self.cache, f"{self.name(picture)}.float16")


def _rows(points: Sequence[Point]) -> list[tuple[float, ...]]:
    """Points as numbers. No parameters have 0 iterations, which therefore stands for no CRF."""
    return [astuple(point) if point else (0.0,) * len(CrfOptions.__dataclass_fields__) for point in points]


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def scan(folder: str, dataset: Dataset, split: str) -> Iterator[Picture]:
    """Every source picture of a split, those that cannot be read with their reason. Raises FileNotFoundError."""
    for shard in dataset.of_split(split):
        originals, lost = 0, ""
        with open(storage.localize(storage.join(folder, shard.name)), "rb") as file:
            for found in records.scan_frames(file):
                place, lost = f"{shard.name} record {found.index}", ""
                if isinstance(found, CorruptRecord):
                    lost = str(found)
                    picture = Picture(place, shard.name, found.offset, lost)
                else:
                    try:
                        record = records.decode(found.data)
                    except ValueError as error:
                        picture = Picture(place, shard.name, found.offset, f"record {found.index}: {error}")
                    else:
                        if record.copy:
                            continue
                        picture = Picture(record.key, shard.name, found.offset)
                originals += 1
                yield picture
        # Behind a damaged length nothing is found; what dataset.json counts beyond it is lost as well.
        for number in range(originals, shard.pictures):
            yield Picture(f"{shard.name} lost {number}", shard.name, -1, lost or "the shard ends before it")


def load(folder: str, palette: Palette, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 [H, W, 3], and its label, uint8 [H, W] class ids and ignore id; ValueError when damaged."""
    with open(storage.localize(storage.join(folder, picture.shard)), "rb") as file:
        file.seek(picture.offset)
        record: Record = records.decode(next(records.read_frames(file)).data)
    image = images.decode_image(record.image)
    label = palette.check_ids(images.decode_label(record.label))
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"picture is {image.shape[1]}x{image.shape[0]}, its label {label.shape[1]}x{label.shape[0]} pixels"
        )
    return image, label


def sample(folder: str, dataset: Dataset, split: str, most: int) -> tuple[list[Picture], list[Reject]]:
    """At most `most` pictures of the split (0: all) and, of these, those that cannot be used.

    The hash of the keys decides: the same pictures every time, and among them those of any smaller sample.
    """
    found = sorted(scan(folder, dataset, split), key=lambda picture: _digest(picture.key, picture.shard))
    usable, rejects = [], []
    for picture in found[: most or None]:
        reason = picture.reason
        if not reason:
            try:
                load(folder, dataset.palette, picture)
            except ValueError as error:  # ImageError, LabelError, CorruptRecord
                reason = str(error)
        if reason:
            rejects.append(Reject(picture.key, storage.join(folder, picture.shard), "tune-crf", reason))
        else:
            usable.append(picture)
    return usable, rejects


def predict(job: Job, picture: Picture, image: np.ndarray) -> np.ndarray:
    """The network's softmax of a picture, float32 [h, w, C], of which float16 values are left on this disk."""
    network = masks.shared_network(job.model, job.digest, job.threads)
    predicted = network(masks.shrink(image, job.max_side)[None], "probabilities")[0]
    try:
        storage.write(job.cached(picture), predicted.astype(np.float16).tobytes())
    except OSError as error:
        logging.getLogger(__name__).warning("probabilities are predicted again when needed: %s", error)
    return predicted


def probabilities(job: Job, picture: Picture, image: np.ndarray) -> np.ndarray:
    """The softmax rounded to float16, as float32 [h, w, C]: from this disk, or predicted where it is not there."""
    shape = (*masks.network_size(*image.shape[:2], job.max_side), job.palette.num_classes)
    try:
        # Not an .npy file: NumPy parses their headers with `ast`, which fails now and then in threads of Python 3.11.
        return np.fromfile(job.cached(picture), np.float16).reshape(shape).astype(np.float32)
    except (OSError, ValueError):  # not there, or cut short
        return predict(job, picture, image).astype(np.float16).astype(np.float32)


def make_masks(job: Job, picture: Picture, image: np.ndarray, points: Sequence[Point]) -> Iterator[np.ndarray]:
    """Per point uint8 [H, W]: the class ids that `deeplab segment` gives the picture with these parameters."""
    softmax = None
    for point in points:
        if point is None:
            predicted = predict(job, picture, image)
        else:
            softmax = probabilities(job, picture, image) if softmax is None else softmax
            predicted = crf.refine(masks.shrink(image, job.max_side), softmax, point)
        yield masks.choose(predicted, *image.shape[:2])[0]


def forget(job: Job) -> None:
    """Removes the probabilities that this machine keeps for the job."""
    shutil.rmtree(job.cache, ignore_errors=True)


def score(job: Job, picture: Picture, points: Sequence[Point], heartbeat: runner.Heartbeat) -> None:
    """Counts the pixels of the picture's mask at every point, and writes them to the work folder."""
    image, label = load(job.records, job.palette, picture)
    found = []
    for mask in make_masks(job, picture, image, points):
        found.append(mask)
        heartbeat.beat()
    confusions = band_confusions(label, found, job.palette.num_classes, job.palette.ignore_id)
    rows = np.array(_rows(points), np.float64)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, points=rows, counts=crf_search.class_counts(confusions))
    storage.write(job.result(picture, points, RESULT), buffer.getvalue())


def _counts(data: bytes) -> dict[Point, np.ndarray]:
    """What `score` wrote; nothing where the file is damaged."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            points = [CrfOptions(int(row[0]), *row[1:].tolist()) if row[0] else None for row in content["points"]]
            return dict(zip(points, content["counts"], strict=True))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def read_scores(job: Job, pictures: Iterable[Picture], bands: int) -> Scores:
    """All counts of these pictures in the work folder, summed over the first `bands` distances: int64 [3, C] each."""
    scores: Scores = {job.name(picture): {} for picture in pictures}
    try:
        files = storage.files(job.work)
    except FileNotFoundError:
        return scores
    ours = [file for file in files if file.relative.endswith(RESULT)]
    found = [(name, file.path) for file in ours if (name := file.relative.partition("-")[0]) in scores]
    with ThreadPoolExecutor(READERS) as pool:
        for (name, _), data in zip(found, pool.map(storage.read, [path for _, path in found]), strict=True):
            scores[name] |= {point: values[:bands].sum(0) for point, values in _counts(data).items()}
    return scores


def bands_of(trimap_width: int | None) -> int:
    """How many of the distances count: up to that width, or all of them for None."""
    return len(BANDS) + 1 if trimap_width is None else BANDS.index(trimap_width) + 1


Task = tuple[Picture, tuple[Point, ...]]


class Predict(beam.DoFn):
    """(picture, points) -> the same in blocks of few points, with the probabilities on this disk.

    The point None, no CRF, is counted here.
    """

    def __init__(self, job: Job, heartbeat: runner.Heartbeat):
        self._job, self._heartbeat = job, heartbeat

    def setup(self) -> None:
        # Beam's threads already keep every core busy.
        cv2.setNumThreads(1)

    def process(self, task: Task) -> Iterator[Task]:
        picture, points = task
        if None in points:
            score(self._job, picture, (None,), self._heartbeat)
        else:
            probabilities(self._job, picture, load(self._job.records, self._job.palette, picture)[0])
        refined = tuple(point for point in points if point is not None)
        # Blocks of equal size: local runs deal elements out in turns, and one worker would get all the long ones.
        blocks = -(-len(refined) // BLOCK)
        for number in range(blocks):
            yield picture, refined[number * len(refined) // blocks : (number + 1) * len(refined) // blocks]


class Refine(beam.DoFn):
    """(picture, points) -> nothing; the counts are written."""

    def __init__(self, job: Job, heartbeat: runner.Heartbeat):
        self._job, self._heartbeat = job, heartbeat

    def setup(self) -> None:
        cv2.setNumThreads(1)

    def process(self, task: Task) -> None:
        score(self._job, *task, self._heartbeat)


def build(pipeline: beam.Pipeline, heartbeat: runner.Heartbeat, *, job: Job, tasks: list[Task]) -> None:
    """The whole job: predict every picture once, then refine it block by block wherever there is time."""
    _ = (
        pipeline
        | "Pictures" >> beam.Create(tasks)
        | "Spread pictures" >> beam.Reshuffle()
        | "Predict" >> beam.ParDo(Predict(job, heartbeat))
        | "Spread points" >> beam.Reshuffle()
        | "Refine" >> beam.ParDo(Refine(job, heartbeat))
    )
