"""The Beam side of `deeplab prepare`: names of shards in, shards and their sidecars in the output folder out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import apache_beam as beam

from pipelines.entries.options import RecordOptions
from pipelines.prepare import shards, workarea
from pipelines.prepare.plan import Spec
from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work, distribute
from trainer.formats.labels import Palette


@dataclass(eq=False)
class WriteShard(Work):
    """Spec of a shard -> the shard and its sidecar; writing it again gives the same bytes.

    Runners try again what they lost sight of, with much that was done: what is finished is not written a second time.

    Attributes:
      folder: of the records, whose work area holds the shard's entries.
      palette: of the raw set's labels.
      options: what the records hold.
    """

    stage: ClassVar[str] = "prepare"
    folder: str
    palette: Palette
    options: RecordOptions

    def process(self, spec: Spec) -> None:
        with ThreadPoolExecutor(1) as pool:
            finished = pool.submit(shards.is_finished, self.folder, spec)
            entries = workarea.read_plan(self.folder, spec.name, spec.plan)
        if finished.result():
            self.count("kept", spec.records)
            return
        shards.write_shard(self.folder, spec, entries, self.palette, self.options, self.finish)


def build(
    pipeline: beam.Pipeline,
    heartbeat: Heartbeat,
    *,
    specs: Iterable[Spec],
    folder: str,
    palette: Palette,
    options: RecordOptions,
) -> None:
    """Builds the job; its progress is counted in records."""
    # Shards of one split lie together in the plan and cost alike; workers get them mixed.
    mixed = sorted(specs, key=lambda spec: hashlib.md5(spec.name.encode()).digest())
    write = WriteShard(heartbeat, folder, palette, options)
    _ = distribute(pipeline, mixed, "shards") | "Write shards" >> beam.ParDo(write)
