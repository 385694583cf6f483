"""The Beam job of `deeplab prepare`: from specs of shards to shards and their sidecars in the output folder."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import apache_beam as beam

from pipelines.entries.options import RecordOptions
from pipelines.prepare import shards, workarea
from pipelines.prepare.plan import Spec
from pipelines.prepare.workarea import Outcome
from pipelines.runner.progress import Heartbeat
from pipelines.runner.work import Work, distribute
from trainer import prefetch, storage
from trainer.formats.labels import Palette


@dataclass(eq=False)
class WriteShard(Work):
    """Writes the shard of a spec, and its sidecar; a repetition writes the same bytes.

    Finished shards are skipped, since runners repeat whole bundles when they lose a worker. To Cloud Storage a shard
    goes while the records of the next one are made.

    Attributes:
      folder: the output folder, whose work area holds the entries of the shard.
      palette: the palette of the raw set.
      options: the options of the records.
      threads: number of threads of a process that make records, which share the last of its shards.
    """

    stage: ClassVar[str] = "prepare"
    folder: str
    palette: Palette
    options: RecordOptions
    threads: int = 1

    def start_bundle(self) -> None:
        self._written: Callable[[], object] = _nothing

    def process(self, spec: Spec) -> None:
        with ThreadPoolExecutor(2) as pool:
            finished = pool.submit(shards.is_finished, self.folder, spec)
            entries = pool.submit(workarea.read_plan, self.folder, spec.name, spec.plan)
            with workarea.notes(self.folder).watch(spec.name) as recovery:
                planned = entries.result()
                if finished.result():
                    self.count("kept", spec.records)
                    return
                write = shards.make_shard(
                    self.folder, spec, planned, self.palette, self.options, self.finish, recovery, self.threads
                )
                # While the note is removed: no image can end the process any more.
                self.finish_bundle()
                self._written = prefetch.ahead(self.folder, functools.partial(self._write, write))
        if not storage.is_remote(self.folder):
            self.finish_bundle()

    def finish_bundle(self) -> None:
        """Waits for the shard that is being written, before the runner takes it as done."""
        written, self._written = self._written, _nothing
        written()

    def _write(self, write: Callable[[], Outcome]) -> None:
        workarea.write_sidecar(self.folder, write())


def _nothing() -> None:
    pass


def build(
    pipeline: beam.Pipeline,
    heartbeat: Heartbeat,
    *,
    specs: Iterable[Spec],
    folder: str,
    palette: Palette,
    options: RecordOptions,
    threads: int,
) -> None:
    """Builds the job; its progress is counted in records."""
    # Shuffled, since in the plan the shards of a split, whose costs are alike, are adjacent.
    mixed = sorted(specs, key=lambda spec: hashlib.md5(spec.name.encode()).digest())
    write = WriteShard(heartbeat, folder, palette, options, threads)
    _ = distribute(pipeline, mixed, "shards") | "Write shards" >> beam.ParDo(write)
