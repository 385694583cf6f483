"""The training stream against reading and decoding the same shards with nothing else.

    python benchmarks/stream.py                          # records made from drawn scenes
    python benchmarks/stream.py --records out/records    # your own

The stream decodes, scales, crops, flips, weighs the pixels, and batches; the reference reads the same records of the
same shards and decodes image and label, in as many threads. Neither repeats a record within a run.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from dataclasses import dataclass

from timing import table, take_turns

from pipelines import cli
from pipelines.demo import scenes
from trainer.formats.dataset import load_dataset
from trainer.formats.examples import IMAGE_ENCODED, LABEL_ENCODED
from trainer.options import CheckedOptions, option, parse
from trainer.startup import start_tensorflow
from trainer.train.options import StreamOptions


@dataclass(frozen=True)
class Options(CheckedOptions):
    records: str = option("", "folder of records; made from drawn scenes when empty", metavar="DIR")
    crop: int = option(320, "side of the square training crops, in pixels", low=32)
    images: int = option(200, "how many scenes are drawn, 360 x 480 pixels each; three records each", low=5)
    rounds: int = option(5, "times every run is repeated", low=1)


def draw_records(folder: str, images: int) -> str:
    """Prepares records of that many drawn scenes below `folder`; returns their folder."""
    scenes.write_set(os.path.join(folder, "set"), images, 1, (360, 480), seed=0)
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
    batches = StreamOptions(crop=options.crop, batch_size=4)
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in (IMAGE_ENCODED, LABEL_ENCODED)}

    def decode(data):
        example = tf.io.parse_single_example(data, features)
        image = tf.io.decode_image(example[IMAGE_ENCODED], channels=3, expand_animations=False)
        return image, tf.io.decode_png(example[LABEL_ENCODED], channels=1)

    def bare():
        shards = tf.data.TFRecordDataset(dataset.shard_paths(folder, "train"))
        for _ in shards.map(decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE):
            pass

    epochs = itertools.count(1)
    training = TrainingStream(folder, dataset, batches)

    def stream():
        for _ in training.epoch(next(epochs), dataset.count("train") // batches.batch_size):
            pass

    stream(), bare()
    seconds = take_turns({"training stream": stream, "bare decode": bare}, options.rounds)
    print("\n" + table(seconds, dataset.count("train"), "records", "bare decode"))


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="stream.py", text="The training stream against bare decoding.")
    with tempfile.TemporaryDirectory() as folder:
        run_all(options.records or draw_records(folder, options.images), options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
