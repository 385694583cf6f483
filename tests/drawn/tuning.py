"""A network and a CRF whose best parameters are planted, a model folder and records for them, and a result."""

from __future__ import annotations

import dataclasses
import io
import threading
import zipfile
from pathlib import Path

import cv2
import numpy as np

from pipelines import cli
from tests.drawn import records
from tests.drawn.records import PALETTE
from trainer.formats.cards import WEIGHTS, ModelCard, save_card
from trainer.formats.dataset import Dataset
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import Change, Tuning
from trainer.metrics import Gain

SIZE = (56, 64)
"""Height and width of the images in the records."""
PLANTED = CrfOptions(sxy=47.5, srgb=3.75, compat=5.25)


def tune(*argv: object) -> int:
    return cli.run(["tune-crf", *map(str, argv)])


class Colours:
    """Stands in for a network: every pixel is of the class whose colour it has, most of the time.

    Attributes: `noise` of the logits, and how many images it has predicted, `calls`.
    """

    def __init__(self, noise: float) -> None:
        self.noise, self.calls, self._lock = noise, 0, threading.Lock()

    def __call__(self, images: np.ndarray, what: str) -> np.ndarray:
        with self._lock:
            self.calls += len(images)
        return np.stack([self.softmax(image) for image in images])

    def softmax(self, image: np.ndarray) -> np.ndarray:
        """float32 [H, W, 3]; the noise belongs to the image and is the same every time."""
        rng = np.random.default_rng(int(image.sum()))
        distance = np.abs(image[:, :, None].astype(np.float32) - np.float32(PALETTE.colors)).sum(-1)
        logits = -distance / 100 + rng.normal(0, self.noise, distance.shape)
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        return (odds / odds.sum(-1, keepdims=True)).astype(np.float32)


class Smoothing:
    """Stands in for the CRF: averages over neighbours, the more the nearer the parameters are to PLANTED."""

    def __init__(self) -> None:
        self.calls, self._lock = 0, threading.Lock()

    def __call__(self, image: np.ndarray, probabilities: np.ndarray, options: CrfOptions) -> np.ndarray:
        assert image.shape[:2] == probabilities.shape[:2] and probabilities.dtype == np.float32
        with self._lock:
            self.calls += 1
        away = abs(options.sxy - PLANTED.sxy) / 70 + sum(
            abs(getattr(options, name) - getattr(PLANTED, name)) / 3 for name in ("srgb", "compat")
        )
        return cv2.GaussianBlur(probabilities, (0, 0), 2 / (1 + away))


def weights_file(content: bytes = b"weights") -> bytes:
    """A whole archive, as a Keras file is one, in which there are no arrays."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(zipfile.ZipInfo("model.weights.h5"), content)
    return data.getvalue()


def write_model(folder: Path, weights: bytes | None = None, **card: object) -> Path:
    """A model folder whose weights nobody can load."""
    save_card(str(folder), ModelCard({"num_classes": PALETTE.num_classes, "head": "bilinear"}, PALETTE, **card))
    (folder / WEIGHTS).write_bytes(weights_file() if weights is None else weights)
    return folder


def write_records(folder: Path, images: int = 12) -> Dataset:
    """Records of one split, val, in two shards."""
    parts = [[records.record(number, SIZE) for number in range(start, images, 2)] for start in (0, 1)]
    return records.write_records(folder, {"val": parts})


def some_tuning(**changes: object) -> Tuning:
    """A result with a gain, of 40 images and one reject."""
    reject = {"key": "k", "path": "p", "stage": "tune-crf", "reason": "damaged", "records": 1}
    tuning = Tuning(
        options=CrfOptions(sxy=40, srgb=4, compat=3.5),
        metric="trimap",
        trimap_width=4,
        before=0.5,
        after=0.6,
        gain=Gain(0.1, 0.08, 0.12),
        per_class={"sky": Change(0.5, 0.6, Gain(0.1, 0.09, 0.11)), "ghost": Change(None, None)},
        grid=({"compat": 3.5, "sxy": 40.0, "srgb": 4.0, "score": 0.61},),
        split="val",
        images=41,
        rejects=(reject,),
        model_digest="d",
        records_fingerprint="f",
    )
    return dataclasses.replace(tuning, **changes)
