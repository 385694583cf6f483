"""Training on large images: the stream of crops from records of tiles, against that from records of whole images.

    python benchmarks/tiles.py                        # drawn scenes of 4000x3000
    python benchmarks/tiles.py --input data/potsdam   # your own raw set

Both sets of records are made by `deeplab prepare`, with and without --tile. Prints the seconds that it took, the size
of the records, and the crops per second of both streams.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import tempfile
import time
from dataclasses import dataclass

from timing import table, take_turns

from pipelines import cli
from pipelines.demo import scenes
from trainer.formats.dataset import load_dataset
from trainer.options import CheckedOptions, option
from trainer.parser import parse
from trainer.startup import start_tensorflow
from trainer.train.options import StreamOptions


@dataclass(frozen=True)
class Options(CheckedOptions):
    input: str = option("", "raw set; scenes are drawn when empty", metavar="DIR")
    images: int = option(16, "how many scenes are drawn, beside one for validation", low=1)
    height: int = option(3000, "of drawn scenes, in pixels, three quarters of their width", low=32)
    tile: int = option(1024, "bound on the sides of tiles, in pixels", low=64)
    crop: int = option(512, "side of the square training crops, in pixels", low=32)
    batch: int = option(8, "crops in a batch", low=1)
    steps: int = option(3, "batches of a run", low=1)
    rounds: int = option(3, "times every run is repeated", low=1)


def prepared(source: str, folder: str, *flags: str) -> str:
    """Makes records of a raw set, and prints how long it took and what they are."""
    start = time.perf_counter()
    if status := cli.main(["prepare", "--input", source, "--output", folder, *flags]):
        sys.exit(status)
    dataset = load_dataset(folder)
    size = sum(shard.bytes for shard in dataset.of_split("train"))
    print(
        f"{' '.join(flags) or 'whole images'}: {time.perf_counter() - start:.1f} s, {dataset.count('train')} records "
        f"of train in {size / 1e6:.1f} MB",
        flush=True,
    )
    return folder


def run_all(source: str, folder: str, options: Options) -> None:
    records = {
        "whole images": prepared(source, os.path.join(folder, "whole")),
        "tiles": prepared(source, os.path.join(folder, "tiles"), "--tile", str(options.tile)),
    }
    start_tensorflow()
    from trainer.train.streams import TrainingStream

    batches, epochs = StreamOptions(crop=options.crop, batch_size=options.batch), itertools.count(1)

    def run(stream: TrainingStream) -> None:
        for _ in stream.epoch(next(epochs), options.steps):
            pass

    runs = {
        name: functools.partial(run, TrainingStream(path, load_dataset(path), batches))
        for name, path in records.items()
    }
    for stream in runs.values():
        stream()
    seconds = take_turns(runs, options.rounds)
    print("\n" + table(seconds, options.steps * options.batch, "crops", "whole images"))


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="tiles.py", text="Training on large images, from tiles and from the whole.")
    with tempfile.TemporaryDirectory() as folder:
        source = options.input
        if not source:
            source = os.path.join(folder, "set")
            scenes.write_set(source, options.images, 1, (options.height, options.height * 4 // 3), seed=0)
        run_all(source, folder, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
