"""The size of the whole job, and the parts of it to try, determined from its options without running it."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.inputs import collection
from pipelines.inputs.coding import recognise
from pipelines.inputs.pairs import Pair
from pipelines.inputs.rawset import scan
from pipelines.inputs.selection import load as load_selection
from pipelines.inputs.tiling import TILED, grids_of, tiles_in
from pipelines.plan.estimate import Trial, Work
from pipelines.runner import chunks
from trainer import startup, storage
from trainer.formats import exports, images
from trainer.formats.dataset import Dataset, check_split, load_dataset, save_dataset, shuffle_hash
from trainer.network import windows
from trainer.options import InputError, as_words, non_defaults

LISTED = 1000  # names in an answer of Cloud Storage to a listing
SPLITS = ("train", "val")
"""The splits that a training reads."""
FEW = 5
"""Ratio of the sizes of the two trials."""


@dataclass(frozen=True)
class Part:
    """A trial to run: the parameters of `trial.run`.

    Attributes:
      names: pairs (path of the trial, the job's path that it stands for), longer paths before their beginnings.
    """

    arguments: tuple[str, ...]
    output: str
    items: int
    rounds: int = 0
    whole: int = 0
    names: tuple[tuple[str, str], ...] = ()

    def of_the_job(self, message: str) -> str:
        """A message of the trial, with the job's paths; those of the trial are gone when it is read."""
        return functools.reduce(lambda text, pair: text.replace(*pair), self.names, message)


@dataclass(frozen=True)
class Study:
    """The whole job and its trials.

    Attributes:
      parts: the trials, in order.
      work: the whole job, without its `written` and `flops`, which are known only when the trials have run.
      network: the computation of an item: arguments of the network, height and width of an image, and the equivalent
        number of forward passes; None without a network.
    """

    parts: tuple[Part, ...]
    work: Work
    network: tuple[dict[str, Any], int, int, float] | None = None


def written(study: Study, trials: Sequence[Trial]) -> int:
    """Size of the whole output, in bytes; that of a training does not grow with its steps."""
    if study.work.rounds:
        return max(trial.written for trial in trials)
    small, large = trials
    each = (large.written - small.written) / (large.items - small.items)
    return round(large.written + each * (study.work.items - large.items))


def chosen(total: int, sample: int) -> tuple[list[int], list[int]]:
    """Indices of the items in the smaller and the larger trial, drawn at random, sorted. Needs two items."""
    large = sorted(random.Random(0).sample(range(total), min(sample, total)))
    return large[::FEW][: max(1, len(large) // FEW)], large


def of_prepare(options: Any, folder: str, sample: int, cores: int, flags: Sequence[str]) -> Study:
    """A job of `deeplab prepare`.

    Args:
      options: its options.
      folder: a local folder for the trials.
      sample: number of images in the larger trial.
      cores: the number of cores of this machine.
      flags: Beam's flags for the trials.
    """
    start = time.monotonic()
    raw = scan(storage.absolute(options.input), options.layout, options.val_fraction, options.group_by)
    grids = grids_of(raw.pairs, options.tile, options.max_side, options.max_pixels)
    listing = time.monotonic() - start
    palette = os.path.join(folder, "palette.json")
    # Of all labels, as in the job: those of a trial may be read otherwise, or be refused.
    known, _, coding, _ = recognise(raw, options.palette, options.label_coding)
    storage.write_json(palette, known.to_json())
    _check_enough(len(raw.pairs), options.input)
    images: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for pair in raw.pairs:
        images[pair.split] += 1
        sources[pair.split] += len(tiles_in(grids, pair.key))
        sizes[pair.split] += pair.size
    options.check_augmented(images, raw.root)
    records = Counter({split: count * options.versions(split) for split, count in sources.items()})
    # No more shards than keep all workers busy: each takes time, and those of the whole job are large.
    same = {"layout": "auto", "palette": palette, "label_coding": coding, "group_by": ""}
    tried = replace(options, **same, max_reject_rate=1.0, shards=cores)
    few, many = chosen(len(raw.pairs), sample)
    parts = [
        _part_of_prepare(
            tried, [raw.pairs[number] for number in numbers], os.path.join(folder, name), records.total(), flags
        )
        for name, numbers in (("few", few), ("many", many))
    ]
    shards = shards_of(raw.pairs, images, records, sizes, options)
    work = Work(
        items=len(raw.pairs),
        rounds=0,
        unit="images",
        images=len(raw.pairs),
        read=sizes.total(),
        written=0,
        parts=shards,
        reads=2 * len(raw.pairs) + 2 * len(raw.pairs) // LISTED + 4 * shards + bool(options.tile) * images[TILED],
        writes=4 * shards,
        listing=listing,
        is_shared=True,
    )
    return Study(tuple(parts), work)


def _part_of_prepare(options: Any, pairs: Sequence[Pair], output: str, records: int, flags: Sequence[str]) -> Part:
    """The trial of some images, whose manifest this writes beside `output`; `records` are those of the whole job."""
    manifest = f"{output}.jsonl"
    lines = [json.dumps({"image": pair.image, "label": pair.label, "split": pair.split}) for pair in pairs]
    storage.write(manifest, "\n".join(lines).encode())
    here = {pair.split for pair in pairs}
    augmented = tuple(split for split in options.augment_splits if split in here)
    augment = {"augment_splits": augmented} if augmented else {"augment_splits": ("train",), "copies": 0}
    names = ((manifest, options.input), (output, options.output))
    options = replace(options, input=manifest, output=output, **augment)
    return Part(("prepare", *as_words(non_defaults(options)), *flags), output, len(pairs), whole=records, names=names)


def shards_of(
    pairs: Sequence[Pair],
    images: Mapping[str, int],
    records: Mapping[str, int],
    sizes: Mapping[str, int],
    options: Any,
) -> int:
    """The number of shards that `deeplab prepare` writes, without those to which the hash deals no record.

    Args:
      images, records, sizes: by split, the number of images and of planned records, and the bytes of the images.
    """
    largest, dealt = max(records.values()), {}
    for split, count in records.items():
        if options.shards:
            number = chunks.shards_of_split(options.shards, count, largest)
        else:
            number = chunks.shards(count, sizes[split] * options.versions(split))
        dealt[split] = np.zeros(min(number, images[split]), bool)
    for pair in pairs:
        filled = dealt[pair.split]
        filled[shuffle_hash(options.seed, pair.key, 0) % len(filled)] = True
    return sum(int(filled.sum()) for filled in dealt.values())


def of_segment(options: Any, folder: str, sample: int, cores: int, flags: Sequence[str]) -> Study:
    """A job of `deeplab segment`; arguments as in `of_prepare`."""
    start = time.monotonic()
    sources = collection.find(options.input, options.output).images
    if selection := load_selection(options.records, options.split, options.list):
        choice = selection.choose([image.path for image in sources])
        sources = collection.Images(itertools.compress(sources, choice.taken))
    listing = time.monotonic() - start
    _check_enough(len(sources), options.input)
    parts = []
    same = {"records": "", "list": "", "split": "", "max_reject_rate": 1.0, "model": storage.absolute(options.model)}
    for name, numbers in zip(("few", "many"), chosen(len(sources), sample), strict=True):
        paths, output = [storage.absolute(sources[number].path) for number in numbers], os.path.join(folder, name)
        lines = [json.dumps({"image": path}) for path in paths]
        storage.write(f"{output}.jsonl", "\n".join(lines).encode())
        trial_options = replace(options, input=f"{output}.jsonl", output=output, **same)
        names = ((f"{output}.jsonl", options.input), (output, options.output))
        parts.append(
            Part(("segment", *as_words(non_defaults(trial_options)), *flags), output, len(paths), names=names)
        )
    card = exports.load_card(options.model)
    side = card.max_side if options.max_side is None else options.max_side
    read, height, width = _mean_sizes(paths, side, options.max_pixels)
    kinds = options.masks + options.overlays + options.confidence
    size = chunks.images_per_chunk(len(sources), options.batch_size)
    cut = chunks.chunks_of_images((source.name for source in sources), size)
    work = Work(
        items=len(sources),
        rounds=0,
        unit="images",
        images=len(sources),
        read=round(read * len(sources)),
        written=0,
        parts=cut,
        reads=len(sources) + len(sources) // LISTED + 3 * cut,
        writes=kinds * len(sources) + 2 * cut,
        listing=listing,
    )
    passes = options.views.passes * windows.passes(height, width, options.window) if height else 0.0
    network = (card.architecture, height, width, passes) if height else None
    return Study(tuple(parts), work, network)


def _mean_sizes(paths: Sequence[str], side: int, max_pixels: int) -> tuple[float, int, int]:
    """The mean size of image files, in bytes; and the mean height and width of what the network sees of them, or 0.

    Args:
      side, max_pixels: the bounds on the longest side, to which images are shrunk, and on the pixels after that.
    """
    read, sizes = 0, []
    for path in paths:
        try:
            data = storage.read(path)
            read += len(data)
            shrunk = images.shrunk_size(*images.header(data).upright_size, side)
        except (OSError, images.ImageError):  # a reject of the trial, as of the job
            continue
        sizes += [shrunk] * (shrunk[0] * shrunk[1] <= max_pixels)
    sizes = sizes or [(0, 0)]
    height, width = (round(sum(size[axis] for size in sizes) / len(sizes)) for axis in (0, 1))
    return read / len(paths), height, width


def of_train(options: Any, folder: str, sample: int, cores: int, flags: Sequence[str]) -> Study:
    """A job of `deeplab train`, which is tried with a quarter of `sample` steps."""
    if options.hosts > 1:
        raise InputError(
            f"--hosts {options.hosts}: a plan tries the training on this machine alone; omit --hosts, --host-id and "
            "--coordinator to plan it for one machine"
        )
    dataset = load_dataset(options.records)
    for split in SPLITS:  # in the trials' records there is no other
        check_split(options.records, dataset, split)
    records = os.path.join(folder, "records")
    # One without a pixel of any class would be refused, though the split has some.
    by_use = {split: sorted(dataset.of_split(split), key=lambda one: not any(one.class_pixels)) for split in SPLITS}
    shards = [shard for split in SPLITS for shard in by_use[split][:1]]
    _copy(options.records, replace(dataset, shards=tuple(shards)), records)
    many = max(FEW, sample // 4)
    few = max(2, many // FEW)
    parts = []
    for name, count, epochs in (("few", few, 1), ("many", many, 1), ("twice", few, 2)):
        output = os.path.join(folder, name)
        trial_options = replace(options, records=records, output=output, steps_per_epoch=count, epochs=epochs)
        words = ("train", *as_words(non_defaults(trial_options)), *flags)
        names = ((records, options.records), (output, options.output))
        parts.append(Part(words, output, count * epochs, epochs, names=names))
    # In the trials an epoch validates on one shard, in the job on all of them.
    looked = sum(shard.records for shard in shards if shard.split == "val")
    rounds = options.epochs * dataset.count("val") / max(1, looked)
    size = sum(shard.bytes for shard in dataset.shards)
    startup.check_backend()
    startup.start_tensorflow()  # which plans of other jobs do without
    from trainer.train.epoch import steps_per_epoch
    from trainer.train.model import architecture

    network = (architecture(options, dataset.palette), options.crop, options.crop, 3.0 * options.batch_size)
    work = Work(
        items=steps_per_epoch(options, dataset) * options.epochs,
        rounds=rounds,
        unit="steps",
        images=dataset.images("train"),
        read=size,
        written=0,
        parts=0,
        reads=len(dataset.shards) * options.epochs,
        writes=10 * options.epochs,
        listing=0.0,
    )
    return Study(tuple(parts), work, network)


def _copy(records: str, dataset: Dataset, folder: str) -> None:
    """Copies the shards of `dataset`, which are in `records`, and writes its dataset.json."""
    for shard in dataset.shards:
        with (
            storage.reader(storage.join(records, shard.name)) as source,
            storage.writer(os.path.join(folder, shard.name)) as copy,
        ):
            shutil.copyfileobj(source, copy, 1 << 20)
    save_dataset(folder, dataset)


def _check_enough(count: int, source: str) -> None:
    if count < 2 * FEW:
        raise InputError(
            f"{source} has {count} images; a job of fewer than {2 * FEW} is not worth planning; just run it"
        )
