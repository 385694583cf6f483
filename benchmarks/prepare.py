"""`deeplab prepare` against a plain loop and a plain process pool, and its memory at ten times the images.

    python benchmarks/prepare.py                                   # drawn scenes
    python benchmarks/prepare.py --data data/camvid                # your own set

The loop reads and decodes an image once, augments and encodes every record by the same functions and appends to one
file: no plan, no shuffle, no Beam, no checksums of shards, no statistics. The pool does so in two processes, each with
files of its own. Both decode every image; `prepare` only checks one of which it needs no pixels. Removing what the run
before has written is not counted. Memory is the peak of a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
from timing import table, take_turns

from pipelines import cli
from pipelines.demo import scenes
from pipelines.entries.augment import augment, rng_for
from pipelines.entries.options import AugmentOptions
from pipelines.inputs.coding import detect_palette
from pipelines.inputs.pairs import Pair
from pipelines.inputs.rawset import scan
from trainer import processes, storage
from trainer.formats import images, label_images
from trainer.formats.examples import Record, encode
from trainer.formats.frames import frame
from trainer.formats.labels import Palette
from trainer.options import CheckedOptions, option
from trainer.parser import parse


@dataclass(frozen=True)
class Options(CheckedOptions):
    data: str = option("", "raw set; drawn scenes of 360 x 480 pixels when empty", metavar="DIR")
    images: int = option(120, "how many scenes are drawn", low=5)
    copies: int = option(2, "augmented copies of every image", low=0)
    rounds: int = option(3, "times every run is repeated", low=1)
    cpu_time: bool = option(False, "count seconds of the processor, on a machine that others share")
    memory: bool = option(True, "measure the peak memory as well")


def versions(pair: Pair, copies: int) -> int:
    """How many records an image becomes."""
    return copies + 1 if pair.split == "train" else 1


def clear(*outputs: str) -> None:
    for output in outputs:
        shutil.rmtree(output, ignore_errors=True)


def prepare_arguments(data: str, output: str, copies: int, workers: int = 1, shards: int = 8) -> list[str]:
    return ["prepare", "--input", data, "--output", output, "--copies", str(copies), "--shards", str(shards),
            "--direct_num_workers", str(workers)]  # fmt: skip


def prepare(data: str, output: str, copies: int, workers: int = 1, shards: int = 8) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = cli.main(prepare_arguments(data, output, copies, workers, shards))
    if status:
        sys.exit(f"prepare ended with status {status}")


def plain_loop(data: str, output: str, copies: int) -> None:
    raw = scan(data)
    write_records(output, raw.pairs, copies, detect_palette(raw)[0])


def plain_pool(data: str, folder: str, copies: int) -> None:
    """The loop's work in two processes, four images at a time."""
    raw = scan(data)
    palette, pairs = detect_palette(raw)[0], list(raw.pairs)
    parts = [(f"{folder}/{start}", pairs[start : start + 4], copies, palette) for start in range(0, len(pairs), 4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.starmap(write_records, parts, chunksize=1)
        pool.close()
        pool.join()


def write_records(output: str, pairs: Iterable[Pair], copies: int, palette: Palette) -> None:
    options = AugmentOptions()
    os.makedirs(os.path.dirname(output), exist_ok=True)
    with open(output, "wb") as file:
        for pair in pairs:
            encoded, suffix = storage.read(pair.image), os.path.splitext(pair.image)[1]
            image = images.decode_image(encoded)
            label = palette.to_ids(label_images.decode_label(storage.read(pair.label)))
            for copy in range(versions(pair, copies)):
                ours, ids = image, label
                if copy:
                    ours, ids = augment(image, label, rng_for(0, pair.key, copy), options, palette.ignore_id)
                    encoded = images.encode_jpeg(ours)
                record = Record(
                    key=pair.key, filename=pair.key + suffix, image=encoded, image_format="jpeg", channels=3,
                    height=ids.shape[0], width=ids.shape[1], label=label_images.encode_label(ids), copy=copy,
                )  # fmt: skip
                file.write(frame(encode(record)))


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


def peak_memory(data: str, output: str, copies: int) -> float:
    """MiB at the peak of a `deeplab prepare` in a process of its own."""
    clear(output)
    command = [sys.executable, "-m", "pipelines", *prepare_arguments(data, output, copies)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    child = os.posix_spawn(sys.executable, command, environment, file_actions=quiet)
    status, _, memory = processes.end(child)
    if status:
        sys.exit(f"prepare ended with status {status}")
    return memory / 2**20


def ten_times(data: str, folder: str) -> str:
    """A set of ten times the images: every file of a drawn set under ten names."""
    for file in storage.files(data):
        stem, suffix = os.path.splitext(file.relative)
        names = [f"{stem}-{n}{suffix}" for n in range(10)] if suffix != ".json" else [file.relative]
        for name in names:
            os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
            os.link(file.path, os.path.join(folder, name))
    return folder


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="prepare.py", text="prepare against a loop and a pool, and its memory.")
    cv2.setNumThreads(1)  # per core
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or os.path.join(folder, "set")
        if not options.data:
            scenes.write_set(data, options.images, options.images // 5, (360, 480), seed=0)
        pairs = scan(data).pairs
        count = sum(versions(pair, options.copies) for pair in pairs)
        output = os.path.join(folder, "records")
        loop, pool = os.path.join(folder, "loop"), os.path.join(folder, "pool")
        prepare(data, output, 0)  # imports, and the images into the page cache
        clock = processor_seconds if options.cpu_time else time.perf_counter
        runs = {
            "prepare, 1 worker": lambda: prepare(data, output, options.copies),
            "plain loop": lambda: plain_loop(data, f"{loop}/all", options.copies),
            "prepare, 2 workers": lambda: prepare(data, output, options.copies, 2),
            "prepare, 2 workers, shards of 1000 records": lambda: prepare(data, output, options.copies, 2, shards=0),
            "process pool, 2 workers": lambda: plain_pool(data, pool, options.copies),
        }
        seconds = take_turns(runs, options.rounds, clock, lambda name: clear(output, loop, pool))
        names = list(runs)
        for compared in (names[:2], names[2:]):
            print("\n" + table({name: seconds[name] for name in compared}, count, "records", compared[-1]))
        if options.memory:
            small = os.path.join(folder, "small")
            scenes.write_set(small, max(10, options.images // 5), 2, (360, 480), seed=1)
            once = peak_memory(small, output, options.copies)
            often = peak_memory(ten_times(small, os.path.join(folder, "large")), output, options.copies)
            print("\n| images | peak memory | ratio |\n|---|---|---|")
            number = max(10, options.images // 5) + 2
            print(f"| {number} | {once:.0f} MiB | 1.00 |\n| {10 * number} | {often:.0f} MiB | {often / once:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
