"""Runs the verbs of `deeplab records` and prints their results."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from pipelines.records import diff, lookup
from pipelines.records import repair as repairs
from pipelines.records.export import export
from pipelines.records.options import Diff, Export, Ls, Repair, Reshard, Show, Stats, Verify
from pipelines.records.reshard import reshard
from pipelines.records.target import Target, check_apart
from pipelines.records.verify import verify
from trainer import leases, storage
from trainer.accounts import EXAMPLES, counted, percent
from trainer.formats import images
from trainer.formats.dataset import DATASET_FILE, Dataset, load_dataset, maker, unchanged
from trainer.formats.labels import Palette
from trainer.formats.runs import pixels_of_ids
from trainer.limits import cores
from trainer.options import CheckedOptions, InputError
from trainer.terminal import printable

BAR_WIDTH = 30  # characters


def run(options: CheckedOptions, flags: list[str]) -> int:
    """Runs the verb that the options belong to; returns its exit status."""
    verbs = {
        Ls: run_ls,
        Show: run_show,
        Verify: run_verify,
        Stats: run_stats,
        Export: run_export,
        Repair: run_repair,
        Reshard: run_reshard,
        Diff: run_diff,
    }
    return verbs[type(options)](options, load_dataset(options.records))


def run_ls(options: Ls, dataset: Dataset) -> int:
    """Prints a table of the shards."""
    width = max(len(shard.name) for shard in dataset.shards)
    split_width = max(5, *(len(split) for split in dataset.splits))
    print(f"{'shard':<{width}}  {'split':<{split_width}}  {'records':>9}  {'images':>9}  {'bytes':>15}")
    rows = [(shard.name, shard.split, shard.records, shard.images, shard.bytes) for shard in dataset.shards]
    total = (f"{len(rows)} in all", "", *(sum(row[column] for row in rows) for column in (2, 3, 4)))
    for name, split, count, originals, size in [*rows, total]:
        print(f"{name:<{width}}  {split:<{split_width}}  {count:>9,}  {originals:>9,}  {size:>15,}")
    palette = dataset.palette
    print(f"palette {palette.name}: {palette.num_classes} classes, {palette.ignore_id} is ignored")
    print(f"rejected records: {dataset.rejected}; fingerprint {dataset.fingerprint}")
    return 0


def run_show(options: Show, dataset: Dataset) -> int:
    """Prints one record, and saves its files if there is a folder for them."""
    name, is_key = options.key or options.record, bool(options.key)
    with unchanged(options.records, dataset):
        shard, frame, record = lookup.find_record(options.records, dataset, name, options.copy, is_key)
    image, label = lookup.decode_pair(record, dataset.palette)
    kind = f"augmented copy {record.copy}" if record.copy else "the image itself"
    colors = {1: "grey", 3: "RGB"}.get(record.channels, f"{record.channels} channels")
    print(f"key       {printable(record.key)} ({kind})")
    print(f"file      {printable(record.filename)}")
    print(f"where     {shard.name}, record {frame.index}, at byte {frame.offset}, {len(frame.data):,} bytes")
    print(f"image     {record.image_format}, {record.width} x {record.height}, {colors}, {len(record.image):,} bytes")
    pixels = pixels_of_ids(label)
    print(f"label     png, {len(record.label):,} bytes, {np.count_nonzero(pixels)} different ids")
    _print_classes(pixels, dataset.palette, skip_absent=True)
    if options.save:
        stem = lookup.file_stem(record).replace("/", "_")
        suffix = lookup.SUFFIXES.get(record.image_format, ".bin")
        files = {
            f"{stem}{suffix}": record.image,
            f"{stem}-label.png": dataset.palette.encode_mask(label),
            f"{stem}-overlay.png": images.encode_png(dataset.palette.overlay(image, label)),
        }
        target = Target.of(options.save, dataset)
        target.check(files)
        target.refuse(target.others(files), options.overwrite)
        for name, data in files.items():
            target.write(name, data)
            print(f"wrote     {printable(target.path(name))}")
    return 0


def run_stats(options: Stats, dataset: Dataset) -> int:
    """Prints the class histogram and the sizes of every split."""
    for split in dataset.splits:
        shards = dataset.of_split(split)
        size, count = sum(shard.bytes for shard in shards), dataset.count(split)
        low = [min(shard.min_size[side] for shard in shards) for side in (0, 1)]
        high = [max(shard.max_size[side] for shard in shards) for side in (0, 1)]
        # The narrowest image need not be the lowest one.
        height, width = (
            f"{least}-{most}" if least < most else f"{most}" for least, most in zip(low, high, strict=True)
        )
        print(
            f"{split}: {counted(count, 'record')} ({counted(dataset.images(split), 'image')}), {counted(size, 'byte')}"
        )
        print(f"  {width} x {height} pixels, {size / count:,.0f} bytes a record")
        pixels = np.zeros(256, np.int64)
        pixels[: dataset.palette.num_classes], pixels[dataset.palette.ignore_id] = dataset.pixels(split)
        _print_classes(pixels, dataset.palette)
    return 0


def run_verify(options: Verify, dataset: Dataset) -> int:
    """Prints all faults; the status is 1 if there are any."""
    if options.delete:
        leases.acquire(options.records, "records verify --delete")
        dataset = load_dataset(options.records)  # another command may have changed it meanwhile
    with unchanged(options.records, dataset), _at_work("verify", dataset) as (pool, beat):
        faults, shards, accounts = verify(options.records, dataset, pool, beat)
        owner = leases.writer(options.records) if faults else ""
    for fault in faults:
        print(printable(fault))
    counts = " + ".join(f"{count:,} {name}" for name, count in accounts.outputs.items())
    print(f"{counted(accounts.inputs, 'record')} = {counts}")
    if not faults:
        print(f"{options.records}: every checksum and every record of {counted(len(dataset.shards), 'shard')} is good")
        return 0
    print(f"{options.records}: {counted(len(faults), 'fault')}")
    if owner:  # such as `records repair`, which writes dataset.json after the shards
        raise InputError(f"{owner}, which may be mending them; {leases.ONCE_ENDED}")
    if shards and not options.delete:
        command = f"deeplab records verify {shlex.quote(options.records)} --delete"
        again = f"the same {maker(options.records)} then writes them again"
        print(f"`{command}` deletes the shards that have faults; {again}")
    elif shards:
        for name in shards:
            storage.discard(storage.join(options.records, name))
        print(f"deleted: {', '.join(shards)}; run the same {maker(options.records)} again to write them")
    return 1


def run_export(options: Export, dataset: Dataset) -> int:
    """Prints the number of images written; the status is 1 if some could not be written."""
    leases.acquire(options.output, "records export")
    with unchanged(options.records, dataset), _at_work("export", dataset) as (pool, beat):
        accounts, others = export(options, dataset, pool, beat)
    print(accounts.line())
    for reject in accounts.rejects:
        print(printable(f"rejected: {reject.path}: {reject.reason}"))
    print(f"{counted(accounts.outputs['exported'], 'image')} with labels written to {options.output}")
    if others:
        print(
            printable(
                f"warning: {options.output} also holds files that are not of these records ({len(others):,}, such as "
                f"{others[0]}), which `deeplab prepare` would take; remove them, or give another folder"
            )
        )
    return 1 if accounts.rejects else 0


def run_repair(options: Repair, dataset: Dataset) -> int:
    """Prints the damaged records and their repair; the status is 1 if something is left to do."""
    folder = options.records
    leases.acquire(folder, "records repair")
    if repairs.has_begun(folder):
        with lookup.undisturbed(folder):
            repairs.finish(folder)
        print("finished a repair that was begun earlier")
    dataset = load_dataset(folder)  # another command may have changed it before the lease was free
    before = storage.read(storage.join(folder, DATASET_FILE))
    with _at_work("repair", dataset) as (pool, beat):
        repair = repairs.plan(folder, dataset, pool, beat)
    for fault in repair.faults:
        print(printable(fault))
    if not repair.faults:
        print(f"{folder}: every record of {counted(len(dataset.shards), 'shard')} is good; there is nothing to repair")
        return 0
    print(repair.accounts.line())
    for reject in repair.rejects:
        print(printable(f"cannot be made again: {reject.place}: {reject.reason}"))
    if repair.rejects and not options.drop:
        print(
            f"nothing was changed: `deeplab records verify {shlex.quote(folder)} --delete` and the same "
            f"{maker(folder)} write these shards again, and --drop leaves out the records"
        )
        return 1
    with lookup.undisturbed(folder):
        repairs.begin(folder, repair, before)
        after = repairs.finish(folder)
    with _at_work("verify", after) as (pool, beat):
        faults = verify(folder, after, pool, beat).faults
    for fault in faults:
        print(printable(f"not a fault of single records, left as it is: {fault}"))
    records, shards = sum(shard.records for shard in after.shards), len(after.shards)
    print(
        f"{counted(records, 'record')} in {counted(shards, 'shard')}; fingerprint {after.fingerprint}, was "
        f"{dataset.fingerprint}"
    )
    return 1 if faults else 0


def run_reshard(options: Reshard, dataset: Dataset) -> int:
    """Prints the number of shards that the records were written to."""
    check_apart(options.output, options.records)
    leases.acquire(options.output, "records reshard")
    with (
        unchanged(options.records, dataset),
        _at_work("reshard", dataset) as (pool, beat),
        lookup.undisturbed(options.output),
    ):
        new = reshard(options, dataset, pool, beat)
    records = counted(sum(shard.records for shard in new.shards), "record")
    print(f"{records} of {counted(len(dataset.shards), 'shard')} written to {len(new.shards)} in {options.output}")
    return 0


def run_diff(options: Diff, dataset: Dataset) -> int:
    """Prints the differences; the status is 1 if there are any."""
    other = load_dataset(options.other)
    differences, contents = list(diff.of_datasets(dataset, other)), []
    for folder, side in ((options.records, dataset), (options.other, other)):
        with unchanged(folder, side), _at_work("diff", side) as (pool, beat):
            contents.append(diff.contained(folder, side, pool, beat))
    by_kind: dict[str, list[str]] = {}
    for kind, name in diff.of_records(*contents):
        by_kind.setdefault(kind, []).append(name)
    for kind, names in by_kind.items():
        more = f" and {len(names) - EXAMPLES:,} more" if len(names) > EXAMPLES else ""
        differences.append(f"{counted(len(names), 'record')} {kind}: {', '.join(names[:EXAMPLES])}{more}")
    for line in differences:
        print(printable(line))
    if not differences:
        print(f"{counted(len(contents[0]), 'record')}, the same in {options.records} and {options.other}")
    return 1 if differences else 0


@contextlib.contextmanager
def _at_work(title: str, dataset: Dataset) -> Iterator[tuple[Executor, Callable[[], object]]]:
    """Yields a pool of threads, and a function that they call after every record, to show progress.

    If the block ends with an exception, such as Ctrl-C, the threads end at once, as a shard may take minutes.
    """
    total, is_over = sum(shard.records for shard in dataset.shards), threading.Event()
    with (
        tqdm(total=total, unit=" records", desc=title, disable=None) as bar,
        ThreadPoolExecutor(cores()) as pool,
    ):

        def beat() -> None:
            if is_over.is_set():
                raise CancelledError
            bar.update()

        try:
            yield pool, beat
        except BaseException:
            is_over.set()
            raise


def _print_classes(pixels: np.ndarray, palette: Palette, skip_absent: bool = False) -> None:
    """Prints a bar for each class; its share is of all pixels, its length relative to the largest class.

    Args:
      pixels: int64 [256], pixels of every id.
      skip_absent: whether to leave out classes without pixels.
    """
    rows = [*enumerate(palette.names), (palette.ignore_id, "(ignored)")]
    width = max(len(name) for _, name in rows)
    total, most = max(1, int(pixels.sum())), max(1, int(pixels.max()))
    for number, name in rows:
        count = int(pixels[number])
        if count or not skip_absent:
            bar = "█" * -(-BAR_WIDTH * count // most)
            print(f"  {number:>3} {name:<{width}}  {count:>15,}  {percent(count / total, 1):>5}%  {bar}".rstrip())
