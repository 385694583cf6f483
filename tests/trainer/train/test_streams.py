"""The tf.data streams: what they give, to the pixel, and that they give it again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.drawn.records import PALETTE, draw_image, record, write_records
from trainer.formats import images
from trainer.options import InputError
from trainer.train import streams
from trainer.train.options import StreamOptions
from trainer.train.streams import TrainingStream, readable_records, validation_stream

OPTIONS = StreamOptions(crop=64, batch_size=2, seed=3)


def changed(**changes):
    return dataclasses.replace(OPTIONS, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven training images in three shards, five validation images of two sizes in two shards."""
    folder = tmp_path_factory.mktemp("records")
    train = [[record(i) for i in range(5)], [record(i) for i in range(5, 9)], [record(9), record(10)]]
    val = [[record(20), record(21, (80, 120)), record(22)], [record(23, (80, 120)), record(24)]]
    return str(folder), write_records(folder, {"train": train, "val": val})


def batches(folder, options=OPTIONS, epoch=1, count=4):
    return list(TrainingStream(*folder, options).epoch(epoch, count).as_numpy_iterator())


def test_batches_have_the_promised_shapes_and_types(folder):
    image, label = batches(folder, count=1)[0]
    assert (image.shape, image.dtype) == ((2, 64, 64, 3), np.uint8)
    assert (label.shape, label.dtype) == ((2, 64, 64), np.uint8)
    assert set(np.unique(label)) <= {0, 1, 2, 255}


def test_the_same_seed_and_epoch_give_the_same_batches_however_often(folder):
    first, second = batches(folder, count=8), batches(folder, count=8)
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "stream", [lambda *args: TrainingStream(*args, OPTIONS).epoch(1, 4), lambda *args: validation_stream(*args, 2)]
)
def test_the_end_of_a_stream_waits_for_no_thread_that_tunes_it(folder, stream):
    assert stream(*folder).options().autotune.enabled is False


@pytest.mark.parametrize("change", [{"epoch": 2}, {"options": changed(seed=4)}])
def test_another_epoch_or_seed_gives_other_batches(folder, change):
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(batches(folder), batches(folder, **change), strict=True))


def test_a_sample_is_varied_alike_whatever_batch_it_is_in(folder):
    stream = TrainingStream(*folder, OPTIONS)
    numbers = stream._uniforms(5, 400)
    np.testing.assert_array_equal(stream._uniforms(300, 7), numbers[295:302])
    assert numbers.dtype == np.float32 and 0 <= numbers.min() < 0.01 and 0.99 < numbers.max() < 1
    assert np.abs(np.corrcoef(numbers[1:].T, numbers[:-1].T) - np.eye(8)).max() < 0.2


def whole_images(**changes):
    """Options under which a training image is the record's image itself."""
    return changed(**({"crop": 96, "batch_size": 1, "scale_min": 1.0, "scale_max": 1.0, "flip": False} | changes))


def record_numbers(folder, epoch, count):
    """Which images the first `count` elements of an epoch are, recognised by their labels."""
    labels = {draw_image(i)[1].tobytes(): i for i in range(11)}
    return [labels[label[0].tobytes()] for _, label in batches(folder, whole_images(), epoch, count)]


def test_every_record_comes_once_before_any_comes_again(folder):
    assert sorted(record_numbers(folder, epoch=1, count=11)) == list(range(11))
    assert len(record_numbers(folder, epoch=1, count=25)) == 25


@pytest.mark.parametrize("window", [1, 16])
def test_short_epochs_see_every_record_before_any_comes_again(folder, monkeypatch, window):
    monkeypatch.setattr(streams, "_window_size", lambda *_: window)
    seen = [i for epoch in range(1, 5) for i in record_numbers(folder, epoch, 3)]
    assert sorted(seen[:11]) == list(range(11))


def test_at_scale_one_the_crop_is_the_image_as_pillow_decodes_it(folder):
    image, label = batches(folder, whole_images(), count=1)[0]
    index = next(i for i in range(11) if np.array_equal(draw_image(i)[1], label[0]))
    np.testing.assert_array_equal(image[0], images.decode_image(record(index).image))


def test_flip_mirrors_image_and_label_together_about_half_of_the_time(folder):
    plain = batches(folder, whole_images(), count=22)
    flipped = batches(folder, whole_images(flip=True), count=22)
    mirrored = 0
    for (image, label), (image2, label2) in zip(plain, flipped, strict=True):
        if np.array_equal(image, image2):
            np.testing.assert_array_equal(label, label2)
        else:
            mirrored += 1
            np.testing.assert_array_equal(image[:, :, ::-1], image2)
            np.testing.assert_array_equal(label[:, :, ::-1], label2)
    assert 4 <= mirrored <= 18


def test_a_small_image_is_padded_and_the_padding_ignored(tmp_path):
    dataset = write_records(tmp_path, {"train": [[record(0, (60, 70), "png")]]})
    options = changed(crop=96, batch_size=1, scale_min=1.0, scale_max=1.0, flip=False)
    places = set()
    for image, label in batches((str(tmp_path), dataset), options, count=6):
        outside = np.ones([96, 96], bool)
        rows, columns = np.nonzero((image[0] != images.PADDING).any(axis=-1))
        y, x = rows.min(), columns.min()
        outside[y : y + 60, x : x + 70] = False
        original, ids = draw_image(0, 60, 70)
        np.testing.assert_array_equal(image[0, y : y + 60, x : x + 70], original)
        np.testing.assert_array_equal(label[0, y : y + 60, x : x + 70], ids)
        assert (image[0][outside] == images.PADDING).all()
        assert (label[0][outside] == PALETTE.ignore_id).all()
        places.add((y, x))
    assert len(places) > 1, "the image always lies at the same place"


@pytest.mark.parametrize("scale", [0.6, 1.5, 2.0])
def test_scaled_images_stay_aligned_with_their_labels(tmp_path, scale):
    """Paint the label into the image: after any scaling, image and label must agree except at boundaries."""
    palette = dataclasses.replace(PALETTE, ignore_id=3)
    sample = record(1)
    _, label = draw_image(1)
    label[label == 255] = 0
    painted = np.repeat((label * 100)[..., None], 3, axis=2)
    sample = dataclasses.replace(
        sample, image=images.encode_png(painted), image_format="png", label=images.encode_png(label)
    )
    dataset = write_records(tmp_path, {"train": [[sample]]}, palette)
    options = changed(crop=64, batch_size=4, scale_min=scale, scale_max=scale)
    image, label = batches((str(tmp_path), dataset), options, count=1)[0]
    valid = label != 3
    shown = np.rint(image[..., 0] / 100)
    assert (shown == label)[valid].mean() > 0.97
    # A shift by half a pixel would make one side of every boundary wrong: errors must be as likely on either side.
    wrong = valid & (shown != label)
    assert wrong.sum() < 0.03 * valid.sum()


def test_validation_gives_every_image_whole_in_batches_of_one_size(folder):
    found = list(validation_stream(*folder, batch_size=2).as_numpy_iterator())
    assert sorted(image.shape for image, _ in found) == [(1, 96, 96, 3), (2, 80, 120, 3), (2, 96, 96, 3)]
    expected = {draw_image(i)[1].tobytes(): i for i in (20, 22, 24)}
    expected |= {draw_image(i, 80, 120)[1].tobytes(): i for i in (21, 23)}
    seen = []
    for image, label in found:
        assert (image.dtype, label.dtype) == (np.uint8, np.uint8)
        for one, ids in zip(image, label, strict=True):
            seen.append(expected[ids.tobytes()])
            sample = record(seen[-1], ids.shape)
            np.testing.assert_array_equal(one, images.decode_image(sample.image))
    assert sorted(seen) == [20, 21, 22, 23, 24]


def test_a_missing_split_is_refused_with_the_cure(tmp_path):
    dataset = write_records(tmp_path, {"train": [[record(0)]]})
    with pytest.raises(InputError, match="no records of split 'val', only of train; prepare it again"):
        validation_stream(str(tmp_path), dataset, batch_size=2)


def test_a_missing_shard_is_named(tmp_path):
    dataset = write_records(tmp_path, {"train": [[record(0)], [record(1)]]})
    (tmp_path / dataset.shards[1].name).unlink()
    with pytest.raises(InputError, match=r"train-00001-of-00002\.tfrecord in .* is missing"):
        TrainingStream(str(tmp_path), dataset, OPTIONS).epoch(1, 1)


@pytest.mark.parametrize("now", [[[record(0)], [record(2)]], [[record(2)]]], ids=["shorter", "fewer"])
def test_records_that_another_command_has_changed_since_are_not_called_damaged(tmp_path, now):
    before = write_records(tmp_path, {"train": [[record(0), record(1)], [record(2)]]})
    for shard in before.shards:
        (tmp_path / shard.name).unlink()
    write_records(tmp_path, {"train": now})
    with pytest.raises(InputError, match=r"the records in .* were changed by another command since this one began"):
        TrainingStream(str(tmp_path), before, OPTIONS).epoch(1, 1)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ([[record(2)]], r"the records in .* were changed by another command since this one began"),
        (None, r"a shard in .* is gone \(.*/train-0000.*: No such file or directory\); put it back, or run the same"),
    ],
    ids=["another command", "the shards alone"],
)
def test_shards_that_go_during_an_epoch_are_reported_with_the_cure(tmp_path, now, message):
    before = write_records(tmp_path, {"train": [[record(0), record(1)], [record(2)]]})
    stream = TrainingStream(str(tmp_path), before, OPTIONS)
    epoch = stream.epoch(1, 1)
    for shard in before.shards:
        (tmp_path / shard.name).unlink()
    if now:
        write_records(tmp_path, {"train": now})
    with (
        pytest.raises(InputError, match=message),
        readable_records(str(tmp_path), before, lambda: stream.records(1, 1, 0)),
    ):
        list(epoch)


@pytest.mark.parametrize("is_shard", [True, False])
def test_only_a_file_of_the_records_is_called_a_shard_that_is_gone(is_shard, tmp_path):
    """A checkpoint that is written between the steps is not."""
    dataset = write_records(tmp_path / "records", {"train": [[record(0)]]})
    path = tmp_path / ("records/train-00000-of-00002.tfrecord" if is_shard else "records-model/checkpoints/.a.tmp")
    error, said = FileNotFoundError, rf"No such file or directory: '{path}'"
    if is_shard:
        error, said = InputError, rf"a shard in .* is gone \({path}: No such file or directory\); put it back"
    with (
        pytest.raises(error, match=said),
        readable_records(str(tmp_path / "records"), dataset, lambda: iter(())),
    ):
        path.read_bytes()
