"""deeplab records: look into a folder of records.

    deeplab records ls out/records                                    shards with their counts
    deeplab records show out/records --record train/a --save out/a    one record, and its pictures as files
    deeplab records verify out/records                                every checksum and every record
    deeplab records stats out/records                                 how much there is of each class
    deeplab records export out/records out/raw                        back to pictures, labels and palette.json

`verify` ends with status 1 when it finds anything wrong.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from pipelines.records.verify import verify
from trainer import storage
from trainer.formats import images, records
from trainer.formats.palettes import Palette
from trainer.formats.records import Dataset, Frame, Record, Shard
from trainer.options import InputError, option, parse

SUFFIXES = {"jpeg": ".jpg", "jpg": ".jpg", "png": ".png"}
BAR_WIDTH = 30  # characters


@dataclasses.dataclass(frozen=True)
class FolderOptions:
    """Options of `ls`, `verify` and `stats`."""

    records: str = option(help="folder that `deeplab prepare` wrote; local or gs://", positional=True)


@dataclasses.dataclass(frozen=True)
class ShowOptions:
    """Options of `show`."""

    records: str = option(help="folder that `deeplab prepare` wrote; local or gs://", positional=True)
    record: str = option("0", "which: its key, or its number in the order of the shards, from 0", metavar="KEY|N")
    copy: int = option(0, "with a key: which augmented copy; 0 is the picture itself")
    save: str = option("", "folder for the picture, its label and an overlay")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of `export`."""

    records: str = option(help="folder that `deeplab prepare` wrote; local or gs://", positional=True)
    output: str = option(help="folder for images/SPLIT, labels/SPLIT and palette.json", positional=True)
    originals: bool = option(False, "leave augmented copies out")


def read_shard(folder: str, shard: Shard) -> Iterator[tuple[Frame, Record]]:
    """Every record of a shard. Raises InputError when the shard is missing or damaged."""
    advice = f"`deeplab records verify {folder}` tells more"
    path = storage.join(folder, shard.name)
    if not storage.exists(path):
        raise InputError(f"shard {shard.name} is missing in {folder}; {advice}")
    with open(storage.localize(path), "rb") as file:
        for found in records.scan_frames(file):
            if isinstance(found, records.CorruptRecord):
                raise InputError(f"{shard.name}: {found}; {advice}")
            try:
                record = records.decode(found.data)
            except ValueError as error:
                raise InputError(f"{shard.name}: record {found.index}: {error}; {advice}") from None
            yield found, record


def ls(argv: list[str]) -> int:
    """Prints a table of the shards."""
    folder = parse(FolderOptions, argv, prog="deeplab records ls", description="List the shards.").records
    dataset = records.load_dataset(folder)
    width = max(len(shard.name) for shard in dataset.shards)
    split_width = max(5, *(len(split) for split in dataset.splits))
    print(f"{'shard':<{width}}  {'split':<{split_width}}  {'records':>9}  {'pictures':>9}  {'bytes':>15}")
    rows = [(shard.name, shard.split, shard.records, shard.pictures, shard.bytes) for shard in dataset.shards]
    total = (f"{len(rows)} in all", "", *(sum(row[column] for row in rows) for column in (2, 3, 4)))
    for name, split, count, pictures, size in [*rows, total]:
        print(f"{name:<{width}}  {split:<{split_width}}  {count:>9,}  {pictures:>9,}  {size:>15,}")
    palette = dataset.palette
    print(f"palette {palette.name}: {palette.num_classes} classes, {palette.ignore_id} is ignored")
    print(f"rejected records: {dataset.rejected}; fingerprint {dataset.fingerprint}")
    return 0


def _find(folder: str, dataset: Dataset, wanted: str, copy: int) -> tuple[Shard, Frame, Record]:
    """The record of that number, or of that key and copy."""
    total = sum(shard.records for shard in dataset.shards)
    number = int(wanted) if wanted.isdecimal() and int(wanted) < total else None
    for shard in dataset.shards:
        if number is not None and number >= shard.records:
            number -= shard.records
            continue
        for frame, record in read_shard(folder, shard):
            if frame.index == number if number is not None else (record.key, record.copy) == (wanted, copy):
                return shard, frame, record
    raise InputError(
        f"{folder} has no record {wanted!r}{f' copy {copy}' if copy else ''}; "
        f"expected a key such as {_first_key(folder, dataset)!r}, or a number from 0 to {total - 1}"
    )


def _first_key(folder: str, dataset: Dataset) -> str:
    return next(record.key for _, record in read_shard(folder, dataset.shards[0]))


def _decoded(record: Record, palette: Palette) -> tuple[np.ndarray, np.ndarray]:
    try:
        image = images.decode_image(record.image)
        return image, palette.check_ids(images.decode_label(record.label))
    except ValueError as error:  # ImageError, LabelError
        raise InputError(f"record {record.key}: {error}") from None


def show(argv: list[str]) -> int:
    """Prints one record, and saves its pictures if asked to."""
    options = parse(ShowOptions, argv, prog="deeplab records show", description="Show one record.")
    dataset = records.load_dataset(options.records)
    shard, frame, record = _find(options.records, dataset, options.record, options.copy)
    image, label = _decoded(record, dataset.palette)
    kind = f"augmented copy {record.copy}" if record.copy else "the picture itself"
    colors = {1: "grey", 3: "RGB"}.get(record.channels, f"{record.channels} channels")
    print(f"key       {record.key} ({kind})")
    print(f"file      {record.filename}")
    print(f"where     {shard.name}, record {frame.index}, at byte {frame.offset}, {len(frame.data):,} bytes")
    print(f"picture   {record.image_format}, {record.width} x {record.height}, {colors}, {len(record.image):,} bytes")
    print(f"label     png, {len(record.label):,} bytes, {len(np.unique(label))} different ids")
    _print_classes(np.bincount(label.ravel(), minlength=256), dataset.palette, skip_absent=True)
    if options.save:
        stem = storage.safe_relative(_file_stem(record.key, record.copy)).replace("/", "_")
        suffix = SUFFIXES.get(record.image_format, ".bin")
        for name, data in (
            (f"{stem}{suffix}", record.image),
            (f"{stem}-label.png", dataset.palette.encode_mask(label)),
            (f"{stem}-overlay.png", images.encode_png(dataset.palette.overlay(image, label))),
        ):
            path = storage.join(options.save, name)
            storage.write(path, data)
            print(f"wrote     {path}")
    return 0


def stats(argv: list[str]) -> int:
    """Prints the class histogram and the sizes, from dataset.json alone."""
    folder = parse(FolderOptions, argv, prog="deeplab records stats", description="Classes and sizes.").records
    dataset = records.load_dataset(folder)
    for split in dataset.splits:
        shards = dataset.of_split(split)
        size, count = sum(shard.bytes for shard in shards), dataset.count(split)
        low = [min(shard.min_size[side] for shard in shards) for side in (0, 1)]
        high = [max(shard.max_size[side] for shard in shards) for side in (0, 1)]
        spread = "" if low == high else f" to {high[1]} x {high[0]}"
        print(f"{split}: {count:,} records ({dataset.pictures(split):,} pictures), {size:,} bytes")
        print(f"  {low[1]} x {low[0]}{spread} pixels, {size / count:,.0f} bytes a record")
        pixels = np.zeros(256, np.int64)
        for shard in shards:
            pixels[: dataset.palette.num_classes] += np.array(shard.class_pixels, np.int64)
            pixels[dataset.palette.ignore_id] += shard.ignored_pixels
        _print_classes(pixels, dataset.palette)
    return 0


def _print_classes(pixels: np.ndarray, palette: Palette, skip_absent: bool = False) -> None:
    """Prints a bar per class; `pixels` is [256] by id. Shares are of all pixels, bars relative to the largest."""
    rows = [*enumerate(palette.names), (palette.ignore_id, "(ignored)")]
    width = max(len(name) for _, name in rows)
    total, most = max(1, int(pixels.sum())), max(1, int(pixels.max()))
    for number, name in rows:
        count = int(pixels[number])
        if count or not skip_absent:
            bar = "█" * -(-BAR_WIDTH * count // most)
            print(f"  {number:>3} {name:<{width}}  {count:>15,}  {count / total:>6.1%}  {bar}".rstrip())


def _file_stem(key: str, copy: int) -> str:
    return f"{key}.copy{copy}" if copy else key


def export_names(split: str, record: Record) -> tuple[str, str]:
    """Paths of the picture and its label below the output folder; InputError for keys that would leave it."""
    # Keys of sets with split folders begin with the split, which is a folder here as well.
    stem = _file_stem(storage.safe_relative(record.key), record.copy).removeprefix(f"{split}/")
    suffix = SUFFIXES.get(record.image_format)
    if suffix is None:
        raise InputError(f"record {record.key}: picture format {record.image_format!r}; expected jpeg or png")
    return tuple(
        storage.safe_relative(name) for name in (f"images/{split}/{stem}{suffix}", f"labels/{split}/{stem}.png")
    )


def _export_shard(options: ExportOptions, shard: Shard, bar: tqdm) -> list[str]:
    written = []
    for _, record in read_shard(options.records, shard):
        bar.update()
        if record.copy and options.originals:
            continue
        names = export_names(shard.split, record)
        for name, data in zip(names, (record.image, record.label), strict=True):
            storage.write(storage.join(options.output, *name.split("/")), data)
        written.append(names[1])
    return written


def export(argv: list[str]) -> int:
    """Writes every record back to a picture file and a label file, byte for byte."""
    options = parse(
        ExportOptions,
        argv,
        prog="deeplab records export",
        description="Write records back to pictures and labels, in the layout images/SPLIT, labels/SPLIT.",
    )
    dataset = records.load_dataset(options.records)
    total = sum(shard.records for shard in dataset.shards)
    with tqdm(total=total, unit=" records", desc="export", disable=None) as bar, _threads() as pool:
        parts = list(pool.map(lambda shard: _export_shard(options, shard, bar), dataset.shards))
    names = [name for part in parts for name in part]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two records would both be {twice}; export without copies (--originals)")
    # Records hold class ids, whatever the coding of the raw set was.
    palette = dataclasses.replace(dataset.palette, source_ids=(), aliases=())
    storage.write_json(storage.join(options.output, "palette.json"), palette.to_json())
    left_out = total - len(names)
    print(
        f"{len(names)} pictures with labels written to {options.output}"
        + (f", {left_out} augmented copies left out" if left_out else "")
    )
    return 0


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)))


def check(argv: list[str]) -> int:
    """Runs `verify` and prints what it finds; status 1 when that is anything."""
    folder = parse(FolderOptions, argv, prog="deeplab records verify", description="Check everything.").records
    dataset = records.load_dataset(folder)
    total = sum(shard.records for shard in dataset.shards)
    with tqdm(total=total, unit=" records", desc="verify", disable=None) as bar, _threads() as pool:
        faults = verify(folder, dataset, pool, bar.update)
    for fault in faults:
        print(fault)
    if faults:
        print(
            f"{folder}: {len(faults)} fault{'s' * (len(faults) != 1)} found; `deeplab prepare` makes such shards anew"
        )
        return 1
    print(f"{folder}: {total:,} records in {len(dataset.shards)} shards, every checksum and every record is good")
    return 0


COMMANDS = {"ls": ls, "show": show, "verify": check, "stats": stats, "export": export}


def main(argv: list[str]) -> int:
    """Runs `deeplab records COMMAND`."""
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    print(f"usage: deeplab records {{{','.join(COMMANDS)}}} FOLDER ... (--help after a command tells its options)\n")
    print(__doc__)
    if argv and argv[0] in ("-h", "--help"):
        return 0
    raise InputError(
        f"expected one of {', '.join(COMMANDS)}, got {argv[0]!r}" if argv else f"expected one of {', '.join(COMMANDS)}"
    )
