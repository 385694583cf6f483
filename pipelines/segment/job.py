"""What one worker does in `deeplab segment`: take a chunk of the plan, write its masks, count.

Everything in here must pickle, and importing it must not import TensorFlow.
"""

from __future__ import annotations

import functools
import json
import operator
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
import cv2
import numpy as np

from pipelines.crf.refine import ENGINES, CrfOptions
from pipelines.inputs.images import Picture
from pipelines.masks import segmenter as masks
from pipelines.masks.stamps import has_stamp, stamp
from pipelines.runner import run as runner
from trainer import storage
from trainer.formats import images
from trainer.formats.palettes import Palette
from trainer.formats.records import Reject
from trainer.options import InputError, option

PLAN = "pictures.jsonl"
PLACES = {"masks": ("", ".png"), "overlays": ("overlays/", ".jpg"), "confidence": ("confidence/", ".png")}
"""Folder and suffix of what is written for a picture."""


def _crf_option(name: str, meaning: str) -> Any:
    return option(None, f"CRF: {meaning} (default: crf.json's, or {getattr(CrfOptions, name):g})")


@dataclass(frozen=True)
class SegmentOptions:
    """Options of `deeplab segment`."""

    input: str = option(
        help="folder of pictures (with all below it), a glob in quotes, or a .txt, .csv or .jsonl list"
    )
    model: str = option(help="model folder, from `deeplab train` or `deeplab import-weights`")
    output: str = option(help="folder for the masks")
    crf: str = option(
        "off",
        "refine the masks with a dense CRF; auto: where `deeplab tune-crf` found that it gains something",
        choices=("off", "on", "auto"),
        bare="on",
    )
    crf_iterations: int | None = _crf_option("iterations", "mean-field iterations")
    crf_sxy: float | None = _crf_option("sxy", "how far colours attract, in pixels")
    crf_srgb: float | None = _crf_option("srgb", "how unlike colours may be, in grey levels")
    crf_compat: float | None = _crf_option("compat", "weight of like colours")
    crf_sxy_gaussian: float | None = _crf_option("sxy_gaussian", "how far specks are smoothed, in pixels")
    crf_compat_gaussian: float | None = _crf_option("compat_gaussian", "weight of smoothing")
    crf_engine: str = option("native", "CRF: this project's engine, or the published one", choices=ENGINES)
    crf_workers: int = option(0, "CRF: pictures refined side by side in every worker, 0 for one per core")
    overlays: bool = option(False, "also write pictures with their classes painted over, to overlays/")
    confidence: bool = option(False, "also write the probability of the chosen class, 0-255, to confidence/")
    batch_size: int = option(8, "most pictures in one pass of the network (on a CPU only small ones share a pass)")
    max_side: int | None = option(
        None, "shrink the longest side to this many pixels for the network, 0 for never (default: what the model says)"
    )
    max_pixels: int = option(
        1 << 24, "reject pictures of more pixels than this at the network; 21 classes cost about 300 bytes a pixel"
    )
    max_reject_rate: float = option(0.01, "share of rejected pictures above which the exit status is 1")
    overwrite: bool = option(False, "write every mask anew, also over those of another model or other options")

    def __post_init__(self):
        for name, least in (("crf_workers", 0), ("batch_size", 1), ("max_side", 0), ("max_pixels", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} must be {least} or more, got {value}")
        if not 0 <= self.max_reject_rate <= 1:
            raise InputError(f"--max-reject-rate must be between 0 and 1, got {self.max_reject_rate}")
        self.crf_options(CrfOptions())

    def crf_options(self, otherwise: CrfOptions) -> CrfOptions:
        """The CRF's parameters: those given as flags, the others as in `otherwise`. InputError for impossible ones."""
        given = {name: getattr(self, f"crf_{name}") for name in CrfOptions.__dataclass_fields__}
        return replace(otherwise, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Job:
    """What a worker must know, in a form that pickles.

    Attributes: the options; the model's palette; `max_side` in force; `model_digest` of the weights; `fingerprint` of
    all that masks depend on; `processes` that share a machine locally; parameters of the `crf`, None for none.
    """

    options: SegmentOptions
    palette: Palette
    max_side: int
    model_digest: str
    fingerprint: str
    processes: int
    crf: CrfOptions | None

    def path(self, kind: str, name: str) -> str:
        """Where the mask ("masks"), overlay ("overlays") or confidence map ("confidence") of a picture lies."""
        folder, suffix = PLACES[kind]
        return storage.join(self.options.output, *storage.safe_relative(f"{folder}{name}{suffix}").split("/"))

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is written for every picture."""
        asked = {"overlays": self.options.overlays, "confidence": self.options.confidence}
        return ("masks", *(kind for kind, wanted in asked.items() if wanted))


@dataclass(frozen=True)
class Tally:
    """Counts of a part of the job; parts are added up.

    Attributes: pictures `written` and `skipped`; `rejects`; pixels and pictures of every class, in palette order.
    """

    written: int = 0
    skipped: int = 0
    rejects: tuple[Reject, ...] = ()
    class_pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    class_pictures: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @staticmethod
    def of(ids: np.ndarray, **counts: int) -> Tally:
        pixels = np.bincount(ids.ravel(), minlength=256)
        return Tally(class_pixels=pixels, class_pictures=(pixels > 0).astype(np.int64), **counts)


def add_up(tallies: Iterable[Tally]) -> Tally:
    return functools.reduce(operator.add, tallies, Tally())


@functools.lru_cache(maxsize=1)
def _plan(path: str, digest: str) -> list[bytes]:
    """Lines of the plan, one per chunk; read once per process. `digest` tells plans of one path apart."""
    return storage.read(path).splitlines()


class SegmentChunk(beam.DoFn):
    """Chunk number -> Tally; the masks are written on the way. Repeating a chunk writes the same bytes."""

    def __init__(self, job: Job, plan_digest: str, heartbeat: runner.Heartbeat):
        self._job = job
        self._plan_digest = plan_digest
        self._heartbeat = heartbeat

    def setup(self) -> None:
        # Beam's threads already keep every core busy.
        cv2.setNumThreads(1)

    def process(self, number: int) -> Iterator[Tally]:
        plan = _plan(storage.join(self._job.options.output, PLAN), self._plan_digest)
        entries = [(Picture(**entry["picture"]), entry["done"]) for entry in json.loads(plan[number])]
        tallies: list[Tally] = []
        todo = []
        for picture, done in entries:
            known = self._known(picture) if done else None
            if known is None:
                todo.append(picture)
            else:
                self._count(tallies, known)
        if todo:
            # Loaded here rather than in setup: where every mask is there, TensorFlow is not needed.
            for result in self._segmenter()(self._load(todo, tallies)):
                self._write(result)
                self._count(tallies, Tally.of(result.ids, written=1))
        yield add_up(tallies)

    def _segmenter(self) -> masks.Segmenter:
        job, options = self._job, self._job.options
        cores = max(1, len(os.sched_getaffinity(0)) // job.processes)
        return masks.shared_segmenter(
            options.model,
            job.model_digest,
            cores if job.processes > 1 else 0,
            batch_size=options.batch_size,
            max_side=job.max_side,
            crf=job.crf,
            crf_engine=options.crf_engine,
            crf_workers=options.crf_workers or cores,
            confidence=options.confidence,
        )

    def _known(self, picture: Picture) -> Tally | None:
        """Counts of a mask that is there and whole; None when it has to be made."""
        try:
            png = storage.read(self._job.path("masks", picture.name))
            if has_stamp(png, self._job.fingerprint):
                return Tally.of(images.decode_label(png), skipped=1)
        except (OSError, images.ImageError):
            pass
        return None

    def _load(self, todo: list[Picture], tallies: list[Tally]) -> Iterator[tuple[Picture, np.ndarray]]:
        for picture in todo:
            try:
                data = storage.read(picture.path)
                self._check_size(images.header(data))
                yield picture, images.decode_image(data)
            except FileNotFoundError:
                self._reject(tallies, picture, "there is no such file")
            except (images.ImageError, OSError) as error:
                self._reject(tallies, picture, str(error))

    def _check_size(self, header: images.Header) -> None:
        height, width = masks.network_size(*header.upright_size, self._job.max_side)
        bound = self._job.options.max_pixels
        if height * width > bound:
            raise images.ImageError(
                f"{width}x{height} is {height * width:,} pixels, over the bound of {bound:,} for one pass of the "
                "network; give --max-side to shrink it, or raise --max-pixels if memory allows"
            )

    def _reject(self, tallies: list[Tally], picture: Picture, reason: str) -> None:
        self._count(tallies, Tally(rejects=(Reject(picture.name, picture.path, "segment", reason),)))

    def _count(self, tallies: list[Tally], tally: Tally) -> None:
        tallies.append(tally)
        self._heartbeat.beat(1)

    def _write(self, result: masks.Segmented) -> None:
        job, name = self._job, result.key.name
        if result.confidence is not None:
            storage.write(job.path("confidence", name), images.encode_png(result.confidence))
        if job.options.overlays:
            overlay = job.palette.overlay(result.image, result.ids)
            storage.write(job.path("overlays", name), images.encode_jpeg(overlay, quality=90))
        # The mask comes last: where it is, the others are.
        storage.write(job.path("masks", name), stamp(job.palette.encode_mask(result.ids), job.fingerprint))
