"""Which images an export is calibrated and checked on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.drawn.records import record, write_records
from trainer.export import samples
from trainer.export.samples import Sample, drawn, image_paths, of_files, of_records
from trainer.formats import images
from trainer.options import InputError


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Three shards of 20 training images, every second one a copy, and one of 4 validation images."""

    def one(index):
        return dataclasses.replace(record(index, (56, 60), "png"), copy=index % 2)

    folder = tmp_path_factory.mktemp("many")
    train = [[one(20 * shard + i) for i in range(20)] for shard in range(3)]
    return str(folder), write_records(folder, {"train": train, "val": [[one(2 * i) for i in range(50, 54)]]}, copies=1)


def test_records_are_those_of_the_split_from_every_shard_without_copies(many, monkeypatch):
    folder, dataset = many
    monkeypatch.setattr(samples, "COUNT", 12)
    found = list(of_records(folder, dataset, "train"))
    originals = [
        images.decode_image(record(20 * shard + i, (56, 60), "png").image) for shard in range(3) for i in (0, 2, 4, 6)
    ]
    assert len(found) == 12
    for sample, image in zip(found, originals, strict=True):
        np.testing.assert_array_equal(sample.image, image)


def test_no_image_of_validation_is_calibrated_on(many):
    folder, dataset = many
    train, val = ({one.image.tobytes() for one in of_records(folder, dataset, split)} for split in ("train", "val"))
    assert len(train) == 30 and len(val) == 4 and not train & val


def test_a_damaged_record_is_named_with_what_finds_it(many, tmp_path):
    _, dataset = many
    for shard in dataset.shards:
        (tmp_path / shard.name).write_bytes(b"no record")
    with pytest.raises(InputError, match="`deeplab records verify"):
        list(of_records(str(tmp_path), dataset, "val"))


def test_of_a_large_sample_the_middle_is_checked():
    image, label = np.arange(2050 * 3).reshape(2050, 1, 3) % 256, np.zeros((2050, 1), np.uint8)
    label[1] = 1
    sample = Sample(image.astype(np.uint8), label).cut()
    assert sample.image.shape == (2048, 1, 3) and sample.image[0, 0].tolist() == [3, 4, 5]
    assert sample.label[:, 0].tolist() == [1] + [0] * 2047
    small = Sample(image[:5])
    np.testing.assert_array_equal(small.cut().image, image[:5])
    assert small.cut().label is None


def test_image_and_label_are_resized_together():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20] = 200
    label = (image[..., 0] > 100).astype(np.uint8)
    for size in ((20, 20), (80, 90)):
        sample = Sample(image, label).resized(size)
        assert sample.image.shape == (*size, 3) and set(np.unique(sample.label)) == {0, 1}
        np.testing.assert_array_equal(sample.label, sample.image[..., 0] > 100)
    assert Sample(image, label).resized((40, 60)).image is image


def test_images_are_found_in_folders_by_globs_and_alone_and_damaged_ones_left_out(tmp_path):
    image = next(drawn([(20, 30)])).image
    (tmp_path / "deep").mkdir()
    for name in ("a.png", "deep/b.png"):
        (tmp_path / name).write_bytes(images.encode_png(image))
    (tmp_path / "c.png").write_bytes(b"damaged")
    (tmp_path / "notes.txt").write_text("none")
    assert len(image_paths(str(tmp_path))) == 3 and len(image_paths(f"{tmp_path}/*.png")) == 2
    assert image_paths(str(tmp_path / "a.png")) == [str(tmp_path / "a.png")]
    assert len(list(of_files(image_paths(str(tmp_path))))) == 2
    with pytest.raises(InputError, match="found no image"):
        image_paths(str(tmp_path / "none"))
    with pytest.raises(InputError, match=rf"no image of it can be read, such as {tmp_path}/c\.png; give others"):
        image_paths(str(tmp_path / "c.png"))
