"""deeplab prepare: a raw set of pictures and labels -> sharded, augmented TFRecords with a dataset.json.

On this machine, with all its cores:

    deeplab prepare --input data/camvid --output out/records --copies 2 --shards 8

On Dataflow; only the plan goes through the service, each worker reads and writes its own shards:

    deeplab prepare --input gs://BUCKET/camvid --output gs://BUCKET/records --copies 2 --shards 256 \\
        --runner DataflowRunner --project PROJECT --region us-central1 --temp_location gs://BUCKET/tmp \\
        --sdk_container_image IMAGE

Stop it at any moment and run it again: shards that are finished are kept, and the bytes come out the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
import cv2
from apache_beam.metrics import Metrics

from pipelines.inputs import coding, rawset
from pipelines.inputs.options import LAYOUTS
from pipelines.inputs.rawset import Pair, RawSet
from pipelines.prepare import shards
from pipelines.prepare.shards import Planned, RecordOptions, Spec
from pipelines.runner import run as runner
from pipelines.runner.run import Heartbeat
from trainer import storage
from trainer.formats import records
from trainer.formats.palettes import Palette
from trainer.formats.records import Dataset, Reject
from trainer.options import InputError, option, parse_known, to_json

SHARD_BYTES = 128 * 1024 * 1024
SHARD_RECORDS = 1000
REJECTS_FILE = "rejects.jsonl"


@dataclasses.dataclass(frozen=True)
class PrepareOptions(RecordOptions):
    """Options of `deeplab prepare`; any option of Apache Beam can be added."""

    input: str = option(help="folder of the raw set, or its manifest; local or gs://")
    output: str = option(help="folder for the records; local or gs://")
    layout: str = option("auto", "how the raw set is laid out", choices=LAYOUTS)
    palette: str = option("auto", "class set: auto, voc, camvid, cityscapes, cityscapes-trainids or a JSON file")
    copies: int = option(0, "augmented copies of every picture, besides the picture itself")
    augment_splits: tuple[str, ...] = option(("train",), "splits that get augmented copies")
    shards: int = option(
        0, "shards of the largest split; others get a share by their records. 0: about 1000 records or 128 MB each"
    )
    val_fraction: float = option(0.1, "share of pictures for validation where the set has no splits of its own")
    max_reject_rate: float = option(0.01, "exit with status 1 when a larger share of the records was rejected")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.copies < 0:
            raise InputError(f"--copies must be 0 or more, got {self.copies}")
        if not 0 <= self.shards <= 99999:
            raise InputError(f"--shards must be 0 (automatic) to 99999, got {self.shards}")
        if not 0 <= self.max_reject_rate <= 1:
            raise InputError(f"--max-reject-rate must be 0 to 1, got {self.max_reject_rate}")
        if not self.output or not self.input:
            raise InputError("--input and --output must not be empty")


class WriteShard(beam.DoFn):
    """Spec of a shard -> the shard and its sidecar in the output folder; gives back the number of records."""

    def __init__(self, folder: str, palette: Palette, options: RecordOptions, heartbeat: Heartbeat) -> None:
        self._folder, self._palette, self._options, self._heartbeat = folder, palette, options, heartbeat
        self._written = Metrics.counter("prepare", "records")
        self._rejected = Metrics.counter("prepare", "rejects")

    def setup(self) -> None:
        cv2.setNumThreads(1)  # the workers are the parallelism

    def process(self, spec: Spec) -> Iterator[int]:
        entries = shards.read_plan(self._folder, spec.name)
        shard, rejects = shards.write_shard(
            self._folder, spec, entries, self._palette, self._options, self._heartbeat.beat
        )
        self._written.inc(shard.records)
        self._rejected.inc(len(rejects))
        yield shard.records


def plan(raw: RawSet, palette: Palette, options: PrepareOptions, folder: str) -> dict[str, tuple[list[Pair], list]]:
    """The shards of every split: {split: (its pairs, [Planned, ...])}."""
    by_split: dict[str, list[Pair]] = {}
    for pair in raw.pairs:
        by_split.setdefault(pair.split, []).append(pair)
    for split in by_split:
        if not re.fullmatch(r"[\w-]+", split):
            raise InputError(f"{folder}: a split is named {split!r}; expected letters, digits, '_' and '-' only")
    copies = {split: options.copies if split in options.augment_splits else 0 for split in by_split}
    totals = {split: len(pairs) * (copies[split] + 1) for split, pairs in by_split.items()}
    largest = max(totals.values(), default=1)
    planned = {}
    for split, pairs in sorted(by_split.items()):
        if options.shards:
            count = max(1, round(options.shards * totals[split] / largest))
        else:
            size = sum(pair.size for pair in pairs) * (copies[split] + 1)
            count = max(math.ceil(totals[split] / SHARD_RECORDS), math.ceil(size / SHARD_BYTES))
        count = min(count, totals[split])
        planned[split] = pairs, shards.plan_split(pairs, split, count, copies[split], options, palette, folder)
    return planned


def unfinished(folder: str, planned: list[Planned]) -> list[Planned]:
    """The shards that are not there yet in the form that was planned."""
    sizes = {file.relative: file.size for file in _files(folder)}

    def is_finished(item: Planned) -> bool:
        sidecar = f"shards/{item.spec.name}.json" in sizes and shards.read_sidecar(folder, item.spec.name)
        if not sidecar or sidecar[0].fingerprint != item.spec.fingerprint:
            return False
        return not sidecar[0].records or sizes.get(item.spec.name) == sidecar[0].bytes

    with ThreadPoolExecutor(16) as pool:
        finished = list(pool.map(is_finished, planned))
    return [item for item, done in zip(planned, finished, strict=True) if not done]


def _files(folder: str) -> list[storage.File]:
    try:
        return storage.files(folder)
    except FileNotFoundError:
        return []


def _clear_the_way(folder: str, todo: list[Planned]) -> None:
    """Removes what would describe the shards about to be written wrongly if the run were stopped."""
    there = {file.relative for file in _files(folder)}
    stale = [f"shards/{item.spec.name}.json" for item in todo] + [records.DATASET_FILE]
    for name in stale:
        if name in there:
            storage.remove(storage.join(folder, *name.split("/")))


def _sweep(folder: str, names: set[str]) -> int:
    """Removes plans, what a killed run left, and shards of earlier runs with other counts; returns how many shards."""
    old = 0
    for file in _files(folder):
        below, _, base = file.relative.rpartition("/")
        leftover = base.startswith(".") and base.endswith(".tmp")
        name = base[1:].rsplit(".", 2)[0] if leftover else base
        is_plan = name.startswith("plan-") and name.endswith(".jsonl")
        name = name.removeprefix("plan-").removesuffix(".jsonl") if is_plan else name.removesuffix(".json")
        if below not in ("", "shards") or not records.SHARD_PATTERN.fullmatch(name):
            continue
        if leftover or is_plan or name not in names:
            storage.remove(file.path)
            old += not leftover and base == name
    return old


def collect(folder: str, planned: list[Planned], raw: RawSet) -> tuple[list[records.Shard], list[Reject]]:
    """Shards that hold records, in order of name, and all rejects, one per file."""
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda item: shards.read_sidecar(folder, item.spec.name), planned))
    merged: dict[tuple[str, str, str], Reject] = {}
    made: list[records.Shard] = []
    for item, sidecar in zip(planned, told, strict=True):
        if sidecar is None or sidecar[0].records + len(sidecar[1]) != item.spec.records:
            raise InputError(f"{folder}: shard {item.spec.name} is not complete after the job; run the command again")
        made += [sidecar[0]] if sidecar[0].records else []
        for reject in sidecar[1]:
            same = (reject.key, reject.path, reject.reason)
            before = merged[same].records if same in merged else 0
            merged[same] = dataclasses.replace(reject, records=before + reject.records)
    rejects = sorted([*raw.rejects, *merged.values()], key=lambda reject: (reject.key, reject.path))
    return sorted(made, key=lambda shard: shard.name), rejects


def finish(folder: str, planned: list[Planned], raw: RawSet, palette: Palette, options: PrepareOptions) -> int:
    """Writes rejects.jsonl and dataset.json, checks the accounts and says them; returns the exit status."""
    made, rejects = collect(folder, planned, raw)
    lines = [json.dumps(dataclasses.asdict(reject), ensure_ascii=False, sort_keys=True) for reject in rejects]
    storage.write(storage.join(folder, REJECTS_FILE), "".join(line + "\n" for line in lines).encode())
    removed = _sweep(folder, {shard.name for shard in made} | {item.spec.name for item in planned})
    if removed:
        print(f"removed {removed} shard{'s' * (removed != 1)} of an earlier run that are not of this set")
    lost = sum(reject.records for reject in rejects)
    written, total = sum(shard.records for shard in made), sum(item.spec.records for item in planned)
    at_scan = sum(reject.records for reject in raw.rejects)
    if written + lost != total + at_scan:
        raise AssertionError((written, lost, total, at_scan))
    for reject in rejects[:5]:
        print(f"rejected {reject.path}: {reject.reason}")
    if len(rejects) > 5:
        print(f"... and {len(rejects) - 5} more, see {storage.join(folder, REJECTS_FILE)}")
    if not made:
        print(f"none of {len(raw.pairs)} pictures could be used; no {records.DATASET_FILE} was written")
        return 1
    digest = hashlib.md5(json.dumps([[shard.name, shard.crc32c] for shard in made]).encode())
    dataset = Dataset(
        palette=palette,
        shards=tuple(made),
        options=to_json(options),
        fingerprint=digest.hexdigest(),
        max_side=options.max_side,
        rejected=lost,
    )
    records.save_dataset(folder, dataset)
    empty = {item.spec.split for item in planned} - set(dataset.splits)
    for split in sorted(empty):
        print(f"split {split} is left out: all its pictures were rejected")
    for split in dataset.splits:
        print(f"  {split}: {_accounts(dataset, (split,))}")
    print(f"{_accounts(dataset, dataset.splits)}, {lost} rejected; written to {folder}")
    rate = lost / (total + at_scan)
    if rate > options.max_reject_rate:
        print(
            f"{rate:.1%} of the records were rejected, more than --max-reject-rate {options.max_reject_rate:.1%}; "
            f"the reasons are in {storage.join(folder, REJECTS_FILE)}"
        )
        return 1
    return 0


def _accounts(dataset: Dataset, splits: tuple[str, ...]) -> str:
    pictures = sum(dataset.pictures(split) for split in splits)
    total = sum(dataset.count(split) for split in splits)
    count = sum(len(dataset.of_split(split)) for split in splits)
    return f"{pictures} pictures + {total - pictures} copies = {total} records in {count} shard{'s' * (count != 1)}"


def _absolute(path: str) -> str:
    return path if storage.is_remote(path) else os.path.abspath(path)


def main(argv: list[str]) -> int:
    """Runs `deeplab prepare`."""
    options, rest = parse_known(
        PrepareOptions,
        argv,
        prog="deeplab prepare",
        description="Turn a raw set of pictures and labels into sharded TFRecords.",
        epilog="Any option of Apache Beam can be added, such as --direct_num_workers 4 or --runner DataflowRunner.",
    )
    beam_options = runner.beam_options(rest)
    source, folder = _absolute(options.input), _absolute(options.output)
    if source.rstrip("/") == folder.rstrip("/"):
        raise InputError(f"--output {options.output} is the input folder; give a folder of its own")
    raw = rawset.scan(source, options.layout, options.val_fraction)
    palette, saw = coding.detect_palette(raw, options.palette)
    print(f"{raw.summary}\n{saw}", flush=True)

    by_split = plan(raw, palette, options, raw.root)
    planned = [item for _, items in by_split.values() for item in items]
    todo = unfinished(folder, planned)
    if len(todo) < len(planned):
        print(f"{len(planned) - len(todo)} of {len(planned)} shards are finished already and kept", flush=True)
    if todo:
        _clear_the_way(folder, todo)
        for item in todo:
            shards.write_plan(folder, item, by_split[item.spec.split][0], raw.root)
        # Shards of one split lie together in the plan and cost alike; workers get them mixed.
        specs = sorted((item.spec for item in todo), key=lambda spec: hashlib.md5(spec.name.encode()).digest())

        def build(pipeline: beam.Pipeline, heartbeat: Heartbeat) -> None:
            write = WriteShard(folder, palette, options, heartbeat)
            pipeline | "Plan" >> beam.Create(specs) | beam.Reshuffle() | "Write shards" >> beam.ParDo(write)

        total = sum(spec.records for spec in specs)
        if not runner.run(build, beam_options, total=total, unit="records", title="prepare"):
            return 0
    return finish(folder, planned, raw, palette, options)
