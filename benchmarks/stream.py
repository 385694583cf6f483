"""The training stream against reading and decoding the same shards with nothing else.

    python benchmarks/stream.py                          # records made from drawn scenes
    python benchmarks/stream.py --records out/records    # your own

The stream decodes, scales, crops, flips and batches, in shapes of a training on a GPU. There are two references, which
read the same records of the same shards and decode image and label by TensorFlow's decoders, in as many threads: one
does nothing else, the other also makes batches of as many bytes as the crops have. What no stream can do without lies
between the two: the crops must be written somewhere. None repeats a record within a run.
"""

from __future__ import annotations

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
from trainer.formats.examples import IMAGE_ENCODED, LABEL_ENCODED
from trainer.options import CheckedOptions, option
from trainer.parser import parse
from trainer.startup import start_tensorflow
from trainer.train.options import StreamOptions


@dataclass(frozen=True)
class Options(CheckedOptions):
    records: str = option("", "folder of records; made from drawn scenes when empty", metavar="DIR")
    crop: int = option(513, "side of the square training crops, in pixels", low=32)
    batch: int = option(16, "crops in a batch", low=1)
    images: int = option(200, "how many scenes are drawn; three records each", low=5)
    height: int = option(360, "of drawn scenes, in pixels, three quarters of their width", low=32)
    rounds: int = option(5, "times every run is repeated", low=1)
    cpu_time: bool = option(False, "count seconds of the processor, on a machine that others share")


def draw_records(folder: str, images: int, height: int) -> str:
    """Prepares records of that many drawn scenes below `folder`; returns their folder."""
    scenes.write_set(os.path.join(folder, "set"), images, 1, (height, height * 4 // 3), seed=0)
    records = os.path.join(folder, "records")
    arguments = ["--input", os.path.join(folder, "set"), "--output", records, "--copies", "2", "--shards", "8"]
    status = cli.main(["prepare", *arguments])
    if status:
        sys.exit(status)
    return records


def run_all(folder: str, options: Options) -> None:
    start_tensorflow()
    import tensorflow as tf

    from trainer.train.streams import TrainingStream

    dataset = load_dataset(folder)
    batches = StreamOptions(crop=options.crop, batch_size=options.batch)
    steps = dataset.count("train") // options.batch
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in (IMAGE_ENCODED, LABEL_ENCODED)}
    auto = tf.data.AUTOTUNE

    def decode(data):
        example = tf.io.parse_single_example(data, features)
        image = tf.io.decode_jpeg(example[IMAGE_ENCODED], channels=3, dct_method="INTEGER_ACCURATE")
        return image, tf.io.decode_png(example[LABEL_ENCODED], channels=1)

    def records():
        return tf.data.TFRecordDataset(dataset.shard_paths(folder, "train")).take(steps * options.batch)

    def bare():
        for _ in records().map(decode, num_parallel_calls=auto).prefetch(auto):
            pass

    def batched():
        side = [options.crop, options.crop]
        empty = (tf.zeros([*side, 3], tf.uint8), tf.zeros(side, tf.uint8))

        def crops(data):
            sizes = [tf.size(pixels) for pixels in decode(data)]  # so that they are decoded
            return *sizes, *empty

        for _ in records().map(crops, num_parallel_calls=auto).batch(options.batch).prefetch(2):
            pass

    epochs = itertools.count(1)
    training = TrainingStream(folder, dataset, batches)

    def stream():
        for _ in training.epoch(next(epochs), steps):
            pass

    runs = {"training stream": stream, "bare decode": bare, "decode, batches of that size": batched}
    for run in runs.values():
        run()
    clock = time.process_time if options.cpu_time else time.perf_counter
    seconds = take_turns(runs, options.rounds, clock)
    for reference in list(runs)[1:]:
        print("\n" + table(seconds, steps * options.batch, "records", reference))


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="stream.py", text="The training stream against bare decoding.")
    with tempfile.TemporaryDirectory() as folder:
        run_all(options.records or draw_records(folder, options.images, options.height), options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
