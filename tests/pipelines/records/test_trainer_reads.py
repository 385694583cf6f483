"""What `deeplab records verify` calls good is what training reads, whatever was done to the bytes."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image

from tests.drawn.prepared import records
from tests.drawn.records import PALETTE, draw_image, record, write_records
from trainer.formats import images, label_images
from trainer.formats.dataset import load_dataset
from trainer.train import crops, streams

IMAGE, LABEL = draw_image(3, 64, 80)


def saved(pixels: np.ndarray, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


SOURCES = {
    "jpeg": images.encode_jpeg(IMAGE),
    "progressive jpeg": saved(IMAGE, "JPEG", progressive=True),
    "grey jpeg": saved(IMAGE[..., 0], "JPEG"),
    "jpeg with restarts": saved(IMAGE, "JPEG", restart_marker_blocks=3),
    "png": images.encode_png(IMAGE),
    "png of Pillow": saved(IMAGE, "PNG"),
    "grey png": saved(IMAGE[..., 0], "PNG"),
}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, one bit flipped, some bytes replaced, some lost, the last ones replaced, or something added."""
    place, count = int(rng.integers(len(data))), int(rng.integers(1, 40))
    flipped = bytearray(data)
    flipped[place] ^= 1 << int(rng.integers(8))
    kinds = [
        data[:place],
        bytes(flipped),
        data[:place] + rng.bytes(count) + data[place + count :],
        data[:place] + data[place + count :],
        data[:-count] + bytes(count + 20),
        data + rng.bytes(count),
    ]
    return kinds[int(rng.integers(len(kinds)))]


def reads(decode, data: bytes) -> bool:
    try:
        decode(data)
        return True
    except (ValueError, images.ImageError):
        return False


@pytest.mark.parametrize("name", SOURCES)
def test_no_damaged_image_is_good_that_training_dies_on(name):
    rng = np.random.default_rng(5)
    sample = [SOURCES[name], *(damaged(SOURCES[name], rng) for _ in range(150))]
    good = [reads(images.decode_image, data) for data in sample]
    readable = [reads(crops.decode_image, data) for data in sample]
    assert good[0] and not all(readable)
    assert not [data for data, is_good, is_read in zip(sample, good, readable, strict=True) if is_good > is_read]
    if "png" in name:
        assert good == readable


def test_no_damaged_label_is_good_that_training_dies_on():
    rng, label = np.random.default_rng(6), images.encode_png(LABEL)
    for data in [label, *(damaged(label, rng) for _ in range(200))]:
        assert reads(label_images.decode_label, data) == reads(crops.decode_label, data)


def test_a_whole_set_is_good_just_where_training_reads_it(tmp_path, capsys):
    rng, sound = np.random.default_rng(7), record(0, (64, 80), "png")
    for number in range(5):
        folder = tmp_path / str(number)
        data = damaged(sound.image, rng) if number else sound.image
        write_records(folder, {"val": [[dataclasses.replace(sound, image=data)]]})
        records("verify", folder)
        is_good = "1 good + 0 damaged" in capsys.readouterr().out
        try:
            list(streams.validation_stream(str(folder), load_dataset(str(folder)), 1))
            is_read = True
        except tf.errors.InvalidArgumentError:
            is_read = False
        assert is_good == is_read


def turned() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return saved(IMAGE, "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"image": turned(), "image_format": "jpeg"}, "orientation 6, which the trainer does not apply"),
        ({"label": saved(LABEL, "TIFF")}, "label is tiff of mode L and 8 bits"),
        ({"label": saved(LABEL.astype(np.uint16), "PNG")}, "label is png of mode I;16 and 16 bits"),
        ({"label": saved(np.repeat(LABEL[..., None], 3, 2), "PNG")}, "label is png of mode RGB and 8 bits"),
    ],
)
def test_what_training_reads_in_another_way_is_a_fault(tmp_path, capsys, change, fault):
    write_records(tmp_path, {"train": [[dataclasses.replace(record(0, (64, 80), "png"), **change)]]})
    assert records("verify", tmp_path) == 1
    assert fault in capsys.readouterr().out


def test_a_palette_png_as_label_is_a_fault_since_training_reads_its_colours(tmp_path, capsys):
    label = PALETTE.encode_mask(LABEL)
    assert not np.array_equal(crops.decode_label(label), LABEL)
    write_records(tmp_path, {"train": [[dataclasses.replace(record(0, (64, 80), "png"), label=label)]]})
    assert records("verify", tmp_path) == 1
    assert "label is png of mode P and 8 bits, which the trainer does not read as ids" in capsys.readouterr().out


def test_shards_beyond_five_digits_are_read_by_all_verbs_and_by_training(tmp_path, capsys):
    write_records(tmp_path / "records", {"val": [[record(0, (64, 80))], [record(1, (64, 80))]]})
    for number in range(2):
        name, longer = f"val-0000{number}-of-00002.tfrecord", f"val-10000{number}-of-100002.tfrecord"
        (tmp_path / "records" / name).rename(tmp_path / "records" / longer)
        path = tmp_path / "records/dataset.json"
        path.write_text(path.read_text().replace(name, longer))
    folder = tmp_path / "records"
    assert records("ls", folder) == records("show", folder, "--record", "001") == 0
    assert records("export", folder, tmp_path / "raw") == records("stats", folder) == 0
    records("verify", folder)
    out = capsys.readouterr().out
    assert "val-100001-of-100002.tfrecord" in out and "2 records = 2 good + 0 damaged + 0 missing" in out
    assert len(list(streams.validation_stream(str(folder), load_dataset(str(folder)), 1))) == 2
