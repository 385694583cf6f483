"""How long an epoch is, and what its validation counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.drawn.records import PALETTE
from trainer.accounts import UnbalancedError
from trainer.formats.dataset import Dataset, Shard
from trainer.options import InputError
from trainer.train.epoch import enough_memory, steps_per_epoch, validate, validation_batch_size
from trainer.train.options import Options

OPTIONS = Options(records="records", output="model", batch_size=4, crop=64)


def shard(split: str, records: int, images: int, max_size: tuple[int, int] = (2, 3)) -> Shard:
    name = f"{split}-00000-of-00001.tfrecord"
    return Shard(name, split, records, images, 1, 0, "", (1, 1, 1), 0, (1, 1), max_size)


def dataset(*shards: Shard) -> Dataset:
    return Dataset(PALETTE, shards, {}, "fingerprint")


def stream(labels: np.ndarray) -> tf.data.Dataset:
    """One image, of zeros, for every label [n, 2, 3], in batches of two."""
    images = np.zeros((*labels.shape, 3), np.uint8)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)


def test_an_epoch_has_the_steps_that_the_images_fill_or_those_of_the_flag():
    records = dataset(shard("train", records=27, images=9), shard("val", 1, 1))
    assert steps_per_epoch(OPTIONS, records) == 3
    assert steps_per_epoch(dataclasses.replace(OPTIONS, steps_per_epoch=50), records) == 50


def test_an_epoch_of_records_whose_images_were_dropped_has_a_step():
    assert steps_per_epoch(OPTIONS, dataset(shard("train", records=2, images=0))) == 1


@pytest.mark.parametrize(("size", "expected"), [((64, 64), 4), ((64, 65), 3), ((32, 64), 8), ((1000, 1000), 1)])
def test_a_validation_batch_has_no_more_pixels_than_a_training_batch_but_one_image(size, expected):
    assert validation_batch_size(OPTIONS, dataset(shard("val", 9, 9, size))) == expected


def test_a_step_that_memory_does_not_hold_is_refused_with_the_cure():
    found = pytest.raises(InputError, match=r"a training step: give a smaller --batch-size \(OOM when allocating\)")
    with found, enough_memory("a training step", "give a smaller --batch-size"):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nmore")


def test_validation_counts_every_pixel_that_has_a_class():
    labels = np.uint8([[[0, 0, 1], [1, 2, 255]]] * 5)
    result = validate(lambda images: np.zeros(images.shape[:3], np.uint8), stream(labels), dataset(shard("val", 5, 5)))
    np.testing.assert_array_equal(result.confusion, [[10, 0, 0], [10, 0, 0], [5, 0, 0]])
    assert result.overlays.shape == (2, 2, 3, 3) and result.overlays.dtype == np.uint8


@pytest.mark.parametrize(("records", "difference"), [(6, "1 lost"), (3, "2 too many")])
def test_more_or_fewer_images_than_dataset_json_counts_are_an_error(records, difference):
    labels = np.zeros((5, 2, 3), np.uint8)
    predict = lambda images: np.zeros(images.shape[:3], np.uint8)
    with pytest.raises(UnbalancedError, match=rf"{records} records of split val != 5 validated.*{difference}"):
        validate(predict, stream(labels), dataset(shard("val", records, records)))


def test_labels_without_a_pixel_of_any_class_are_refused_with_the_cure():
    labels = np.full((1, 2, 3), 255, np.uint8)
    predict = lambda images: np.zeros(images.shape[:3], np.uint8)
    with pytest.raises(InputError, match=r"no pixel of any class.*other validation images"):
        validate(predict, stream(labels), dataset(shard("val", 1, 1)))
