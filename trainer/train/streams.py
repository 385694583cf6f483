"""Records -> batches: tf.data from the shards that `deeplab prepare` wrote, or any with the published feature keys.

Training images are varied on the fly (scale, crop, flip). What is decoded, and what is resized, is the window of the
image that becomes the crop and nothing else. Validation images come whole and unchanged.

All randomness of training comes from the seed and the place in the training, so that an epoch holds the same batches
however many threads make them, and whatever was trained before it in the same process.

Images stay uint8 until the model scales them: a quarter of the memory of floats, here and on the way to a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import tensorflow as tf

from trainer import storage
from trainer.accounts import UnbalancedError
from trainer.formats.dataset import DATASET_FILE, Dataset
from trainer.formats.examples import IMAGE_ENCODED, IMAGE_HEIGHT, IMAGE_WIDTH, LABEL_ENCODED
from trainer.formats.examples import decode as decode_example
from trainer.formats.images import PADDING
from trainer.formats.labels import Palette, pixels_of_ids
from trainer.options import InputError
from trainer.train import passes
from trainer.train.options import StreamOptions
from trainer.train.passes import Read

SHUFFLE_BYTES = 128 << 20
"""Bound on the bytes of encoded records that are shuffled together; as many again are read ahead of them."""

MIN_SHUFFLED = 16

FEATURES = {
    IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string),
    IMAGE_HEIGHT: tf.io.FixedLenFeature([], tf.int64),
    IMAGE_WIDTH: tf.io.FixedLenFeature([], tf.int64),
    LABEL_ENCODED: tf.io.FixedLenFeature([], tf.string),
}

# Pillow's JPEG decoding, which `segment` uses; TensorFlow's default is faster by a little and off by a grey level.
DCT_METHOD = "INTEGER_ACCURATE"


@contextlib.contextmanager
def readable_records(folder: str, palette: Palette, suspects: Callable[[], tf.data.Dataset]) -> Iterator[None]:
    """Turns tf.data's errors in the block into what a user can act on.

    Args:
      palette: of the labels.
      suspects: gives the records that the block reads, in order, see `TrainingStream` and `validation_records`.

    Raises:
      InputError: a shard of `folder` is damaged, or a record cannot be used.
      UnbalancedError: a pass over the shards gave more or fewer records than dataset.json counts.
    """
    try:
        yield
    except tf.errors.DataLossError as error:
        raise InputError(
            f"a shard in {folder} is damaged ({error.message.splitlines()[0]}); "
            f"`deeplab records verify {folder}` reports which record"
        ) from None
    except tf.errors.InvalidArgumentError as error:
        found = _unusable(suspects(), palette)
        if not found and "IteratorGetNext" not in str(error):
            raise
        found = found or f"a record cannot be used ({error.message.splitlines()[0]})"
        raise InputError(f"{folder}: {found}; `deeplab records verify {folder}` reports all such records") from None
    except tf.errors.FailedPreconditionError as error:
        if "expected to contain" not in str(error):
            raise
        raise UnbalancedError(
            f"the shards in {folder} do not hold the records that {DATASET_FILE} counts "
            f"({error.message.splitlines()[0]}); `deeplab records verify {folder}` reports which"
        ) from None


def _with_path(path: tf.Tensor) -> tf.data.Dataset:
    """Reads a shard, each record behind the path and a newline."""
    return tf.data.TFRecordDataset(path).map(lambda data: tf.strings.join([path, data], "\n"))


def _unusable(records: tf.data.Dataset, palette: Palette) -> str | None:
    """Which is the first of the records, from `_with_path`, that cannot be used, and why; None if all can be."""

    def decode(data: tf.Tensor):
        return _decode_whole(_parse(tf.strings.split(data, ".tfrecord\n", maxsplit=1)[1]), palette)

    good = 0
    try:
        for _ in _with_options(records.map(decode, num_parallel_calls=os.cpu_count())):
            good += 1
    except tf.errors.InvalidArgumentError as error:
        path, data = next(records.skip(good).as_numpy_iterator()).split(b".tfrecord\n", 1)
        try:
            record = decode_example(data)
            name = f"record {record.key!r} (of {record.filename})"
        except ValueError:
            name = "a record"
        return f"{name} in {path.decode()}.tfrecord cannot be used ({error.message.splitlines()[0]})"
    return None


def pixel_weights(label: np.ndarray, num_classes: int, ignore_id: int, max_ratio: float) -> np.ndarray:
    """Adaptive pixel weights of one image: inverse class frequency, bounded.

    With N valid pixels, n_c of them of class c, and K classes present: w_c = N / (K n_c), the factor by which class c
    falls short of an equal share; clipped to [1 / sqrt(max_ratio), sqrt(max_ratio)], so that no class weighs more
    than `max_ratio` times another; divided by its mean over the valid pixels, so that weights do not change the
    learning rate.

    Args:
      label: [height, width] uint8 class ids.
      num_classes: ids from there on are ignored, as `ignore_id` is.
      ignore_id: the id of pixels that count for nothing.
      max_ratio: at least 1; 1 weighs all valid pixels alike.

    Returns:
      [height, width] float32 with mean 1 over the valid pixels and 0 elsewhere; all 0 if no pixel is valid.
    """
    counts = pixels_of_ids(label)
    counts[num_classes:] = 0
    counts[ignore_id] = 0
    weights = np.zeros(256)
    if valid := counts.sum():
        present = counts > 0
        bound = max_ratio**0.5
        weights[present] = np.clip(valid / (present.sum() * counts[present]), 1 / bound, bound)
        weights *= valid / (weights @ counts)
    return cv2.LUT(label, weights.astype(np.float32))


def _decode_image(data: tf.Tensor) -> tf.Tensor:
    """A JPEG or PNG image as [height, width, 3] uint8."""
    return tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method=DCT_METHOD),
        lambda: tf.io.decode_png(data, channels=3),
    )


def _decode_window(data: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """The `window` (y, x, height, width) of a JPEG or PNG image as [height, width, 3] uint8."""
    return tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_and_crop_jpeg(data, window, channels=3, dct_method=DCT_METHOD),
        lambda: tf.slice(tf.io.decode_png(data, channels=3), _begin(window), [window[2], window[3], 3]),
    )


def _begin(window: tf.Tensor) -> tf.Tensor:
    return tf.stack([window[0], window[1], 0])


def _decode_label(data: tf.Tensor) -> tf.Tensor:
    """A label PNG as [height, width, 1] uint8 class ids."""
    return tf.io.decode_png(data, channels=1)


def _decode_whole(example: dict[str, tf.Tensor], palette: Palette) -> tuple[tf.Tensor, tf.Tensor]:
    """Image [height, width, 3] and label [height, width] uint8; an error where they do not go together."""
    image, label = _decode_image(example[IMAGE_ENCODED]), _decode_label(example[LABEL_ENCODED])[..., 0]
    size = tf.stack([example[IMAGE_HEIGHT], example[IMAGE_WIDTH]])
    for what, shape in (("image", tf.shape(image)[:2]), ("label", tf.shape(label))):
        tf.debugging.assert_equal(tf.cast(shape, tf.int64), size, f"its {what} has not the size that it gives")
    highest = tf.reduce_max(tf.where(label == palette.ignore_id, tf.zeros_like(label), label))
    tf.debugging.assert_less(tf.cast(highest, tf.int32), palette.num_classes, "its label has ids of no class")
    return image, label


def _offset(uniform: tf.Tensor, length: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Where a window begins on an axis of `length` pixels; negative where it is longer than the axis.

    The window lies wholly within the image, or the image wholly within the window; all places are as likely.
    """
    room = length - window
    places = tf.cast(tf.abs(room) + 1, tf.float32)
    return tf.sign(room) * tf.minimum(tf.cast(uniform * places, tf.int32), tf.abs(room))


def _random_crop(example: dict[str, tf.Tensor], seed: tf.Tensor, options: StreamOptions, palette: Palette):
    """A random square of the image at a random scale: image [crop, crop, 3] and label [crop, crop] uint8, weights."""
    crop = options.crop
    scale, vertical, horizontal, mirror = tf.unstack(tf.random.stateless_uniform([4], seed))
    scale = options.scale_min + scale * (options.scale_max - options.scale_min)
    side = tf.maximum(tf.cast(tf.round(crop / scale), tf.int32), 1)
    height, width = (tf.cast(example[key], tf.int32) for key in (IMAGE_HEIGHT, IMAGE_WIDTH))
    top, left = _offset(vertical, height, side), _offset(horizontal, width, side)
    # The part of the window that the image covers.
    y, x = tf.maximum(top, 0), tf.maximum(left, 0)
    window = tf.stack([y, x, tf.minimum(top + side, height) - y, tf.minimum(left + side, width) - x])
    image = _decode_window(example[IMAGE_ENCODED], window)
    label = tf.slice(_decode_label(example[LABEL_ENCODED]), _begin(window), [window[2], window[3], 1])[..., 0]
    mirrored = mirror < (0.5 if options.flip else 0.0)
    # OpenCV takes a fifth of the time of TensorFlow's operations, which go over floats, one after another.
    fit = functools.partial(_fit, options, palette)
    arguments = [image, label, y - top, x - left, side, mirrored]
    results = tf.numpy_function(fit, arguments, [tf.uint8, tf.uint8, tf.float32], stateful=False)
    return tuple(map(tf.ensure_shape, results, ([crop, crop, 3], [crop, crop], [crop, crop])))


def _fit(
    options: StreamOptions,
    palette: Palette,
    image: np.ndarray,
    label: np.ndarray,
    above: int,
    before: int,
    side: int,
    mirrored: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pads the visible part of a window to the whole, resizes it to the crop, and weighs its pixels.

    Args:
      image, label: uint8 [h, w, 3] and [h, w], the part of the window that the image covers.
      above, before: rows and columns of the window that come before it.
      side: of the window, in pixels.
      mirrored: whether left and right are exchanged.
    """
    below, behind = side - above - label.shape[0], side - before - label.shape[1]
    if mirrored:
        image, label, before, behind = cv2.flip(image, 1), cv2.flip(label, 1), behind, before
    margins = (above, below, before, behind, cv2.BORDER_CONSTANT)
    if any(margins[:4]):
        image = cv2.copyMakeBorder(image, *margins, value=(PADDING, PADDING, PADDING))
        label = cv2.copyMakeBorder(label, *margins, value=palette.ignore_id)
    image = cv2.resize(image, (options.crop, options.crop), interpolation=cv2.INTER_LINEAR)
    # Half-pixel centres, as in the image's resize, so that both stay aligned.
    places = ((np.arange(options.crop) + 0.5) * (side / options.crop)).astype(np.intp)
    label = label[places][:, places]
    max_ratio = options.max_ratio if options.pixel_weights == "adaptive" else 1.0
    return image, label, pixel_weights(label, palette.num_classes, palette.ignore_id, max_ratio)


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
    # The last window of a pass had better be a short one: to make it, the shards are read to their ends and counted.
    return int(min(count + 1, max(SHUFFLE_BYTES // max(mean, 1), MIN_SHUFFLED)))


def _records_in_order(paths: list[str], read: Read) -> tf.data.Dataset:
    """What `read` gives for the records of all shards, shard after shard."""
    return tf.data.Dataset.from_tensor_slices(paths).interleave(
        read, cycle_length=1, num_parallel_calls=1, deterministic=True
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
        _shard_paths(folder, dataset, "train")
        self.folder, self.dataset, self.options = folder, dataset, options
        with tf.device("CPU"):
            self.waited = tf.Variable(0.0, trainable=False, dtype=tf.float64)
        self._window = _window_size(dataset, "train")
        self._batches = tf.function(self._trace, input_signature=[tf.TensorSpec([], tf.int64), passes.PART])

    def _part(self, epoch: int, steps: int, done: int) -> tuple[int, passes.Part]:
        """The first sample of what is left of an epoch, counted over the whole training, and where all of it lies."""
        size, seed = self.options.batch_size, self.options.seed
        counts = np.array([shard.records for shard in self.dataset.of_split("train")], np.int64)
        begin = ((epoch - 1) * steps + done) * size
        return begin, passes.part(counts, self._window, seed, begin, (steps - done) * size)

    def _read(self, part: passes.Part, read: Read) -> tf.data.Dataset:
        paths = _shard_paths(self.folder, self.dataset, "train")
        return passes.endless_records(paths, self._window, self.options.seed, part, read)

    def _trace(self, begin: tf.Tensor, part: passes.Part) -> tf.data.Dataset:
        options, palette = self.options, self.dataset.palette
        crop_seed = tf.constant([options.seed, 0], tf.int64)

        def example(index: tf.Tensor, serialized: tf.Tensor):
            seed = tf.random.experimental.stateless_fold_in(crop_seed, index)
            return _random_crop(_parse(serialized), seed, options, palette)

        stream = self._read(part, tf.data.TFRecordDataset).enumerate(begin)
        size = options.batch_size // options.hosts
        if options.hosts > 1:
            stream = stream.filter(lambda index, _: index % options.batch_size // size == options.host_id)
        stream = stream.map(example, num_parallel_calls=os.cpu_count(), deterministic=True)
        return self._clocked(stream.batch(size, drop_remainder=True).prefetch(2))

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
        begin, part = self._part(epoch, steps, done)
        return _with_options(self._batches(begin, part))

    def records(self, epoch: int, steps: int, done: int = 0) -> tf.data.Dataset:
        """The records behind `epoch`, each behind the path of its shard; see `readable_records`."""
        return self._read(self._part(epoch, steps, done)[1], _with_path)


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
    stream = _records_in_order(_shard_paths(folder, dataset, split), tf.data.TFRecordDataset).map(_parse)
    stream = stream.group_by_window(
        size, lambda _, window: window.map(decode, num_parallel_calls=2).batch(batch_size), batch_size
    )
    return _with_options(stream.prefetch(2))


def largest_image(folder: str, dataset: Dataset, split: str = "val") -> tuple[int, int]:
    """Height and width of the image with the most pixels in `split`, as its records say."""
    stream = _records_in_order(_shard_paths(folder, dataset, split), tf.data.TFRecordDataset).map(_parse)
    sizes = _with_options(stream.map(lambda example: (example[IMAGE_HEIGHT], example[IMAGE_WIDTH])))
    height, width = max(sizes.as_numpy_iterator(), key=lambda size: int(size[0]) * int(size[1]))
    return int(height), int(width)


def validation_records(folder: str, dataset: Dataset, split: str = "val") -> tf.data.Dataset:
    """The records behind `validation_stream`, each behind the path of its shard; see `readable_records`."""
    return _records_in_order(_shard_paths(folder, dataset, split), _with_path)
