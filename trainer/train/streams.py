"""Turns records into batches, by tf.data, from shards of `deeplab prepare` or others with the published feature keys.

Training images are scaled, cropped and flipped at random, see `trainer.train.crops`. Validation images are whole and
unchanged. All randomness comes from the seed and the position in the training, so an epoch has the same batches
regardless of the number of threads, and of earlier trainings in the same process.

Images remain uint8 until the model scales them, which takes a quarter of the memory of float32, here and on a GPU.
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

from trainer import processes, storage
from trainer.formats.dataset import DATASET_FILE, Dataset, check_split, check_unchanged, maker, unchanged
from trainer.formats.examples import IMAGE_ENCODED, IMAGE_HEIGHT, IMAGE_WIDTH, LABEL_ENCODED, decode_pixels
from trainer.formats.examples import decode as decode_example
from trainer.formats.frames import CorruptRecord
from trainer.formats.labels import Palette
from trainer.limits import cores
from trainer.options import InputError
from trainer.train import crops
from trainer.train.options import StreamOptions
from trainer.train.passes import Passes
from trainer.train.shards import BATCHES_AT_A_TIME, records_of

SHUFFLE_BYTES = 128 << 20
"""Bound on the bytes of the encoded records in a window; up to as many again are read ahead."""

MIN_SHUFFLED = 16
"""Minimum number of records in a window, regardless of their size."""

FEATURES = {
    IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string),
    IMAGE_HEIGHT: tf.io.FixedLenFeature([], tf.int64),
    IMAGE_WIDTH: tf.io.FixedLenFeature([], tf.int64),
    LABEL_ENCODED: tf.io.FixedLenFeature([], tf.string),
}


Suspects = Iterator[tuple[str, bytes]]
"""Records that may be the cause of an error, as pairs (path of the shard, payload)."""


@contextlib.contextmanager
def readable_records(folder: str, dataset: Dataset, suspects: Callable[[], Suspects]) -> Iterator[None]:
    """Turns errors of streams in the block into messages that name the record or shard and the cure.

    Args:
      folder: the folder of the records.
      dataset: the dataset.json that they were read by.
      suspects: returns the records that the block reads, in order: `TrainingStream.records`, `validation_records`.

    Raises:
      InputError: a shard in `folder` is gone or damaged, a record cannot be used, or another command has changed the
        records, see `unchanged`.
      UnbalancedError: a shard has more or fewer records than dataset.json states.
    """
    with unchanged(folder, dataset):
        try:
            with _outside_of_the_graph(folder, dataset.palette, suspects):
                yield
        except (tf.errors.NotFoundError, FileNotFoundError) as error:
            if isinstance(error, OSError) and not str(error.filename).startswith(storage.join(folder, "")):
                raise  # such as of a checkpoint, which the block writes
            raise InputError(
                f"a shard in {folder} is gone ({_reason(error)}); put it back, or run the same {maker(folder)} again, "
                "and then this command to resume"
            ) from None
        except (tf.errors.DataLossError, CorruptRecord) as error:
            raise InputError(
                f"a shard in {folder} is damaged ({_reason(error)}); `deeplab records verify {folder}` reports which "
                "record"
            ) from None


@contextlib.contextmanager
def _outside_of_the_graph(folder: str, palette: Palette, suspects: Callable[[], Suspects]) -> Iterator[None]:
    """Raises, for an error of a Python function of TensorFlow's graph, that which reading the records again raises."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        fault = _unusable(suspects(), palette)
        if not fault and "IteratorGetNext" not in str(error):
            raise
        fault = fault or f"a record cannot be used ({_reason(error)})"
        raise InputError(f"{folder}: {fault}; `deeplab records verify {folder}` reports all such records") from None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return (error.message if isinstance(error, tf.errors.OpError) else str(error)).splitlines()[0]


def _unusable(records: Suspects, palette: Palette) -> str | None:
    """The first of the records that cannot be used, and the reason; None if all can be used."""
    for path, data in records:
        try:
            crops.decode_whole(*decode_pixels(data), palette)
        except ValueError as error:
            return f"{_name(data)} in {path} cannot be used ({error})"
    return None


def _name(data: bytes) -> str:
    """The name of a record in messages, given its payload."""
    try:
        record = decode_example(data)
    except ValueError:
        return "a record"
    return f"record {record.key!r} (of {record.filename})"


def _decode_whole(example: dict[str, tf.Tensor], palette: Palette) -> tuple[tf.Tensor, tf.Tensor]:
    """`crops.decode_whole` as a node of TensorFlow's graph: uint8 image [H, W, 3] and label [H, W]."""
    decode = functools.partial(crops.decode_whole, palette=palette)
    arguments = [example[key] for key in (IMAGE_ENCODED, LABEL_ENCODED, IMAGE_HEIGHT, IMAGE_WIDTH)]
    image, label = tf.numpy_function(decode, arguments, [tf.uint8, tf.uint8], stateful=False)
    return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(label, [None, None])


def _readable(path: str) -> str:
    """A path that tf.data can read: TensorFlow reads gs://, but not from an emulator."""
    return storage.localize(path) if os.environ.get("STORAGE_EMULATOR_HOST") else path


def _shard_paths(folder: str, dataset: Dataset, split: str) -> list[str]:
    check_split(folder, dataset, split)
    # tf.data would fail at a missing shard in the middle of an epoch, and not notice one truncated between records.
    sizes = {file.relative: file.size for file in storage.files(folder)}
    shards = dataset.of_split(split)
    if any(sizes.get(shard.name) != shard.bytes for shard in shards):
        check_unchanged(folder, dataset)
    for shard in shards:
        if shard.name not in sizes:
            raise InputError(f"{shard.name} in {folder} is missing; run the same {maker(folder)} again")
        if sizes[shard.name] != shard.bytes:
            raise InputError(
                f"{folder}: {shard.name} has {sizes[shard.name]:,} bytes, expected {shard.bytes:,} as {DATASET_FILE} "
                f"lists; run the same {maker(folder)} again (`deeplab records verify {folder}` tells what is damaged)"
            )
    return [_readable(path) for path in dataset.shard_paths(folder, split)]


def _window_size(dataset: Dataset) -> int:
    """The number of records in a window: all records of a small set, a bounded number of bytes of a large one."""
    count = dataset.count("train")
    mean = sum(shard.bytes for shard in dataset.of_split("train")) / count
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
    """The batches of a training, epoch by epoch. The graph is traced once, with the epoch's position as an input.

    Attributes:
      folder: the folder of the records.
      dataset: its dataset.json.
      options: the options of the stream.
      waited: the seconds that the consumer has waited for batches, a scalar variable.
    """

    def __init__(self, folder: str, dataset: Dataset, options: StreamOptions) -> None:
        """
        Args:
          folder: the folder of the records, local or gs://.
          dataset: its dataset.json.
          options: the options of the stream.

        Raises:
          InputError: there are no records to train on, or a shard is missing or has the wrong size.
        """
        paths = _shard_paths(folder, dataset, "train")
        self.folder, self.dataset, self.options = folder, dataset, options
        with tf.device("CPU"):
            self.waited = tf.Variable(0.0, trainable=False, dtype=tf.float64)
        shards = dataset.of_split("train")
        self._passes = Passes([shard.records for shard in shards], _window_size(dataset), options.seed)
        self._open = functools.partial(records_of, paths, shards, self._passes, options.batch_size)
        self._records = self._open()
        self._paths = dataset.shard_paths(folder, "train")
        # `_uniforms` counts samples. Its seed differs from that of the order of the records.
        self._key = np.random.SeedSequence(options.seed, spawn_key=(1,)).generate_state(2, np.uint64)
        processes.keep_memory()  # of decoded images
        self._workers = ThreadPoolExecutor(cores(), initializer=cv2.setNumThreads, initargs=(1,))
        self._memory = crops.Memory()
        self._batches = tf.function(self._trace, input_signature=[tf.TensorSpec([], tf.int64)] * 2)

    def _trace(self, first: tf.Tensor, end: tf.Tensor) -> tf.data.Dataset:
        """Batches `first` to `end`, counted over the whole training."""
        numbers = tf.data.Dataset.range(first, end)
        stream = numbers.map(self._batch, num_parallel_calls=BATCHES_AT_A_TIME, deterministic=True)
        return self._clocked(stream.prefetch(2))

    def _batch(self, number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """`_crops` as a node of TensorFlow's graph."""
        results = tf.numpy_function(self._crops, [number], [tf.uint8, tf.uint8], stateful=False)
        shape = [self.options.batch_size // self.options.hosts, self.options.crop, self.options.crop]
        return tuple(map(tf.ensure_shape, results, ([*shape, 3], shape)))

    def _crops(self, number: np.int64) -> crops.Crops:
        """The crops of a batch, or this host's part of them if there are several hosts."""
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
            # TensorFlow turns other types into UnknownError, and `readable_records` handles InvalidArgumentError.
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _uniforms(self, begin: int, count: int) -> np.ndarray:
        """Random numbers for `crops.window`, float32 [count, 4] in [0, 1), which do not depend on a sample's batch."""
        bits = np.random.Philox(key=self._key, counter=begin).random_raw(4 * count)  # a counter gives four numbers
        return ((bits >> np.uint64(40)) * np.float64(2**-24)).astype(np.float32).reshape(count, 4)

    def _clocked(self, stream: tf.data.Dataset) -> tf.data.Dataset:
        """`stream`, which adds the time from the request of each element to its arrival to `waited`."""
        requests = tf.data.Dataset.from_tensors(0).repeat().map(lambda _: tf.timestamp())

        def count(begin: tf.Tensor, batch: tuple[tf.Tensor, ...]):
            self.waited.assign_add(tf.timestamp() - begin)
            return batch

        # A zip evaluates the time first, and then the batch.
        return tf.data.Dataset.zip((requests, stream)).map(count)

    def epoch(self, epoch: int, steps: int, done: int = 0) -> tf.data.Dataset:
        """The batches of an epoch, or the rest of them.

        Args:
          epoch: the number of the epoch, from 1.
          steps: batches per epoch.
          done: the number of batches to skip at its beginning, without reading their records.

        Returns:
          Batches of (image, uint8 [B, crop, crop, 3] RGB; label, uint8 [B, crop, crop] class ids, with the palette's
          ignore_id outside the image). Each host gets its part of every batch.

        Raises:
          InputError: a shard is missing, or has the wrong size.
        """
        _shard_paths(self.folder, self.dataset, "train")  # again: shards may have been removed since the last epoch
        return _with_options(self._batches((epoch - 1) * steps + done, epoch * steps))

    def records(self, epoch: int, steps: int, done: int = 0) -> Suspects:
        """The records that the batches of `epoch(epoch, steps, done)` are made from, on all hosts."""
        size, records = self.options.batch_size, self._open()
        for step in range((epoch - 1) * steps + done, epoch * steps):
            for window, places in self._passes.samples(step * size, size):
                for shard, number in places.tolist():
                    yield self._paths[shard], records.read(window, shard, number)


def validation_stream(folder: str, dataset: Dataset, batch_size: int) -> tf.data.Dataset:
    """All images of the validation split, whole and once, in batches of images of equal size.

    Returns:
      Batches of (image, uint8 [B, H, W, 3] RGB; label, uint8 [B, H, W] class ids). The last batch of images of a size
      may be smaller than `batch_size`.

    Raises:
      InputError: the split has no records, or a shard is missing or has the wrong size.
    """

    def size(example: dict[str, tf.Tensor]) -> tf.Tensor:
        return example[IMAGE_HEIGHT] * 2**32 + example[IMAGE_WIDTH]

    def decode(example: dict[str, tf.Tensor]):
        return _decode_whole(example, dataset.palette)

    # Images are grouped by size while still encoded, which takes less memory.
    stream = _records_in_order(_shard_paths(folder, dataset, "val")).map(_parse)
    stream = stream.group_by_window(
        size, lambda _, window: window.map(decode, num_parallel_calls=2).batch(batch_size), batch_size
    )
    return _with_options(stream.prefetch(2))


def largest_image(folder: str, dataset: Dataset) -> tuple[int, int]:
    """(height, width) of the image with the most pixels in the validation split, as the records state them."""
    stream = _records_in_order(_shard_paths(folder, dataset, "val")).map(_parse)
    sizes = _with_options(stream.map(lambda example: (example[IMAGE_HEIGHT], example[IMAGE_WIDTH])))
    height, width = max(sizes.as_numpy_iterator(), key=lambda size: int(size[0]) * int(size[1]))
    return int(height), int(width)


def validation_records(folder: str, dataset: Dataset) -> Suspects:
    """The records that the batches of `validation_stream` are made from."""
    for path in _shard_paths(folder, dataset, "val"):
        for data in tf.data.TFRecordDataset(path).as_numpy_iterator():
            yield path, data
