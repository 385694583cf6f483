"""The Beam side of `deeplab segment`: numbers of chunks in; masks, segment.json and rejects.jsonl out.

Images never pass from one step to another: an element is the number of a chunk of the plan, and one DoFn reads,
predicts, refines, encodes and writes. Importing this must not import TensorFlow: workers that find all their masks
finished do without.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import apache_beam as beam
import numpy as np

from pipelines.crf.options import CrfOptions
from pipelines.inputs.collection import SourceImage
from pipelines.masks.segmenter import Segmented, Segmenter, shared_segmenter
from pipelines.masks.stamps import has_stamp, stamp
from pipelines.runner.cores import cores
from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work, spread
from pipelines.segment.options import Options
from pipelines.segment.plan import PLAN_FILE, STAGE, place, read_chunk
from pipelines.segment.tally import SegmentTally, add_up, publish
from trainer import storage
from trainer.accounts import Reject
from trainer.formats import images
from trainer.formats.labels import Palette


@dataclass(frozen=True)
class SegmentJob:
    """What a worker must know.

    Attributes:
      options: of the command.
      palette: the model's.
      max_side: bound in force on the longest side of what the network sees, in pixels; 0 for none.
      model_digest: SHA-256 of the model's weights.
      fingerprint: of all that masks depend on.
      cores: that a worker process has to itself; 0 where it has its machine to itself.
      crf: parameters of the CRF, None for no CRF.
    """

    options: Options
    palette: Palette
    max_side: int
    model_digest: str
    fingerprint: str
    cores: int
    crf: CrfOptions | None

    def segmenter(self) -> Segmenter:
        """The one Segmenter of this process."""
        options = self.options
        return shared_segmenter(
            options.model,
            self.model_digest,
            self.cores,
            batch_size=options.batch_size,
            max_side=self.max_side,
            crf=self.crf,
            crf_engine=options.crf_engine,
            crf_workers=options.crf_workers or self.cores or cores(),
            confidence=options.confidence,
        )

    def finished(self, source: SourceImage) -> np.ndarray | None:
        """The image's mask, uint8 [H, W] class ids, if it is whole and of this job; otherwise None."""
        try:
            png = storage.read(place(self.options.output, "masks", source.name))
            return images.decode_label(png) if has_stamp(png, self.fingerprint) else None
        except (OSError, images.ImageError):
            return None

    def load(self, source: SourceImage) -> np.ndarray:
        """The image, uint8 [H, W, 3] RGB. Raises OSError, or ImageError for what cannot be used."""
        data = storage.read(source.path)
        height, width = images.shrunk_size(*images.header(data).upright_size, self.max_side)
        bound = self.options.max_pixels
        if height * width > bound:
            raise images.ImageError(
                f"{width}x{height} is {height * width:,} pixels, over the bound of {bound:,} for one pass of the "
                "network; give --max-side to shrink it, or raise --max-pixels if memory allows"
            )
        return images.decode_image(data)

    def write(self, result: Segmented) -> None:
        """Writes the mask of the SourceImage `result.key`, and what else the options name."""
        folder, name = self.options.output, result.key.name
        if result.confidence is not None:
            storage.write(place(folder, "confidence", name), images.encode_png(result.confidence))
        if self.options.overlays:
            overlay = self.palette.overlay(result.image, result.ids)
            storage.write(place(folder, "overlays", name), images.encode_jpeg(overlay, quality=90))
        # The mask comes last: where it is, the others are.
        png = stamp(self.palette.encode_mask(result.ids), self.fingerprint)
        storage.write(place(folder, "masks", name), png)


@functools.lru_cache(maxsize=1)
def _plan(path: str, digest: str) -> list[bytes]:
    """Lines of the plan, one per chunk; read once per process. `digest` tells plans of one path apart."""
    return storage.read(path).splitlines()


@dataclass(eq=False)
class SegmentChunk(Work):
    """Chunk number -> SegmentTally; the masks are written on the way. Repeating a chunk writes the same bytes.

    Attributes:
      job: model and options.
      plan_digest: of the file of the plan.
    """

    stage: ClassVar[str] = STAGE
    job: SegmentJob
    plan_digest: str

    def process(self, number: int) -> Iterator[SegmentTally]:
        lines = _plan(storage.join(self.job.options.output, PLAN_FILE), self.plan_digest)
        tallies: list[SegmentTally] = []
        todo = []
        for entry in read_chunk(lines[number]):
            ids = self.job.finished(entry.source) if entry.done else None
            if ids is None:
                todo.append(entry.source)
            else:
                tallies.append(SegmentTally.of(ids, skipped=1))
                self.finish("skipped")
        if todo:
            # Made here rather than in setup: where every mask is finished, TensorFlow is not needed.
            for result in self.job.segmenter()(self._load(todo, tallies)):
                self.job.write(result)
                tallies.append(SegmentTally.of(result.ids, written=1))
                self.finish("written")
        yield add_up(tallies)

    def _load(self, todo: list[SourceImage], tallies: list[SegmentTally]) -> Iterator[tuple[SourceImage, np.ndarray]]:
        """The images with what they are of; those that cannot be used go into `tallies` instead."""
        for source in todo:
            try:
                yield source, self.job.load(source)
            except (images.ImageError, OSError) as error:
                reason = "file not found" if isinstance(error, FileNotFoundError) else str(error)
                tallies.append(SegmentTally(rejects=(Reject(source.name, source.path, STAGE, reason),)))
                self.finish("rejected")


def build(
    pipeline: beam.Pipeline,
    heartbeat: Heartbeat,
    *,
    job: SegmentJob,
    chunks: int,
    plan_digest: str,
    unplaced: SegmentTally,
    started: dict[str, Any],
) -> None:
    """Builds the job; its progress is counted in images.

    Its last step publishes the results, so that they are complete also when nobody waits for the job.

    Args:
      chunks: how many lines the file of the plan has.
      unplaced: the images of the plan that are in no chunk.
      started: segment.json as it was written before.
    """
    output, palette = job.options.output, job.palette
    _ = (
        spread(pipeline, range(chunks), "chunks")
        | "Segment chunks" >> beam.ParDo(SegmentChunk(heartbeat, job, plan_digest))
        | "Sum tallies" >> beam.CombineGlobally(add_up)
        | "Write report" >> beam.Map(lambda tally: publish(unplaced + tally, output, palette, started))
    )
