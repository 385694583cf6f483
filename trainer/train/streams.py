"""Records -> batches: tf.data from the shards that `deeplab prepare` wrote, or any with the published feature keys.

Training images are varied on the fly (scale, crop, flip), see `trainer.train.crops`. Validation images come whole and
unchanged.

All randomness of training comes from the seed and the place in the training, so that an epoch holds the same batches
however many threads make them, and whatever was trained before it in the same process.

Images stay uint8 until the model scales them: a quarter of the memory of floats, here and on the way to a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import tensorflow as tf

from trainer import storage
from trainer.formats.dataset import DATASET_FILE, Dataset
from trainer.formats.examples import IMAGE_ENCODED, IMAGE_HEIGHT, IMAGE_WIDTH, LABEL_ENCODED, decode_pixels
from trainer.formats.examples import decode as decode_example
from trainer.formats.frames import CorruptRecord
from trainer.formats.labels import Palette
from trainer.options import InputError
from trainer.train import crops
from trainer.train.options import StreamOptions
from trainer.train.passes import Passes
from trainer.train.shards import BATCHES_AT_A_TIME, records_of

SHUFFLE_BYTES = 128 << 20
"""Bound on the bytes of encoded records that are shuffled together; as many again may be read ahead of them."""

MIN_SHUFFLED = 16

FEATURES = {
    IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string),
    IMAGE_HEIGHT: tf.io.FixedLenFeature([], tf.int64),
    IMAGE_WIDTH: tf.io.FixedLenFeature([], tf.int64),
    LABEL_ENCODED: tf.io.FixedLenFeature([], tf.string),
}


Suspects = Iterator[tuple[str, bytes]]
"""Records that may be at fault, each with the path of its shard."""


@contextlib.contextmanager
def readable_records(folder: str, palette: Palette, suspects: Callable[[], Suspects]) -> Iterator[None]:
    """Turns errors of the streams in the block into what a user can act on.

    Args:
      palette: of the labels.
      suspects: gives the records that the block reads, in order, see `TrainingStream` and `validation_records`.

    Raises:
      InputError: a shard of `folder` is damaged, or a record cannot be used.
      UnbalancedError: a pass over the shards gave more or fewer records than dataset.json counts.
    """
    try:
        try:
            yield
        except tf.errors.InvalidArgumentError as error:
            # In TensorFlow's graphs all errors of Python are of this kind; here they are what they are.
            fault = _unusable(suspects(), palette)
            if not fault and "IteratorGetNext" not in str(error):
                raise
            fault = fault or f"a record cannot be used ({error.message.splitlines()[0]})"
            raise InputError(
                f"{folder}: {fault}; `deeplab records verify {folder}` reports all such records"
            ) from None
    except (tf.errors.DataLossError, CorruptRecord) as error:
        reason = error.message if isinstance(error, tf.errors.DataLossError) else str(error)
        raise InputError(
            f"a shard in {folder} is damaged ({reason.splitlines()[0]}); "
            f"`deeplab records verify {folder}` reports which record"
        ) from None


def _unusable(records: Suspects, palette: Palette) -> str | None:
    """Which is the first of the records that cannot be used, and why; None if all can be."""
    for path, data in records:
        try:
            crops.decode_whole(*decode_pixels(data), palette)
        except ValueError as error:
            return f"{_name(data)} in {path} cannot be used ({error})"
    return None


def _name(data: bytes) -> str:
    try:
        record = decode_example(data)
    except ValueError:
        return "a record"
    return f"record {record.key!r} (of {record.filename})"


def _decode_whole(example: dict[str, tf.Tensor], palette: Palette) -> tuple[tf.Tensor, tf.Tensor]:
    """Image [height, width, 3] and label [height, width] uint8; an error where they do not go together."""
    decode = functools.partial(crops.decode_whole, palette=palette)
    arguments = [example[key] for key in (IMAGE_ENCODED, LABEL_ENCODED, IMAGE_HEIGHT, IMAGE_WIDTH)]
    image, label = tf.numpy_function(decode, arguments, [tf.uint8, tf.uint8], stateful=False)
    return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(label, [None, None])


def _readable(path: str) -> str:
    """`path` as tf.data can read it: TensorFlow knows gs://, but only Google's own address of it."""
    return storage.localize(path) if os.environ.get("STORAGE_EMULATOR_HOST") else path


def _shard_paths(folder: str, dataset: Dataset, split: str) -> list[str]:
    if not dataset.count(split):
        raise InputError(
            f"{folder} has no records of split {split!r}, only of {', '.join(dataset.splits) or 'none'}; "
            "prepare it again from a set with train and val images, or with a larger --val-fraction"
        )
    # tf.data would find out about a missing shard in the middle of an epoch, and never about the end of one.
    sizes = {file.relative: file.size for file in storage.files(folder)}
    for shard in dataset.of_split(split):
        if shard.name not in sizes:
            raise InputError(f"{folder} lacks {shard.name}, which {DATASET_FILE} lists; run `deeplab prepare` again")
        if sizes[shard.name] != shard.bytes:
            raise InputError(
                f"{folder}: {shard.name} has {sizes[shard.name]:,} bytes, expected {shard.bytes:,} as {DATASET_FILE} "
                f"lists; run `deeplab prepare` again (`deeplab records verify {folder}` reports what is damaged)"
            )
    return [_readable(path) for path in dataset.shard_paths(folder, split)]


def _window_size(dataset: Dataset, split: str) -> int:
    """How many records are shuffled together: all of a small set, a bounded number of bytes of a large one."""
    count = dataset.count(split)
    mean = sum(shard.bytes for shard in dataset.of_split(split)) / count
    return int(min(count, max(SHUFFLE_BYTES // max(mean, 1), MIN_SHUFFLED)))


def _records_in_order(paths: list[str]) -> tf.data.Dataset:
    """The records of all shards, shard after shard."""
    return tf.data.Dataset.from_tensor_slices(paths).interleave(
        tf.data.TFRecordDataset, cycle_length=1, num_parallel_calls=1, deterministic=True
    )


def _parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    return tf.io.parse_single_example(serialized, FEATURES)


def _with_options(stream: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # The thread that tunes parallelism sleeps for 10, 20, 40, ... ms, up to a minute, and the end of an epoch may have
    # to wait for it to wake: up to 4.9 s were seen after 6 s of steps.
    options.autotune.enabled = False
    # One machine's GPUs share one stream of batches; each batch is cut, not the list of files.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return stream.with_options(options)


class TrainingStream:
    """The batches of a training, epoch by epoch.

    Its graph is traced once, and where an epoch lies is put into it.

    Attributes:
      waited: seconds that whoever takes the batches has waited for them, as a variable.
    """

    def __init__(self, folder: str, dataset: Dataset, options: StreamOptions) -> None:
        """
        Args:
          folder: the records, local or gs://.
          dataset: its dataset.json.
          options: size, variation and weights of the batches.

        Raises:
          InputError: there are no records to train on, or a shard is missing.
        """
        paths = _shard_paths(folder, dataset, "train")
        self.folder, self.dataset, self.options = folder, dataset, options
        with tf.device("CPU"):
            self.waited = tf.Variable(0.0, trainable=False, dtype=tf.float64)
        shards = dataset.of_split("train")
        self._passes = Passes([shard.records for shard in shards], _window_size(dataset, "train"), options.seed)
        self._open = functools.partial(records_of, paths, shards, self._passes, options.batch_size)
        self._records = self._open()
        self._paths = dataset.shard_paths(folder, "train")
        # Counted by samples, and of another seed than the order of the records.
        self._key = np.random.SeedSequence(options.seed, spawn_key=(1,)).generate_state(2, np.uint64)
        self._workers = ThreadPoolExecutor(os.cpu_count(), initializer=cv2.setNumThreads, initargs=(1,))
        self._memory = crops.Memory()
        self._batches = tf.function(self._trace, input_signature=[tf.TensorSpec([], tf.int64)] * 2)

    def _trace(self, first: tf.Tensor, end: tf.Tensor) -> tf.data.Dataset:
        """Batches from `first` up to `end`, counted over the whole training."""
        numbers = tf.data.Dataset.range(first, end)
        stream = numbers.map(self._batch, num_parallel_calls=BATCHES_AT_A_TIME, deterministic=True)
        return self._clocked(stream.prefetch(2))

    def _batch(self, number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        results = tf.numpy_function(self._crops, [number], [tf.uint8, tf.uint8, tf.float32], stateful=False)
        shape = [self.options.batch_size // self.options.hosts, self.options.crop, self.options.crop]
        return tuple(map(tf.ensure_shape, results, ([*shape, 3], shape, shape)))

    def _crops(self, number: np.int64) -> crops.Crops:
        """The crops of a batch, or of this host's part of it."""
        size = self.options.batch_size // self.options.hosts
        begin = int(number) * self.options.batch_size + self.options.host_id * size
        given = {"options": self.options, "palette": self.dataset.palette}
        try:
            reads = [
                functools.partial(self._records.read, window, *place)
                for window, places in self._passes.samples(begin, size)
                for place in places.tolist()
            ]
            return crops.crops(reads, self._uniforms(begin, size), **given, workers=self._workers, memory=self._memory)
        except (MemoryError, ValueError):
            raise
        except Exception as error:
            # TensorFlow would make an "unknown error" of it; `readable_records` meets it again as what it is.
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _uniforms(self, begin: int, count: int) -> np.ndarray:
        """[count, 4] float32 in [0, 1), the same of a sample whatever batch it is in; see `crops.window`."""
        bits = np.random.Philox(key=self._key, counter=begin).random_raw(4 * count)  # four of every count
        return ((bits >> np.uint64(40)) * np.float64(2**-24)).astype(np.float32).reshape(count, 4)

    def _clocked(self, stream: tf.data.Dataset) -> tf.data.Dataset:
        """`stream`, counting the time from when an element is asked for until it is there."""
        asked = tf.data.Dataset.from_tensors(0).repeat().map(lambda _: tf.timestamp())

        def count(begin: tf.Tensor, batch: tuple[tf.Tensor, ...]):
            self.waited.assign_add(tf.timestamp() - begin)
            return batch

        # A zip asks for the time first, and only then for the batch.
        return tf.data.Dataset.zip((asked, stream)).map(count)

    def epoch(self, epoch: int, steps: int, done: int = 0) -> tf.data.Dataset:
        """One epoch's batches, or what is left of them.

        Args:
          epoch: counts from 1; begins where the epoch before it ended, if that had as many steps of the same size.
          steps: how many batches it has.
          done: how many of them to leave out at its beginning, which costs no more than to begin there.

        Returns:
          batches of image [B, crop, crop, 3] uint8 RGB, label [B, crop, crop] uint8 class ids (what lies outside the
          image is the palette's ignore_id), weights [B, crop, crop] float32 (0 where the label is ignored).
          Of several hosts each gets its part of every batch.

        Raises:
          InputError: a shard is missing, or not as long as dataset.json says.
        """
        _shard_paths(self.folder, self.dataset, "train")  # again: it may have gone since the epoch before
        return _with_options(self._batches((epoch - 1) * steps + done, epoch * steps))

    def records(self, epoch: int, steps: int, done: int = 0) -> Suspects:
        """The records behind `epoch`, of all hosts."""
        size, records = self.options.batch_size, self._open()
        for step in range((epoch - 1) * steps + done, epoch * steps):
            for window, places in self._passes.samples(step * size, size):
                for shard, number in places.tolist():
                    yield self._paths[shard], records.read(window, shard, number)


def validation_stream(folder: str, dataset: Dataset, batch_size: int, split: str = "val") -> tf.data.Dataset:
    """All images of `split`, whole, in batches of equal size; nothing is dropped.

    Returns:
      batches of image [B, height, width, 3] uint8 RGB and label [B, height, width] uint8 class ids. The last batch
      of every size may be smaller than `batch_size`.
    """

    def size(example: dict[str, tf.Tensor]) -> tf.Tensor:
        return example[IMAGE_HEIGHT] * 2**32 + example[IMAGE_WIDTH]

    def decode(example: dict[str, tf.Tensor]):
        return _decode_whole(example, dataset.palette)

    # Images wait for others of their size while they are still encoded, which bounds the memory that takes.
    stream = _records_in_order(_shard_paths(folder, dataset, split)).map(_parse)
    stream = stream.group_by_window(
        size, lambda _, window: window.map(decode, num_parallel_calls=2).batch(batch_size), batch_size
    )
    return _with_options(stream.prefetch(2))


def largest_image(folder: str, dataset: Dataset, split: str = "val") -> tuple[int, int]:
    """Height and width of the image with the most pixels in `split`, as its records say."""
    stream = _records_in_order(_shard_paths(folder, dataset, split)).map(_parse)
    sizes = _with_options(stream.map(lambda example: (example[IMAGE_HEIGHT], example[IMAGE_WIDTH])))
    height, width = max(sizes.as_numpy_iterator(), key=lambda size: int(size[0]) * int(size[1]))
    return int(height), int(width)


def validation_records(folder: str, dataset: Dataset, split: str = "val") -> Suspects:
    """The records behind `validation_stream`."""
    for path in _shard_paths(folder, dataset, split):
        for data in tf.data.TFRecordDataset(path).as_numpy_iterator():
            yield path, data
