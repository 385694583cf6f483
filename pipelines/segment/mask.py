"""Segments a single image: checks whether its mask is finished, loads the image, and writes its files.

Does not use Beam, nor TensorFlow until the first mask has to be made.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pipelines.inputs.collection import SourceImage
from pipelines.masks.certainty import Certainty
from pipelines.masks.segmenter import Segmented, Segmenter, Unsegmented, shared_segmenter
from pipelines.masks.stamps import Stamp, fingerprint, read_stamp, stamp_jpeg, stamp_png
from pipelines.runner.isolation import Failed
from pipelines.runner.steps import step
from pipelines.segment import table
from pipelines.segment.existing import signature
from pipelines.segment.memory import Budget
from pipelines.segment.options import Options
from pipelines.segment.plan import Entry, kinds, place
from pipelines.segment.table import Row
from trainer import prefetch, storage
from trainer.attempts import attempt
from trainer.formats import images, label_images
from trainer.formats.cards import CARD, ModelCard
from trainer.formats.exports import load_card
from trainer.formats.labels import Palette
from trainer.formats.options import CrfOptions
from trainer.limits import cores
from trainer.network.options import bytes_per_pixel
from trainer.options import InputError


class Occupied(ValueError):
    """A file that this program did not write is in the way. The message names it and the cure."""


@dataclass(frozen=True)
class Loaded:
    """An image that is being segmented, without its pixels.

    Attributes:
      source: the image.
      identity: `storage.identity` of the bytes that were read.
      memory: bytes that a large image takes; 0 for a small one.
      signature: the signature of the file before it was read, see `Row.files`.
      begin: when reading began, in seconds of `time.monotonic`.
    """

    source: SourceImage
    identity: str
    memory: int = 0
    signature: str = ""
    begin: float = 0.0


@dataclass(frozen=True)
class SegmentJob:
    """The parameters of a segmentation, sent to the workers.

    Attributes:
      options: the options of the command.
      palette: the palette of the model.
      max_side: longest side of the images that the network sees, in pixels; 0 for no limit.
      model_digest: SHA-256 of the model's weights.
      fingerprint: a digest of everything that masks depend on, except the image.
      cores: the number of cores that a worker process may use; 0 if it has its machine to itself.
      crf: parameters of the CRF, None for no CRF.
      network_bytes: memory of the network per pixel, see `trainer.network.options.bytes_per_pixel`.
      unstamped: whether overlays and confidence maps without a stamp may be from this program: version 0.2 stamped
        only masks.
    """

    options: Options
    palette: Palette
    max_side: int
    model_digest: str
    fingerprint: str
    cores: int
    crf: CrfOptions | None
    network_bytes: int = bytes_per_pixel({})
    unstamped: bool = False

    def segmenter(self) -> Segmenter:
        """The Segmenter that this process shares. Raises InputError if the model has changed since the plan."""
        options = self.options
        segmenter = shared_segmenter(
            options.model,
            self.model_digest,
            self.cores,
            batch_size=options.batch_size,
            max_side=self.max_side,
            views=options.views,
            window=options.window,
            crf=self.crf,
            crf_engine=options.crf_engine,
            crf_workers=options.crf_workers or self.cores or cores(),
            confidence=options.confidence,
        )
        # Loading compares the weights, but a network of another stride makes other masks with the same weights.
        card = load_card(options.model)
        if made_by(options, self.model_digest, card, self.max_side, self.crf) != self.fingerprint:
            raise InputError(
                f"{CARD} in {options.model} was replaced while this command was running; finished masks are kept: run "
                "it again, and write nothing into the model's folder in the meantime"
            )
        return segmenter

    @property
    def budget(self) -> Budget:
        return Budget(
            self.options, self.palette.num_classes, self.crf is not None, self.max_side, self.network_bytes, self.cores
        )

    def refreshed(self, entry: Entry, again: bool) -> Entry:
        """The entry with the output files that exist now.

        Since the plan was made, a runner may have tried the chunk, or somebody may have created a file.

        Args:
          entry: an image of the plan.
          again: whether the chunk was tried before. Only then are objects looked up, which takes a request each.
        """
        wanted = kinds(self.options)
        is_known = not again or all(kind in entry.existing for kind in wanted)
        if self.options.overwrite or (is_known and storage.is_remote(self.options.output)):
            return entry
        files = ((kind, _signature(place(self.options.output, kind, entry.source.name))) for kind in wanted)
        return Entry(entry.source, {kind: seen for kind, seen in files if seen})

    def finished(self, entry: Entry, row: Row | None) -> Row | None:
        """The image's row if all its files were made by this job from the image as it is now; else None.

        Files with the same signature as in the row are not read again, except images that may have changed.

        Args:
          row: the row of the image, from the table; None if it has none.

        Raises:
          Occupied: one of the files was not written by this program.
          OSError: one of them, or the image, cannot be read.
        """
        source, wanted = entry.source, kinds(self.options)
        if self.options.overwrite:
            return None
        is_unchanged = row and all(entry.existing.get(kind, "") == row.files.get(kind) for kind in wanted)
        if is_unchanged and self._is_same(source, row):
            return self._with_signatures(row, entry)
        files = {kind: self._existing(kind, source.name) for kind in entry.existing}
        stamps = {read_stamp(file) for file in files.values() if file is not None}
        if None in files.values() or set(files) != set(wanted) or "masks" not in files or len(stamps) != 1:
            return None
        (stamp,) = stamps
        if stamp is None or stamp.fingerprint != self.fingerprint or stamp.identity != self._identity(source):
            return None
        try:
            ids = label_images.decode_label(files["masks"])
        except images.ImageError:
            return None
        row = row if row and row.identity == stamp.identity else None
        size = (row.height, row.width) if row else ids.shape
        if ids.ndim != 2 or ids.shape != size or int(ids.max()) >= self.palette.num_classes:
            path = place(self.options.output, "masks", source.name)
            raise Occupied(
                f"{path} is in the way: it was changed since this program wrote it; move it, or give --overwrite"
            )
        if not all(_is_whole(file, ids.shape) for kind, file in files.items() if kind != "masks"):
            return None
        if row:
            # Counted again: whoever corrected the mask may have kept the stamp.
            return replace(self._with_signatures(row, entry), pixels=table.pixels_of(ids, self.palette))
        certainty = read_stamp(files["masks"]).certainty
        return self._row(Loaded(source, stamp.identity), ids, certainty, None, entry.existing)

    def _with_signatures(self, row: Row, entry: Entry) -> Row:
        """The row of a finished image, with the current signatures of its files."""
        files = {kind: entry.existing[kind] for kind in kinds(self.options)}
        return replace(
            row, path=table.text(entry.source.path), files={"image": _image_signature(entry.source), **files}
        )

    def _row(
        self,
        key: Loaded,
        ids: np.ndarray,
        certainty: Certainty | None,
        seconds: float | None,
        files: Mapping[str, str],
    ) -> Row:
        height, width = ids.shape
        return Row(
            key=key.source.name,
            path=table.text(key.source.path),
            identity=key.identity,
            width=width,
            height=height,
            pixels=table.pixels_of(ids, self.palette),
            certainty=certainty,
            seconds=seconds,
            files={"image": key.signature or _image_signature(key.source), **files},
        )

    def _existing(self, kind: str, name: str) -> bytes | None:
        """The existing file of that kind; None if there is none. Raises Occupied if this program did not write it."""
        path = place(self.options.output, kind, name)
        try:
            file = storage.read(path)
        except FileNotFoundError:
            return None
        # An empty file may be replaced: a power failure can leave one.
        if file and read_stamp(file) is None and not (self.unstamped and kind != "masks"):
            raise Occupied(f"{path} is in the way: this program did not write it; move it, or give --overwrite")
        return file

    @staticmethod
    def _identity(source: SourceImage) -> str:
        return source.identity or storage.identity(storage.read(source.path))

    def _is_same(self, source: SourceImage, row: Row) -> bool:
        """Whether the image still has the contents that the row describes."""
        seen = "" if source.identity else _image_signature(source)
        return (bool(seen) and seen == row.files.get("image")) or self._identity(source) == row.identity

    def load(self, source: SourceImage, read: prefetch.Read = storage.read) -> tuple[Loaded, np.ndarray]:
        """Loads the image, uint8 [H, W, 3] RGB. Raises OSError, or ImageError if it cannot be used."""
        begin, seen = time.monotonic(), _image_signature(source)
        with step("read"):
            data = read(source.path)
        if read_stamp(data):
            raise images.ImageError(
                "is an output of `deeplab segment` (a mask, overlay or confidence map); expected an image: keep "
                "outputs outside --input, or name the images by a glob or a list"
            )
        needed = self.budget.check(*images.header(data).upright_size)
        with step("decode"):
            image = images.decode_image(data)
        return Loaded(source, storage.identity(data), needed, seen, begin), image

    def write(self, result: Segmented | Unsegmented) -> Row:
        """Writes the mask of the `Loaded` image `result.key`, and the other files asked for; returns its row.

        Raises Failed if the image could not be segmented.
        """
        if isinstance(result, Unsegmented):
            raise Failed(result.reason)
        key, options = result.key, self.options
        stamp = Stamp(self.fingerprint, key.identity, result.certainty)
        files = {}
        if options.confidence:
            with step("encode"):
                png = stamp_png(images.encode_png(result.confidence), stamp)
            files["confidence"] = self._put("confidence", key, png)
        if options.overlays:
            with step("encode"):
                painted = self.palette.overlay(result.image, result.ids)
                jpeg = stamp_jpeg(images.encode_jpeg(painted, quality=90), stamp)
            files["overlays"] = self._put("overlays", key, jpeg)
        if options.masks:  # the mask is written last: if it exists, the others do
            with step("encode"):
                png = stamp_png(self.palette.encode_mask(result.ids), stamp)
            files["masks"] = self._put("masks", key, png)
        seconds = round(time.monotonic() - key.begin, 3)
        return self._row(key, result.ids, result.certainty, seconds, files)

    def _put(self, kind: str, key: Loaded, data: bytes) -> str:
        """Writes a file of that kind; returns its signature, see `existing.signature`."""
        path = place(self.options.output, kind, key.source.name)
        storage.write(path, data)
        return storage.identity(data) if storage.is_remote(path) else _signature(path)


def _is_whole(file: bytes, size: tuple[int, int]) -> bool:
    """Whether an overlay or a confidence map can be decoded, and has that height and width.

    Its stamp, which is at the beginning, is still there if the file was cut off.
    """
    try:
        return images.decode_image(file).shape[:2] == size
    except images.ImageError:
        return False


def _signature(path: str) -> str:
    """The signature of the file at `path`, see `existing.signature`; "" if it does not exist."""
    try:
        if storage.is_remote(path):
            return storage.identity(storage.read(path))
        info = attempt(path, lambda: os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return signature(info.st_size, info.st_mtime_ns, is_object=False)


def _image_signature(source: SourceImage) -> str:
    """The signature of an image, or its identity where that is known; "" if the file does not exist.

    It includes the ctime, which nobody can set, so it changes whenever the contents do.
    """
    if source.identity or storage.is_remote(source.path):
        return source.identity
    with contextlib.suppress(OSError):
        info = os.stat(source.path)
        return f"{info.st_dev}-{info.st_ino}-{info.st_size}-{info.st_mtime_ns}-{info.st_ctime_ns}"
    return ""


def made_by(options: Options, digest: str, card: ModelCard, max_side: int, crf: CrfOptions | None) -> str:
    """The fingerprint of the masks that a model makes with these options."""
    return fingerprint(digest, card, max_side, crf, options.crf_engine, options.views, options.window)


def alone(job: SegmentJob, source: SourceImage) -> Row:
    """Makes the mask of one image; for a subprocess, which the image may crash."""
    # The parent process may hold all memory of the GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    (result,) = job.segmenter()([job.load(source)])
    return job.write(result)
